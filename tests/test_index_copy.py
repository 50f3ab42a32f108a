"""An index that moves from a folder to a database and back is the same index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tools import ANIMALS, bag_of_words, count_embedded, open_again
from postgres_tools import beside
from typer.testing import CliRunner

from nbce_rag.cli.main import app
from nbce_rag.errors import PassageIndexError
from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage

ODD = [
    Passage(text, id=text, title=text, source=text, metadata={text: [text, None, 1.5, 2**70, {"a": True}]})
    for text in ("nul \0 inside", "水在100度沸腾。", "\ufdef0", "line\r\nends\\u0000", "'quote\" %s")
]


def filled(place: Path | str, docs: Path) -> PassageIndex:
    index = PassageIndex.create(place, bag_of_words)
    rng = np.random.default_rng(3)
    index.add(ODD)
    index.add([Passage(f"word{n}", id=f"{n}") for n in range(1500)], vectors=rng.normal(size=(1500, 32)))
    index.add(ANIMALS)
    index.delete("7")
    docs.mkdir()
    (docs / "a.txt").write_text("Cows low.")
    index.add_files([docs])
    return index


def test_there_and_back(place: Path | str, postgres_url: str, tmp_path: Path) -> None:
    places: list[Path | str] = [postgres_url + "there", tmp_path / "back"]
    with filled(place, tmp_path / "docs") as first:
        passages = list(first)
        names = [passage.id for passage in passages]
        vectors, entries = first.vectors(names), first.source_entries()
        expected = first.search("cats purr word3", 20)
        copied: list[int] = []
        assert first.copy_to(places[0], progress=lambda done, total: copied.append(total)) == len(passages)
        assert set(copied) == {len(passages)}
        with open_again(places[0]) as there:
            there.copy_to(places[1])
    for other in places:
        with open_again(other) as index:
            assert list(index) == passages
            assert {name: v.tobytes() for name, v in index.vectors(names).items()} == {
                name: v.tobytes() for name, v in vectors.items()
            }
            assert index.source_entries() == entries
            assert index.search("cats purr word3", 20) == expected
            assert index.check().ok
            embedded = count_embedded(index)
            assert index.add_files([tmp_path / "docs"]).files_unchanged == 1
            assert index.add(passages) == 0
            assert embedded == []


def test_a_copy_goes_to_a_new_place(place: Path | str, tmp_path: Path) -> None:
    with PassageIndex.create(place, bag_of_words) as index:
        index.add(ANIMALS)
        with pytest.raises(PassageIndexError, match=r"There is an index at .* already"):
            index.copy_to(place)
        assert len(index) == 3
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "mine.txt").write_text("mine")
        with pytest.raises(PassageIndexError, match="not empty and no index"):
            index.copy_to(tmp_path / "taken")


def test_a_copy_that_was_interrupted_is_made_again(place: Path | str, tmp_path: Path) -> None:
    target = beside(place, "copy")
    with filled(place, tmp_path / "docs") as index:

        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index.copy_to(target, progress=interrupt)
        with open_again(target) as copy:
            assert len(copy) == 0
        assert index.copy_to(target) == len(index)
        with open_again(target) as copy:
            assert list(copy) == list(index)


def test_how_vectors_are_held_goes_along_where_it_can(postgres_url: str, tmp_path: Path) -> None:
    def factory(index: PassageIndex) -> Any:
        with index._storage.read():
            return index._storage.meta()["factory"]

    with PassageIndex.create(tmp_path / "index", bag_of_words, factory="hnsw") as index:
        index.add(ANIMALS)
        index.copy_to(postgres_url)
        index.compact("sq8")
        index.copy_to(postgres_url + "b")
    with open_again(postgres_url) as index:
        assert factory(index) == "hnsw"
        index.compact("hnsw-halfvec")
        index.copy_to(tmp_path / "back")
    with open_again(postgres_url + "b") as index, open_again(tmp_path / "back") as back:
        assert (factory(index), factory(back)) == ("auto", "auto")


def test_the_command(place: Path | str) -> None:
    with PassageIndex.create(place, bag_of_words) as index:
        index.add(ANIMALS)
    target = str(beside(place, "copy"))
    result = CliRunner().invoke(app, ["index", "--index", str(place), "--copy-to", target])
    assert (result.exit_code, result.stdout) == (0, "Passages: 3 copied.\n")
    with open_again(target) as copy:
        assert list(copy) == ANIMALS
    result = CliRunner().invoke(app, ["index", "--index", str(place), "--copy-to", target])
    assert result.exit_code != 0
    assert "already" in result.stderr
    result = CliRunner().invoke(app, ["index", "a.txt", "--index", str(place), "--copy-to", target])
    assert result.exit_code != 0
    assert "--copy-to goes with --index alone" in result.stderr
