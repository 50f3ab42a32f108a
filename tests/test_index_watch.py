"""`nbce-rag index --watch` when it is killed, when the disk is full, and when another process writes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from index_tools import bag_of_words, open_again
from typer.testing import CliRunner, Result

from nbce_rag.cli import index as index_command
from nbce_rag.cli.main import app
from nbce_rag.errors import IndexDamagedError
from nbce_rag.index import PassageIndex, ingestion
from nbce_rag.index.vectors import compaction

FILES = 30

WATCH = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path

from index_tools import bag_of_words
from nbce_rag.cli.main import app
from nbce_rag.index import PassageIndex, ingestion
from nbce_rag.index.sqlite.storage import Storage
from nbce_rag.index.vectors import compaction

docs, path, armed, left, place = sys.argv[1:]
left = int(left)
ingestion._BATCH, compaction._TAIL = 8, 6
opened, write = PassageIndex.open, Storage.write
PassageIndex.open = staticmethod(lambda path, embedder=None, **more: opened(path, bag_of_words, **more))

def count():
    global left
    left -= Path(armed).exists()
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

@contextmanager
def dying(self):
    with write(self) as value:
        yield value
        if place == "before":
            count()
    if place == "after":
        count()

Storage.write = dying
app(["index", docs, "--index", path, "--watch", "--yes"])
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.txt").write_text(f"Sentence number {number} is here.")
    return folder


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of which small pieces are written, and that the command line can open."""
    monkeypatch.setattr(ingestion, "_BATCH", 8)
    monkeypatch.setattr(compaction, "_TAIL", 6)
    PassageIndex.create(tmp_path / "index", bag_of_words).close()
    opened = PassageIndex.open

    def open_it(path: Any, embedder: Any = None, **options: Any) -> PassageIndex:
        return opened(path, embedder or bag_of_words, **options)

    monkeypatch.setattr(PassageIndex, "open", open_it)
    return tmp_path / "index"


def change(docs: Path) -> None:
    """Some files of each kind of change."""
    for number in range(0, FILES, 3):
        (docs / f"{number}.txt").write_text(f"Phrase number {number} is there. " * 60)
    for number in range(1, FILES, 3):
        (docs / f"{number}.txt").rename(docs / f"moved{number}.txt")
    for number in range(2, FILES, 6):
        (docs / f"{number}.txt").unlink()
        (docs / f"new{number}.txt").write_text(f"Item number {number} is new.")


def assert_as_made_anew(path: Path, docs: Path, fresh: Path) -> None:
    with PassageIndex.create(fresh, bag_of_words) as other, open_again(path) as index:
        other.sync_files([docs])
        assert sorted(index, key=lambda p: p.id) == sorted(other, key=lambda p: p.id)
        assert index.check().ok


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize(("left", "place"), [(0, "before"), (3, "after"), (9, "before")])
def test_a_watch_that_is_killed_is_made_up_for(left: int, place: str, docs: Path, path: Path) -> None:
    pytest.importorskip("watchfiles")
    armed = path.with_name("armed")
    command = [sys.executable, "-c", WATCH, str(docs), str(path), str(armed), str(left), place]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(f"Files: {FILES} added")
        armed.touch()
        try:
            deadline = time.monotonic() + 60
            change(docs)
            while child.poll() is None and time.monotonic() < deadline:
                (docs / "more.txt").write_text(
                    f"It is {time.monotonic()} now."
                )  # watching may not have begun
                time.sleep(0.3)
            assert child.poll() == -signal.SIGKILL
        finally:
            child.kill()
    with open_again(path) as index:  # before anything mends it
        assert index.check().ok
        assert index.search("sentence", 3)
    assert run("index", docs, "--index", path, "--yes").exit_code == 0
    assert_as_made_anew(path, docs, path.with_name("fresh"))


Faults = Callable[[PassageIndex, pytest.MonkeyPatch], None]


def full_database(index: PassageIndex, patch: pytest.MonkeyPatch) -> None:
    connection = index._storage._connection  # type: ignore[attr-defined]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def failing(name: str) -> Faults:
    def install(index: PassageIndex, patch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: Any, **more: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, name, fail)

    return install


@pytest.mark.parametrize("fault", [full_database, failing("fsync"), failing("replace")])
def test_a_watch_goes_on_when_a_full_disk_has_room_again(
    fault: Faults, docs: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_command, "_RETRY_S", 0.0)
    indexes: list[PassageIndex] = []
    open_it = PassageIndex.open

    def remembered(*arguments: Any, **options: Any) -> PassageIndex:
        indexes.append(open_it(*arguments, **options))
        return indexes[-1]

    monkeypatch.setattr(PassageIndex, "open", remembered)

    def watch(*paths: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        yield set()
        change(docs)
        with pytest.MonkeyPatch.context() as patch:
            fault(indexes[-1], patch)
            yield {(1, str(docs / "0.txt"))}
        storage: Any = indexes[-1]._storage
        storage._connection.execute("PRAGMA max_page_count = 4294967294")
        with open_again(path) as reader:
            assert reader.check().ok
        yield set()
        yield set()  # nothing is left to be done
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch))
    result = run("index", docs, "--index", path, "--watch", "--yes")
    assert result.exit_code == 130, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    # Without its FAISS files an index has all that it needs.
    assert len(errors) == (fault is full_database), result.stderr
    for error in errors:
        assert "check free space" in error
        assert error.endswith("Tried again in 0 s.")
    assert len(result.stdout.splitlines()) == 2
    assert_as_made_anew(path, docs, path.with_name("fresh"))


def test_a_watch_waits_for_another_writer(docs: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_command, "_RETRY_S", 0.0)
    open_it = PassageIndex.open
    monkeypatch.setattr(
        PassageIndex, "open", lambda path, embedder=None, **more: open_it(path, embedder, timeout=0.1, **more)
    )

    def watch(*paths: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        yield set()
        (docs / "0.txt").write_text("Owls hoot.")
        with open_again(path) as writer, writer._storage.write():
            yield {(1, str(docs / "0.txt"))}
        yield set()
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch))
    result = run("index", docs, "--index", path, "--watch")
    assert result.exit_code == 130, result.output
    assert "error: Another process is writing" in result.stderr
    with open_again(path) as index:
        assert "Owls hoot." in {passage.text for passage in index}


def test_a_watch_ends_when_its_index_is_damaged(
    docs: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch(*paths: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        def fail(*arguments: Any, **more: Any) -> None:
            raise IndexDamagedError("It is damaged.")

        monkeypatch.setattr(PassageIndex, "sync_files", fail)
        yield set()

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch))
    result = run("index", docs, "--index", path, "--watch")
    assert result.exit_code == 2
    assert result.stderr.endswith("error: It is damaged.\n")
