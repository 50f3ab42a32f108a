"""The folder of an index: what is in it, what it says of itself, and a copy of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from index_tools import DIMENSION, bag_of_words

from nbce_rag import Passage
from nbce_rag.errors import EmbedderMismatchError, IndexDamagedError, IndexNotFoundError, PassageIndexError
from nbce_rag.index import IndexFolder, PassageIndex
from nbce_rag.index.folder import Description


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add([Passage("Cats purr.", id="cat"), Passage("Dogs bark.", id="dog")])
    return IndexFolder(tmp_path / "index")


def test_what_lies_in_it(folder: IndexFolder, tmp_path: Path) -> None:
    assert folder.path == tmp_path / "index"
    assert folder.has_index()
    assert folder.database.is_file()
    assert folder.kv == folder.path / "kv"
    assert not IndexFolder(tmp_path).has_index()


def test_what_it_says_of_itself(folder: IndexFolder, tmp_path: Path) -> None:
    assert folder.describe() == Description("bag_of_words", by_name=False, dimension=DIMENSION)
    with pytest.raises(IndexNotFoundError, match="no passage index"):
        IndexFolder(tmp_path / "none").describe()
    folder.database.write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexDamagedError):
        folder.describe()


def test_a_copy_has_what_was_just_written(folder: IndexFolder, tmp_path: Path) -> None:
    with PassageIndex.open(folder.path, bag_of_words) as index:
        index.add([Passage("Snakes hiss.", id="snake")])  # which is in SQLite's log as yet
        copy = folder.copy(tmp_path / "copies" / "one")
    assert [file.name for file in copy.path.iterdir()] == [copy.database.name]
    with PassageIndex.open(copy.path, bag_of_words) as other:
        assert {passage.id for passage in other} == {"cat", "dog", "snake"}
        assert other.search("hiss", k=1)[0].id == "snake"
        assert other.check().ok


def test_a_copy_has_the_calibration(folder: IndexFolder, tmp_path: Path) -> None:
    folder.calibration.write_text("{}")
    copy = folder.copy(tmp_path / "copy")
    assert copy.calibration.read_text() == "{}"
    assert {file.name for file in copy.path.iterdir()} == {copy.database.name, copy.calibration.name}


def test_a_copy_overwrites_nothing(folder: IndexFolder, tmp_path: Path) -> None:
    with pytest.raises(PassageIndexError, match="already"):
        folder.copy(folder.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(PassageIndexError, match=r"letter\.txt"):
        folder.copy(tmp_path / "mine")
    with pytest.raises(IndexNotFoundError):
        IndexFolder(tmp_path / "none").copy(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_maintenance_needs_no_embedder_until_it_embeds(folder: IndexFolder) -> None:
    with pytest.raises(EmbedderMismatchError, match="give it"):
        PassageIndex.open(folder.path)
    with PassageIndex.open(folder.path, maintenance=True) as index:
        assert index.check().ok
        index.rebuild()
        index.compact("flat")
        assert index.embedder_name == "bag_of_words"
        with pytest.raises(EmbedderMismatchError, match="not here"):
            index.search("cats")
    with pytest.raises(EmbedderMismatchError):  # one that is given has to be the right one all the same
        PassageIndex.open(folder.path, lambda texts: [[1.0, 2.0]] * len(texts), maintenance=True)


def test_looking_at_a_folder_loads_nothing_heavy(folder: IndexFolder) -> None:
    code = (
        "import sys; from nbce_rag.index import IndexFolder; "
        f"assert IndexFolder({str(folder.path)!r}).has_index(); "
        "assert not {'faiss', 'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
