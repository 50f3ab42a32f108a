"""The FAISS file of an index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import pytest
from index_tools import ANIMALS, bag_of_words, damage, ids, open_again

from nbce_rag.index import PassageIndex
from nbce_rag.index.storage import Storage
from nbce_rag.index.vectors import VectorCache, saved_commit
from nbce_rag.passages import Passage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(path: Path) -> Iterator[PassageIndex]:
    with PassageIndex.create(path, bag_of_words) as made:
        yield made


class TestFaissFile:
    """The FAISS file is a copy: whatever happens to it, no result changes."""

    def test_is_written_and_read(
        self, index: PassageIndex, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.add(ANIMALS)
        index.close()
        monkeypatch.setattr(VectorCache, "put", lambda *args: pytest.fail("made anew"))
        with open_again(path) as again:
            assert again.search("cats purr", k=1)[0].id == "cat"

    @pytest.mark.parametrize("how", ["truncated", "no trailer", "empty", "flipped bits", "random", "longer"])
    def test_damage_is_found_and_mended(self, index: PassageIndex, path: Path, how: str) -> None:
        index.add(ANIMALS)
        expected = index.search("cats purr and birds sing")
        index.close()
        damage(path / "vectors.faiss", how)
        with open_again(path) as again:
            assert again.search("cats purr and birds sing") == expected
        assert faiss.read_index(str(path / "vectors.faiss")).ntotal == 3

    def test_missing(self, index: PassageIndex, path: Path) -> None:
        index.add(ANIMALS)
        expected = index.search("birds")
        index.close()
        (path / "vectors.faiss").unlink()
        with open_again(path) as again:
            assert again.search("birds") == expected
        assert (path / "vectors.faiss").exists()

    def test_older_and_newer_and_foreign(self, index: PassageIndex, path: Path, tmp_path: Path) -> None:
        index.add(ANIMALS)
        index.close()
        files = path / "vectors.faiss", path / "passages.sqlite"
        old = [file.read_bytes() for file in files]
        with open_again(path) as again:
            again.delete("cat")
            again.add([Passage("snakes hiss", id="snake"), Passage("dogs howl", id="dog")])
            expected = again.search("dogs and cats and snakes hiss")
        new = [file.read_bytes() for file in files]
        assert sorted(ids(expected)) == ["bird", "dog", "snake"]

        files[0].write_bytes(old[0])  # older than SQLite
        with open_again(path) as again:
            assert again.search("dogs and cats and snakes hiss") == expected

        files[0].write_bytes(new[0])  # newer than SQLite: a backup was restored
        files[1].write_bytes(old[1])
        with open_again(path) as again:
            assert sorted(ids(again.search("dogs"))) == ["bird", "cat", "dog"]

        with open_again(path) as again:  # another history, grown to the same number of commits
            again.delete("bird")
            again.add([Passage("fish swim", id="fish")])
        files[0].write_bytes(new[0])
        with open_again(path) as again:
            assert sorted(ids(again.search("dogs"))) == ["cat", "dog", "fish"]

        with PassageIndex.create(tmp_path / "other", bag_of_words) as other:
            other.add([Passage("worms dig", id=f"worm{i}") for i in range(3)])
        shutil.copy(tmp_path / "other" / "vectors.faiss", files[0])
        with open_again(path) as again:
            assert sorted(ids(again.search("dogs"))) == ["cat", "dog", "fish"]

    def test_only_changes_are_read_from_sqlite(
        self, index: PassageIndex, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.add(ANIMALS)
        with open_again(path) as reader:
            reader.search("cats")
            read: list[int] = []
            inner = Storage.vectors_since

            def vectors_since(self: Storage, commit: int, dimension: int) -> Any:
                for keys, vectors in inner(self, commit, dimension):
                    read.extend(keys.tolist())
                    yield keys, vectors

            monkeypatch.setattr(Storage, "vectors_since", vectors_since)
            index.add([Passage("snakes hiss", id="snake"), Passage("dogs howl", id="dog")])
            read.clear()
            assert len(reader.search("dogs howl")) == 4
            assert len(read) == 2
            index.delete("cat")
            read.clear()
            assert len(reader.search("dogs howl")) == 3
            assert read == []

    def test_is_not_written_for_every_little_change(self, index: PassageIndex, path: Path) -> None:
        index.add(Passage(f"word{i}", id=str(i)) for i in range(200))
        file = path / "vectors.faiss"
        identity = index._vectors._identity
        before = saved_commit(file, identity)
        assert before is not None
        index.add([Passage("one more", id="more")])
        index.delete("7")
        assert saved_commit(file, identity) == before
        index.close()
        with open_again(path) as again:
            found = ids(again.search("one more word", k=500))
            assert len(found) == 200
            assert "more" in found
            assert "7" not in found

    def test_a_full_disk_loses_nothing(
        self, index: PassageIndex, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            index.add(ANIMALS)
            assert len(index.search("cats")) == 3
            index.close()
        assert sorted(os.listdir(path)) == ["passages.sqlite"]
        with open_again(path) as again:
            assert len(again.search("cats")) == 3

    @pytest.mark.parametrize("where", ["nbce_rag.index.vectors.VectorCache.save", "os.replace", "os.fsync"])
    def test_a_crash_between_the_two_files_loses_nothing(self, path: Path, where: str) -> None:
        owner, _, name = where.rpartition(".")
        code = f"""
import importlib, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from index_tools import ANIMALS, bag_of_words
from nbce_rag import Passage, PassageIndex
import nbce_rag.index.vectors
index = PassageIndex.create({str(path)!r}, bag_of_words)
index.add(ANIMALS[:1])
owner = {"nbce_rag.index.vectors.VectorCache" if "Cache" in owner else "os"}
setattr(owner, {name!r}, lambda *args: os._exit(7))
index.add(ANIMALS[1:])
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 7, done.stderr
        with open_again(path) as again:
            assert list(again) == ANIMALS
            assert len(again.search("dogs bark", k=9)) == 3
            assert again.search("dogs bark", k=1)[0].id == "dog"
