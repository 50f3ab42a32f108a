"""An index that trusts nothing: crafted and damaged folders, readers without rights, folders that go."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from index_tools import ANIMALS, bag_of_words, ids, open_again

from nbce_rag.errors import IndexDamagedError, NbceError, PassageIndexError
from nbce_rag.index import IndexFolder, PassageIndex
from nbce_rag.index.vectors import segments
from nbce_rag.index.vectors.block import Block
from nbce_rag.passages import Passage

FERRIES = [Passage(f"the ferry {n} leaves", id=f"p{n}", metadata={"year": n}) for n in range(60)]
NOBODY = 65_534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add(FERRIES)
        index.compact()
    return tmp_path / "index"


def change(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path / "passages.sqlite")) as connection, connection:
        connection.execute(statement, values)


# What the database says


@pytest.mark.parametrize("how", ["add", "compact", "factory", "rebuild", "search"])
@pytest.mark.parametrize("name", ["../thesis.doc", "{folder}/thesis.doc", "kv/x.safetensors", "", None, 7])
def test_no_file_but_its_own_is_touched(path: Path, tmp_path: Path, how: str, name: Any) -> None:
    thesis = tmp_path / "thesis.doc"
    thesis.write_text("mine")
    if isinstance(name, str):
        name = name.format(folder=tmp_path)
    with suppress(sqlite3.IntegrityError):
        change(path, "UPDATE segments SET name = ?", name)
    calls: dict[str, Callable[[PassageIndex], object]] = {
        "add": lambda index: index.add([Passage(f"new {n}") for n in range(5000)]),
        "compact": lambda index: index.compact(),
        "factory": lambda index: index.compact("fp16"),
        "rebuild": lambda index: index.rebuild(),
        "search": lambda index: index.search("ferry"),
    }
    with open_again(path) as index:
        if name is not None:
            assert any("--rebuild" in problem for problem in index.check().problems)
        with suppress(IndexDamagedError):
            calls[how](index)
        assert thesis.read_text() == "mine"
        index.rebuild()
        assert index.check().ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE segments SET note = '{bad'",
        "UPDATE segments SET note = '[]'",
        "UPDATE segments SET stamp = 3",
        "UPDATE segments SET checksum = 'x'",
        "UPDATE segments SET count = 'x'",
        "UPDATE state SET count = 'many'",
        "UPDATE state SET generation = NULL",
        "DELETE FROM state",
        "UPDATE vectors SET vector = 'text' WHERE key = 3",
        "UPDATE vectors SET vector = 7",
        "UPDATE vectors SET crc = 'x'",
        "UPDATE passages SET text = x'ff' WHERE key = 3",
        "UPDATE passages SET crc = 'x' WHERE key = 3",
        "UPDATE passages SET metadata = '[1]' WHERE key = 3",
        "UPDATE passages SET source = 7 WHERE key = 3",
        "UPDATE meta SET value = '99999999999' WHERE key = 'dimension'",
        "UPDATE meta SET value = 'x' WHERE key = 'dimension'",
        "UPDATE meta SET value = x'ff' WHERE key = 'embedder'",
        "DELETE FROM meta",
        "DROP TABLE segments",
        "DROP TABLE attributes",
    ],
)
def test_odd_cells_are_our_errors(path: Path, statement: str) -> None:
    with suppress(sqlite3.IntegrityError):
        change(path, statement)
    calls: list[Callable[[PassageIndex], object]] = [
        lambda index: index.search("ferry 2", k=60),
        lambda index: index.search("ferry", k=60, where=lambda metadata: True),
        lambda index: index.search("ferry", k=60, mode="words"),
        lambda index: list(index),
        lambda index: list(index.find({"year": {"$lt": 10}})),
        lambda index: index.get("p2"),
        lambda index: index.add([Passage("the ferry 2", id="p2", metadata={"year": 7})]),
        lambda index: index.compact(),
        lambda index: index.check(),
        lambda index: index.delete(["p2"]),
        lambda index: index.rebuild(),
    ]
    for call in calls:
        with suppress(NbceError), open_again(path) as index:
            call(index)


@pytest.mark.parametrize("data", ["{bad", "[1]", "null", '{"year": ' + "[" * 3000])
@pytest.mark.parametrize("is_signed", [False, True])
def test_damaged_metadata_are_named_and_can_be_deleted(path: Path, data: str, is_signed: bool) -> None:
    change(path, "UPDATE passages SET metadata = ? WHERE id = 'p3'", data)
    if is_signed:  # by somebody who knows how
        columns = "id, content_hash, source, title, span_start, span_end, metadata, text"
        with closing(sqlite3.connect(path / "passages.sqlite")) as connection:
            row = connection.execute(f"SELECT {columns} FROM passages WHERE id = 'p3'").fetchone()
        change(path, "UPDATE passages SET crc = ? WHERE id = 'p3'", zlib.crc32(repr(row).encode()))
    with open_again(path) as index:
        for call in (
            lambda: index.search("ferry", k=60),
            lambda: index.search("ferry", where=lambda metadata: True),
            lambda: index.get("p3"),
            lambda: index.add([Passage("the ferry 3 leaves", id="p3", metadata={"year": 4})]),
        ):
            with pytest.raises(IndexDamagedError):
                call()
        assert any("'p3'" in problem for problem in index.check().problems)
        assert index.delete("p3") == 1
        assert index.check().ok
        assert len(index.search("ferry", k=60)) == 59


def test_the_file_cannot_have_anything_done(path: Path) -> None:
    change(path, "CREATE TRIGGER harm AFTER INSERT ON passages BEGIN SELECT load_extension('x'); END")
    with open_again(path) as index, pytest.raises(NbceError):
        index.add([Passage("one more")])


def test_a_factory_is_no_format(path: Path) -> None:
    change(path, "INSERT OR REPLACE INTO meta VALUES ('factory', '{lists.__class__}{lists:>99999999999}')")
    with open_again(path) as index:
        index.add([Passage("one more")])
        index.compact()
        assert len(index.search("ferry", k=100)) == 61


# Files of vectors


def forge(path: Path, change_it: Callable[[bytearray], None]) -> None:
    """Changes what FAISS wrote, with checksums that are right."""
    (file,) = path.glob("vectors-*.faiss")
    data = file.read_bytes()
    size, keys, note, _, mark = segments._TAIL.unpack(data[-segments._TAIL.size :])
    part = bytearray(data[:size])
    change_it(part)
    body = bytes(part) + data[size : -segments._TAIL.size]
    file.write_bytes(body + segments._TAIL.pack(size, keys, note, zlib.crc32(body), mark))
    change(path, "UPDATE segments SET checksum = ?", zlib.crc32(body))


@pytest.mark.parametrize("factory", ["flat", "hnsw", "ivf-sq8", "sq8"])
@pytest.mark.parametrize("seed", range(4))
def test_a_crafted_file_of_vectors_is_not_searched(tmp_path: Path, factory: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.random.default_rng(0).normal(size=(1500, 32))
    with PassageIndex.create(tmp_path / "index", bag_of_words, factory=factory) as index:
        index.add([Passage(f"w{n}", id=f"p{n}") for n in range(1500)], vectors=vectors)
        index.compact()

    def harm(data: bytearray) -> None:
        place = int(rng.integers(0, 200 if seed % 2 else len(data) - 8))
        data[place : place + 8] = bytes(rng.integers(0, 256, 8, dtype=np.uint8))

    forge(tmp_path / "index", harm)
    # In a process of its own, which a signal would end.
    code = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[2])\n"
        "from index_tools import bag_of_words, PassageIndex\n"
        "index = PassageIndex.open(sys.argv[1], bag_of_words)\n"
        "assert len(index.search(np.random.default_rng(0).normal(size=32), k=20)) == 20\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "index"), str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 or b"nbce_rag.errors" in done.stderr, (done.returncode, done.stderr[-500:])


def test_a_graph_that_leads_out_of_itself_is_not_searched(tmp_path: Path) -> None:
    with PassageIndex.create(tmp_path / "index", bag_of_words, factory="hnsw") as index:
        vectors = np.random.default_rng(0).normal(size=(300, 32))
        index.add([Passage(f"w{n}", id=f"p{n}") for n in range(300)], vectors=vectors)
        index.compact()
        expected = ids(index.search(vectors[7], k=5))

    def harm(data: bytearray) -> None:  # links to vectors that are not there
        for place in range(0, len(data) - 8, 4):
            if 0 <= int.from_bytes(data[place : place + 4], "little") < 300:
                data[place + 3] = 0x40
                return

    forge(tmp_path / "index", harm)
    with open_again(tmp_path / "index") as index:
        assert ids(index.search(vectors[7], k=5)) == expected


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize("how", ["shrinks", "vanishes", "changes", "is a link"])
def test_what_happens_to_a_file_under_a_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_mapped: bool, how: str
) -> None:
    if is_mapped:
        monkeypatch.setattr(segments, "_COPIED_UP_TO", 0)
    (file,) = path.glob("vectors-*.faiss")
    with open_again(path) as index:
        expected = index.search("ferry 7", k=60)
        if how == "shrinks":
            os.truncate(file, 100)
        elif how == "vanishes":
            file.unlink()
        elif how == "changes":
            file.write_bytes(b"\0" * file.stat().st_size)
        else:
            elsewhere = path.parent / "elsewhere"
            file.rename(elsewhere)
            file.symlink_to(elsewhere)
        assert index.search("ferry 7", k=60) == expected
    with open_again(path) as index:
        assert index.search("ferry 7", k=60) == expected


@pytest.mark.parametrize("times", [1, 2, 100])
def test_a_file_that_changes_in_the_middle_of_a_search(
    path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(segments, "_COPIED_UP_TO", 0)
    (file,) = path.glob("vectors-*.faiss")
    left = times
    search = Block.search

    def change(self: Block, *arguments: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            os.utime(file, ns=(0, left))
        return search(self, *arguments)

    with open_again(path) as index:
        expected = index.search("ferry 7", k=60)
        monkeypatch.setattr(Block, "search", change)
        if times < 100:
            assert index.search("ferry 7", k=60) == expected
        else:
            with pytest.raises(PassageIndexError, match="keeps changing"):
                index.search("ferry 7", k=60)
        left = 0
        assert index.search("ferry 7", k=60) == expected


# Folders that may only be read, and folders that go


@pytest.fixture
def unprivileged() -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Runs something in a child process of a user who may write nothing; gives what reads its answer."""
    if os.geteuid() != 0:
        pytest.skip("needs to become another user, whom folders that may only be read hold back")

    def start(work: Callable[[], str]) -> Callable[[], str]:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setuid(NOBODY)
                answer = work()
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(write, answer.encode())
            os._exit(0)
        os.close(write)

        def finish() -> str:
            os.waitpid(child, 0)
            with os.fdopen(read) as stream:
                return stream.read()

        return finish

    return start


def open_to_all(path: Path) -> None:
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path(folder.root):
            folder.chmod(folder.stat().st_mode | 0o055)


def test_a_reader_that_may_not_write_sees_what_others_commit(path: Path, unprivileged: Any) -> None:
    open_to_all(path)
    ask, go = os.pipe()
    ready, tell = os.pipe()

    def read() -> str:
        index = open_again(path)
        before = len(index.search("ferry", k=100))
        os.write(tell, b"r")
        os.read(ask, 1)
        found = [len(index), len(index.search("ferry", k=100)), len(list(index)), len(list(index.find()))]
        os.write(tell, b"r")
        os.read(ask, 1)
        return f"{before} {found} {len(index)} {ids(index.search('zebra', k=1, mode='words'))}"

    finish = unprivileged(read)
    os.read(ready, 1)
    with open_again(path) as index:
        index.delete([f"p{n}" for n in range(50)])
        index.compact()
    os.write(go, b"g")
    os.read(ready, 1)
    writer = open_again(path)  # stays open, with changes in its log
    writer.add([Passage("zebra", id="z")])
    os.write(go, b"g")
    assert finish() == "60 [10, 10, 10, 10] 11 ['z']"
    writer.close()


def test_a_copy_without_the_writers_files(path: Path, tmp_path: Path, unprivileged: Any) -> None:
    with open_again(path) as index:
        index.add([Passage("one more", id="more")])
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in path.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy)
    open_to_all(copy)
    answer = unprivileged(lambda: str(len(open_again(copy))))()
    assert "PassageIndexError" in answer
    assert "-wal" in answer
    assert "copy the folder" in answer
    with open_again(copy) as index:  # by one who may write
        assert len(index) == 61
    assert unprivileged(lambda: str(len(open_again(copy))))() == "61"
    other = IndexFolder(copy).copy(tmp_path / "third")
    with open_again(other.path) as index:
        assert len(index) == 61


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_a_handle_of_a_folder_that_is_gone_says_so(path: Path, how: str) -> None:
    index = open_again(path)
    index.search("ferry")
    if how == "moved":
        path.rename(path.with_name("moved"))
    else:
        shutil.rmtree(path)
    if how == "replaced":
        with PassageIndex.create(path, bag_of_words) as other:
            other.add(ANIMALS)
    for call in (
        lambda: index.add([Passage("two")]),
        lambda: index.delete("p1"),
        lambda: index.search("ferry"),
        lambda: len(index),
        lambda: index.compact(),
        lambda: index.rebuild(),
    ):
        with pytest.raises(PassageIndexError, match=r"removed or replaced|no passage index"):
            call()
    index.close()


# Interruptions


@pytest.mark.parametrize("name", ["add", "search", "delete", "find"])
def test_an_interruption_at_any_line_leaves_the_handle_usable(tmp_path: Path, name: str) -> None:
    index = PassageIndex.create(tmp_path / "index", bag_of_words, timeout=1)
    index.add(FERRIES[:10])
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: index.add([Passage("the ferry", id="new")]),
        "search": lambda: index.search("ferry", k=2),
        "delete": lambda: index.delete(["new"]),
        "find": lambda: list(index.find({"year": 3})),
    }
    for stop in range(1, 400):
        lines, was_interrupted = 0, False

        def trace(frame: FrameType, event: str, argument: object, stop: int = stop) -> Any:
            nonlocal lines, was_interrupted
            if not frame.f_code.co_filename.endswith(os.path.join("sqlite", "database.py")):
                return None
            if event == "line":
                lines += 1
                if lines == stop:
                    sys.settrace(None)
                    was_interrupted = True
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with suppress(KeyboardInterrupt):
                calls[name]()
        finally:
            sys.settrace(before)
        if not was_interrupted:
            break
        index.add([Passage(f"after {stop}", id="after")])
        with open_again(tmp_path / "index", timeout=1) as other:
            found = other.get("after")
            assert found is not None
            assert found.text == f"after {stop}"
    assert stop > 20
    assert index.check().ok
    index.close()


def test_an_index_may_be_changed_while_it_is_read(path: Path) -> None:
    with open_again(path) as index:
        seen = 0
        for passage in index:
            seen += 1
            index.add([Passage(f"{passage.text} again", id=passage.id, metadata=passage.metadata)])
        assert seen == 60
        for passage in index:
            index.delete(passage.id)
        assert len(index) == 0


def test_metadata_of_json_survive(tmp_path: Path) -> None:
    values = json.loads('{"a": [1, 2.5, null, true, {"b": "c"}], "": "", "x.y": 1e300}')
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add([Passage("cats", id="c", metadata=values)])
        found = index.get("c")
        assert found is not None
        assert found.metadata == values
