"""The FAISS files of an index: written when they are due, and never what an answer depends on."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_tools import ANIMALS, bag_of_words, damage, ids, open_again

from nbce_rag.errors import IndexDamagedError, InputError, PassageIndexError
from nbce_rag.index import PassageIndex
from nbce_rag.index.sqlite.storage import Storage
from nbce_rag.index.vectors import compaction as maintenance_module
from nbce_rag.passages import Passage

HOWS = ["truncated", "no trailer", "empty", "flipped bits", "random", "longer"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(path: Path) -> Iterator[PassageIndex]:
    with PassageIndex.create(path, bag_of_words) as made:
        yield made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are due after ten vectors."""
    monkeypatch.setattr(maintenance_module, "_TAIL", 10)


def files(path: Path) -> list[Path]:
    return sorted(path.glob("vectors-*.faiss"))


def words(start: int, stop: int) -> list[Passage]:
    return [Passage(f"word{n} number{n % 7}", id=f"{n:04}") for n in range(start, stop)]


class TestFiles:
    def test_a_compacted_index_reads_no_vectors_from_sqlite(
        self, index: PassageIndex, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.add(ANIMALS)
        index.compact()
        index.close()
        monkeypatch.setattr(Storage, "_arrays", lambda *args: pytest.fail("read"))
        with open_again(path) as again:
            assert again.search("cats purr", k=1)[0].id == "cat"

    @pytest.mark.parametrize("how", HOWS)
    def test_damage_is_found_and_mended(self, index: PassageIndex, path: Path, how: str) -> None:
        index.add(ANIMALS)
        index.compact()
        expected = index.search("cats purr and birds sing")
        index.close()
        (file,) = files(path)
        damage(file, how)
        with open_again(path) as again:
            assert again.search("cats purr and birds sing") == expected
            assert not again.check().ok
            again.rebuild()
            assert again.check().ok
            assert again.search("cats purr and birds sing") == expected
        assert files(path) != [file]

    def test_missing_and_of_another_index(self, index: PassageIndex, path: Path, tmp_path: Path) -> None:
        index.add(ANIMALS)
        index.compact()
        expected = index.search("birds")
        index.close()
        (file,) = files(path)
        with PassageIndex.create(tmp_path / "other", bag_of_words) as other:
            other.add([Passage("worms dig", id=f"worm{i}") for i in range(3)])
            other.compact()
        file.unlink()
        with open_again(path) as again:
            assert again.search("birds") == expected
        shutil.copy(next(iter(files(tmp_path / "other"))), file)
        with open_again(path) as again:
            assert again.search("birds") == expected

    def test_a_copied_folder_opens(self, index: PassageIndex, path: Path, tmp_path: Path) -> None:
        index.add(ANIMALS)
        index.compact()
        index.close()
        shutil.copytree(path, tmp_path / "copy", copy_function=shutil.copy)
        with open_again(tmp_path / "copy") as copy:
            assert copy.check().ok
            assert copy.search("cats purr", k=1)[0].id == "cat"

    def test_a_restored_backup(self, index: PassageIndex, path: Path) -> None:
        index.add(ANIMALS)
        index.compact()
        index.close()
        backup = (path / "passages.sqlite").read_bytes()
        with open_again(path) as again:
            again.delete("cat")
            again.add([Passage("snakes hiss", id="snake")])
            again.compact()
        (path / "passages.sqlite").write_bytes(backup)  # whose file of vectors is no longer there
        with open_again(path) as again:
            assert sorted(ids(again.search("dogs"))) == ["bird", "cat", "dog"]
            again.add([Passage("fish swim", id="fish")])
            assert sorted(ids(again.search("dogs"))) == ["bird", "cat", "dog", "fish"]

    def test_a_small_change_writes_no_file(self, index: PassageIndex, path: Path, small: None) -> None:
        index.add(words(0, 400))
        before = [(file.name, file.stat().st_mtime_ns) for file in files(path)]
        assert len(before) == 1
        index.add(words(400, 405))
        index.delete("0007")
        assert [(file.name, file.stat().st_mtime_ns) for file in files(path)] == before
        index.add(words(405, 420))
        assert before[0][0] in {file.name for file in files(path)}  # too few to be merged with it
        with open_again(path) as again:
            found = ids(again.search("word400 number1", k=1000))
            assert sorted(found) == [p.id for p in words(0, 420) if p.id != "0007"]

    def test_dead_vectors_go_with_a_compaction(self, index: PassageIndex, path: Path) -> None:
        index.add(words(0, 50))
        index.compact()
        index.delete(f"{n:04}" for n in range(10))
        (segment,) = index.check().segments
        assert (segment["vectors"], segment["removed"]) == (50, 10)
        index.compact()
        (segment,) = index.check().segments
        assert (segment["vectors"], segment["removed"]) == (40, 0)
        assert len(index.search("word1", k=100)) == 40
        index.delete(where={"id": {"$exists": True}})
        index.compact()
        assert files(path) == []
        assert index.search("word1") == []

    def test_abandoned_files_are_removed(self, index: PassageIndex, path: Path) -> None:
        abandoned = {f"vectors-{0:032x}.faiss", f"vectors-{1:032x}.faiss.tmp"}
        others = {"vectors.faiss", "vectors-backup-2024.faiss", "vectors_notes.tmp", "vectors-x.faiss.tmp"}
        for name in abandoned | others:
            (path / name).write_bytes(b"")
            os.utime(path / name, (0, 0))
        fresh = f"vectors-{2:032x}.faiss"
        (path / fresh).write_bytes(b"")
        (path / "notes.txt").write_bytes(b"")
        index.add(ANIMALS)
        index.compact()
        assert {file.name for file in path.iterdir()} >= {fresh, "notes.txt", *others}
        assert not abandoned & set(os.listdir(path))

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
    def test_a_full_disk_loses_nothing(
        self, index: PassageIndex, path: Path, monkeypatch: pytest.MonkeyPatch, code: int, small: None
    ) -> None:
        def full(*args: Any) -> None:
            raise OSError(code, os.strerror(code))

        index.add(words(0, 5))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            index.add(words(5, 50))  # of which a file would be due
            assert len(index.search("word", k=99)) == 50
            with pytest.raises(PassageIndexError, match=rf"{os.strerror(code)}.*intact"):
                index.compact()
        assert files(path) == []
        index.compact()
        assert len(files(path)) == 1

    def test_a_full_database_says_so(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        connection = index._storage._connection  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
        with pytest.raises(PassageIndexError, match=r"full.*free space.*intact"):
            index.add(words(0, 200))
        assert list(index) == ANIMALS
        assert index.check().ok

    @pytest.mark.parametrize(
        "where", ["os.replace", "os.fsync", "nbce_rag.index.sqlite.storage.Storage.replace_segments"]
    )
    def test_a_crash_between_the_two_files_loses_nothing(self, path: Path, where: str) -> None:
        owner, _, name = where.rpartition(".")
        code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from index_tools import ANIMALS, bag_of_words
from nbce_rag import PassageIndex
from nbce_rag.index.sqlite.storage import Storage
index = PassageIndex.create({str(path)!r}, bag_of_words)
index.add(ANIMALS)
setattr({owner.rpartition(".")[2]}, {name!r}, lambda *args: os._exit(7))
index.compact()
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 7, done.stderr
        with open_again(path) as again:
            assert again.check().ok
            assert list(again) == ANIMALS
            assert again.search("dogs bark", k=1)[0].id == "dog"


class TestFactories:
    @pytest.mark.parametrize(
        "factory", ["flat", "fp16", "sq8", "sq4", "hnsw", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4fs"]
    )
    def test_every_kind_finds_filters_and_grows(self, path: Path, factory: str, small: None) -> None:
        own = np.random.default_rng(1)
        vectors = own.standard_normal((700, 16)).astype(np.float32)
        passages = [Passage(f"text {n}", id=f"{n:03}", metadata={"n": n}) for n in range(700)]
        embedder = _given(16)
        with PassageIndex.create(path, embedder, factory=factory) as index:
            with index.bulk():
                index.add(passages[:600], vectors=vectors[:600])
            index.compact()
            (segment,) = index.check().segments
            if "PQ" not in factory:  # which wants more vectors for its words
                assert segment["factory"] != "Flat" or factory == "flat"
            assert segment["recall"] > 0.9
            index.add(passages[600:], vectors=vectors[600:])
            index.delete(["000", "001", "650"])
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        with PassageIndex.open(path, embedder) as index:
            assert index.check().ok
            living = np.array([n for n in range(700) if n not in (0, 1, 650)])
            hits = 0
            for query in units[living[:50]]:
                found = index.search(query, 10)
                exact = living[np.argsort(-(units[living] @ query), kind="stable")[:10]]
                hits += len({int(p.id) for p in found} & set(exact.tolist()))
                for passage in found:  # whatever form is stored, the score is the cosine
                    assert passage.score == pytest.approx(float(units[int(passage.id)] @ query), abs=1e-6)
            assert hits / 500 > 0.9
            narrow = index.search(units[5], 10, {"n": {"$gte": 1, "$lt": 9}})
            among = np.arange(2, 9)
            assert [int(p.id) for p in narrow] == among[np.argsort(-(units[among] @ units[5]))].tolist()

    def test_options(self, path: Path) -> None:
        vectors = np.random.default_rng(1).standard_normal((600, 16)).astype(np.float32)
        with PassageIndex.create(path, _given(16), factory="IVF8,Flat") as index:
            index.add([Passage(f"text {n}", id=f"{n:03}") for n in range(600)], vectors=vectors)
            index.compact()
            assert index.check().segments[0]["options"]["nprobe"] <= 8
            every = index.search(vectors[0], 600, options={"nprobe": 8})
            assert len(every) == 600
            assert len(index.search(vectors[0], 600, options={"nprobe": 1})) < 600
            wrong: list[dict[str, Any]] = [{"nprobe": 0}, {"nprobe": 1.5}, {"speed": 3}]
            for options in wrong:
                with pytest.raises(InputError, match=r"nprobe|speed"):
                    index.search(vectors[0], options=options)
            index.compact("flat")
            assert index.check().segments[0]["factory"] == "Flat"
            assert len(index.search(vectors[0], 600)) == 600

    @pytest.mark.parametrize("factory", ["nonsense", "PQ7", "IVFx"])
    def test_what_faiss_cannot_make(self, path: Path, factory: str) -> None:
        with pytest.raises(InputError, match=r"is none for 16 dimensions.*auto, flat"):
            PassageIndex.create(path, _given(16), factory=factory)
        assert not path.exists()

    def test_automatic_by_size(self) -> None:
        from nbce_rag.index.vectors.factories import resolve

        assert resolve("auto", 199_999, 384) == "Flat"
        assert resolve("auto", 10**6, 384) == "IVF2048,SQ8"
        assert resolve("ivf", 100, 384) == "Flat"  # too few to train with


class TestFuzz:
    """Whatever a file holds, the answer is right or an error; it never crashes."""

    def test_a_schema_that_is_no_text(self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        """SQLite's message quotes it, so that even the message cannot be read."""
        shutil.copytree(_base(tmp_path_factory), tmp_path / "index")
        file = tmp_path / "index" / "passages.sqlite"
        content = file.read_bytes()
        damaged = content.replace(b"CREATE TABLE", b"CREATE T\xcb\xff\xfeE")
        assert damaged != content
        file.write_bytes(damaged)
        with pytest.raises(IndexDamagedError, match="is damaged"):
            open_again(tmp_path / "index")

    @settings(
        max_examples=int(os.environ.get("NBCE_FUZZ_EXAMPLES", "40")),
        derandomize="NBCE_FUZZ_EXAMPLES" not in os.environ,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_files(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        base = _base(tmp_path_factory)
        path = tmp_path_factory.mktemp("fuzz") / "index"
        shutil.copytree(base, path)
        name = data.draw(st.sampled_from(["passages.sqlite", files(path)[0].name]))
        content = bytearray((path / name).read_bytes())
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        else:
            for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)):
                content[place] ^= data.draw(st.integers(1, 255))
        (path / name).write_bytes(bytes(content))
        texts = {p.id: p.text for p in words(0, 40)}
        try:
            with open_again(path) as index:
                found = index.search("word3 number3", k=40)
                stored = {id_: index.get(id_) for id_ in texts}
                filtered = index.search("word3 number3", where={"id": "0003"})
        except PassageIndexError:
            assert name == "passages.sqlite"
            return
        assert {p.id: p.text for p in found} == texts
        assert found[0].id == "0003"
        assert [found[0].score] == pytest.approx([1.0])
        for id_, passage in stored.items():  # a damaged index of ids may miss one
            assert passage is None or passage.text == texts[id_]
        assert ids(filtered) in (["0003"], [])


def _given(dimension: int) -> Any:
    class Given:
        name = "given"

        def __init__(self) -> None:
            self.dimension = dimension

        def embed(self, texts: Any) -> Any:
            raise NotImplementedError

        def embed_query(self, text: str) -> Any:
            raise NotImplementedError

    return Given()


def _base(factory: pytest.TempPathFactory) -> Path:
    path = factory.getbasetemp() / "fuzzed" / "index"
    if not path.exists():
        with PassageIndex.create(path, bag_of_words) as index:
            index.add(words(0, 30))
            index.compact()
            index.add(words(30, 40))
        with sqlite3.connect(path / "passages.sqlite") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path
