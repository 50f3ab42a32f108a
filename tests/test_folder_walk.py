"""Folders with whatever a disk can hold: names in any bytes, pipes, sockets, circles, holes."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from index_tools import bag_of_words

from nbce_rag.documents.document import source_name
from nbce_rag.documents.folders import read_files
from nbce_rag.documents.limits import ReadLimits
from nbce_rag.errors import ReadError
from nbce_rag.index import PassageIndex

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs names in any bytes, pipes and sockets")

SECONDS = 20  # for a tree; then something waits for ever
LIMITS = ReadLimits(max_bytes=1 << 20, max_seconds=5)
SUFFIXES = (
    b" .txt .TXT .md .html .pdf .csv .jsonl .jsonl.gz .docx .xlsx .odt .epub .eml .ipynb .png .py ~".split(
        b" "
    )
)
NAMES = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"-rf", b" ", b"\n", b"~", b"$HOME", b"*", b"[a]", b"a\\b", b"%00", b"..a", b"a" * 200]),
).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
KINDS = [
    "text",
    "empty",
    "bytes",
    "fifo",
    "socket",
    "circle",
    "parent",
    "broken",
    "sibling",
    "locked",
    "huge",
]
FILES = st.tuples(NAMES, st.sampled_from(SUFFIXES), st.sampled_from(KINDS), st.binary(max_size=60))
TREES = st.recursive(
    st.lists(FILES, max_size=5),
    lambda inner: st.lists(FILES | st.tuples(NAMES, inner), max_size=4),
    max_leaves=6,
)


def embed(texts: list[str]) -> Any:
    """A vector for every text, also for one without words."""
    return bag_of_words(texts) + 0.01


@contextmanager
def bounded() -> Iterator[None]:
    def expire(*arguments: Any) -> None:
        raise AssertionError(f"takes over {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make(folder: bytes, tree: Any, texts: dict[bytes, str]) -> None:
    """Makes a tree. What is certainly read goes to `texts`: its text by its path."""
    for name, *rest in tree:
        # Names that are taken, `.` and `..`, and those that this disk does not have.
        with suppress(OSError):
            if len(rest) == 1:
                path = os.path.join(folder, name)
                os.mkdir(path)
                is_hidden = name.startswith(b".")
                make(path, rest[0], {} if is_hidden else texts)
            else:
                make_file(folder, (name, *rest), texts)


def make_file(folder: bytes, file: tuple[bytes, bytes, str, bytes], texts: dict[bytes, str]) -> None:
    name, suffix, kind, data = file
    path = os.path.join(folder, name + suffix)
    if os.path.lexists(path):
        return
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    elif kind in ("circle", "parent", "broken", "sibling"):
        targets = {"circle": name + suffix, "parent": b"..", "broken": b"nowhere", "sibling": b"a.txt"}
        os.symlink(targets[kind], path)
    elif kind == "huge":
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)
    else:
        text = f"File number {len(texts)} is a text."
        Path(os.fsdecode(path)).write_bytes({"text": text.encode(), "empty": b""}.get(kind, data))
        if kind == "locked":
            os.chmod(path, 0)
        if kind == "text" and suffix in (b".txt", b".TXT", b".md") and not name.startswith((b".", b"~$")):
            texts[path] = text


def rename_some(folder: bytes, texts: dict[bytes, str]) -> None:
    """Every third file gets another name, and another third of them goes."""
    for number, path in enumerate(sorted(texts)):
        with suppress(OSError):
            if number % 3 == 0:
                target = os.path.join(os.path.dirname(path), b"moved " + os.path.basename(path))
                if not os.path.lexists(target):
                    os.rename(path, target)
            elif number % 3 == 1:
                os.unlink(path)


def contents(path: str) -> bytes:
    """Of a small file; b"" of whatever else there is."""
    if not (os.path.isfile(path) and os.access(path, os.R_OK) and os.path.getsize(path) < 1000):
        return b""
    return Path(path).read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES)
@example(tree=[(b"a", b".txt", kind, b"") for kind in KINDS])
@example(tree=[(kind.encode(), b".txt", kind, b"\xff\xfe\x00") for kind in KINDS])
@example(tree=[(kind.encode(), suffix, kind, b"PK\3\4") for kind in KINDS for suffix in SUFFIXES[5:15]])
@example(
    tree=[
        (b"\xe9", b".txt", "text", b""),
        (b"\xc3\xa9", b".txt", "text", b""),
        (b"\\xe9", b".md", "text", b""),
    ]
)
@example(tree=[(b".nbceignore", b"", "bytes", b"\xff[\n!\n[z-a]\n"), (b"a", b".txt", "text", b"")])
@example(
    tree=[(b".nbceignore", b"", kind, b"") for kind in ("fifo", "circle")] + [(b"a", b".md", "text", b"")]
)
@example(tree=[(b".nbceignore", b"", "huge", b""), (b"a", b".md", "text", b"")])
@example(tree=[(b"0", suffix, "text", b"") for suffix in (b"", b".pdf", b".txt")])
@example(tree=[(b"0", b".txt", "text", b""), (b"1", b".pdf", "text", b""), (b"1", b".txt", "text", b"")])
@example(tree=[(b"deep", [(b"\n", [(b" ", [(b"\xff", b".md", "text", b"")])])])])
def test_a_folder_of_anything_is_read_and_followed(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as name, bounded():
        docs = os.path.join(os.fsencode(name), b"docs")
        os.mkdir(docs)
        texts: dict[bytes, str] = {}
        make(docs, tree, texts)
        errors: list[ReadError] = []
        files = dict(read_files([os.fsdecode(docs)], on_error=errors.append, limits=LIMITS))
        assert {os.fsencode(path) for path in files} >= texts.keys()
        for path, text in texts.items():
            assert [passage.text for passage in files[Path(os.fsdecode(path))]] == [text]
        assert not {path for path in texts if any(os.fsdecode(path) + ":" in str(error) for error in errors)}
        folders: Any = [os.fsdecode(docs)]
        options: Any = {"limits": LIMITS, "workers": 1, "confirm": lambda count, total: True}
        with PassageIndex.create(os.path.join(name, "index"), embed) as index:
            report = index.sync_files(folders, **options)
            assert {passage.text for passage in index} >= set(texts.values())
            again = index.sync_files(folders, **options)
            assert (again.files_added, again.files_changed, again.passages_added) == ((), (), 0)
            assert again.files_unchanged == len(report.files_added)
            rename_some(docs, texts)
            report = index.sync_files(folders, **options)
            # What is gone stays only where a file that cannot be read may be its new name.
            stay = {source_name(Path(path)) for path in report.files_missing}
            unreadable = {contents(path) for path in report.files_failed}
            assert {p.text.encode() for p in index if p.source in stay} <= unreadable
            with PassageIndex.create(os.path.join(name, "fresh"), embed) as fresh:
                fresh.sync_files(folders, **options)
                there = [passage for passage in index if passage.source not in stay]
                assert sorted(there, key=lambda p: p.id) == sorted(fresh, key=lambda p: p.id)
            assert index.check().ok
