"""Folders of whatever people have: what cannot be read costs a line, the rest is taken in."""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from index_tools import bag_of_words

from nbce_rag.documents import readers
from nbce_rag.documents.folders import read_files
from nbce_rag.documents.formats import jsonl
from nbce_rag.documents.limits import Deadline, ReadLimits
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import InputError, ReadError
from nbce_rag.index import PassageIndex

GOOD = "The ferry leaves at nine."


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PassageIndex]:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as made:
        yield made


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text(GOOD)
    return folder


def make_socket(path: Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(folder)


@pytest.mark.skipif(os.name != "posix", reason="names and kinds of files of POSIX")
@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.mkfifo(path),
        make_socket,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("nowhere.txt"),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_bytes(b""),
    ],
)
@pytest.mark.parametrize("name", ["odd.txt", "odd.jsonl", "odd.jsonl.gz", "odd.html", "odd.pdf"])
def test_what_is_no_file_of_text_is_named(
    index: PassageIndex, docs: Path, make: Callable[[Path], None], name: str
) -> None:
    make(docs / name)
    report = index.add_files([docs])
    assert report.files_added == 1
    (failed,) = report.files_failed
    assert failed == str(docs / name)
    assert [passage.text for passage in index] == [GOOD]


@pytest.mark.parametrize("path", ["x" * 300, "a\0b.txt", "x/" * 3000, " ", "\udce9.txt", "{good}/b.txt"])
def test_a_path_that_cannot_be_is_named(index: PassageIndex, docs: Path, path: str) -> None:
    path = path.format(good=docs / "good.txt")
    report = index.add_files([path, docs / "good.txt"])
    assert report.files_added == 1
    assert len(report.files_failed) == 1
    with pytest.raises(ReadError):
        read_document(path)


@pytest.mark.parametrize("paths", [None, 5, [None], [5]])
def test_what_is_no_path_is_refused(index: PassageIndex, paths: Any) -> None:
    with pytest.raises(InputError, match="path"):
        index.add_files(paths)


@pytest.mark.skipif(os.name != "posix", reason="names of files of POSIX")
def test_names_in_any_bytes(index: PassageIndex, docs: Path) -> None:
    for number, name in enumerate((b"caf\xe9.txt", b"caf\xea.txt")):
        Path(os.fsdecode(os.fsencode(docs) + b"/" + name)).write_text(f"The cafe opens at {number}.")
    report = index.add_files([os.fsencode(docs)])  # type: ignore[list-item]
    assert (report.files_added, report.files_failed) == (3, {})
    assert {os.path.basename(source) for source in index.sources()} == {
        "good.txt",
        "caf\\xe9.txt",
        "caf\\xea.txt",
    }
    again = index.add_files([docs])
    assert (again.files_added, again.files_unchanged) == (0, 3)
    assert index.delete(source=Path(os.fsdecode(os.fsencode(docs) + b"/caf\xe9.txt"))) == 1
    assert len(index) == 2
    assert index.check().ok


LINES = {
    "infinity": '{"text": "two", "size": 1e999}',
    "5000 digits": '{"text": "two", "n": ' + "9" * 5000 + "}",
    "4000 digits": '{"text": "two", "n": ' + "9" * 4000 + "}",
    "nested 900": '{"text": "two", "n": ' + "[" * 900 + "]" * 900 + "}",
    "nested 100000": '{"text": "two", "n": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "NUL in a key": '{"text": "two", "a\\u0000b": 1}',
    "NUL in the text": '{"text": "two\\u0000three"}',
    "empty key": '{"text": "two", "": 1}',
    "id of 1 MB": '{"text": "two", "id": "' + "x" * 1_000_000 + '"}',
    "noncharacter in the id": '{"text": "two", "id": "a\\ufdd0b"}',
    "half a pair": '{"text": "two \\ud83d"}',
    "half a pair in a key": '{"text": "two", "\\ud83d": 1}',
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_line_that_cannot_be_stored_is_passed_over(
    index: PassageIndex, docs: Path, name: str, suffix: str
) -> None:
    data = ('{"text": "one"}\n' + LINES[name] + '\n{"text": "three"}\n').encode()
    (docs / f"a{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    report = index.add_files([docs])
    assert report.files_added == 2
    assert len(index) == 4 or (len(index) == 3 and ", line 2:" in report.warnings[0])
    assert len(index.search("two", k=9)) == len(index)
    assert index.check().ok


def test_what_unpacks_to_too_much_is_named(
    index: PassageIndex, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "_LONGEST_LINE", 1 << 20)
    (docs / "line.jsonl.gz").write_bytes(gzip.compress(b" " * (4 << 20)))
    (docs / "lines.jsonl.gz").write_bytes(gzip.compress(b"\n" * (9 << 20)))
    (docs / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n' * 9)[:-9])
    report = index.add_files([docs], limits=ReadLimits(max_unpacked_bytes=8 << 20))
    assert report.files_added == 1
    reasons = {Path(path).name: reason for path, reason in report.files_failed.items()}
    assert "line 1: is longer than 1,048,576 bytes" in reasons["line.jsonl.gz"]
    assert "unpacks to more than 8,388,608 bytes" in reasons["lines.jsonl.gz"]
    assert "damaged" in reasons["cut.jsonl.gz"]


def test_a_file_that_is_too_large_is_named(index: PassageIndex, docs: Path) -> None:
    (docs / "large.txt").write_text("x" * 101)
    report = index.add_files([docs], limits=ReadLimits(max_bytes=100))
    assert report.files_added == 1
    assert "over the limit of 100" in report.files_failed[str(docs / "large.txt")]


@pytest.mark.parametrize(
    "limit", ["max_bytes", "max_unpacked_bytes", "max_depth", "max_pages", "max_seconds"]
)
@pytest.mark.parametrize("value", [0, -1, "1", None, True, float("nan")])
def test_limits_are_numbers_above_0(limit: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"ReadLimits: {limit}"):
        ReadLimits(**{limit: value})


def test_a_deadline_that_is_over_is_an_error() -> None:
    Deadline("a.pdf", ReadLimits()).check()
    deadline = Deadline("a.pdf", ReadLimits(max_seconds=1e-9))
    time.sleep(0.001)
    with pytest.raises(ReadError, match=r"a\.pdf: takes over 1e-09 seconds to read"):
        deadline.check()


def test_compressed_lines_are_those_of_the_file(index: PassageIndex, docs: Path) -> None:
    lines = "\n".join(f'{{"text": "line {n} é"}}' for n in range(300_000 // 20))
    for number, data in enumerate((lines.encode(), lines.encode("utf-8-sig"), lines.encode("utf-16"))):
        (docs / f"{number}.jsonl.gz").write_bytes(gzip.compress(data))
        (docs / f"{number}.jsonl").write_bytes(data)
    (docs / "good.txt").unlink()
    sources: dict[str, list[str]] = {}
    for file in sorted(docs.iterdir()):
        sources[file.name] = [p.text for _, many in documents_of(file) for p in many]
    assert len({tuple(texts) for texts in sources.values()}) == 1
    assert len(sources["0.jsonl"]) == 15_000


def documents_of(file: Path) -> Any:
    from nbce_rag.documents.folders import read_files

    return read_files([file])


def test_one_id_in_two_files_loses_neither_silently(index: PassageIndex, docs: Path) -> None:
    (docs / "a.jsonl").write_text(
        '{"id": 1, "text": "The ferry leaves at nine."}\n{"id": 2, "text": "Blue."}\n'
    )
    (docs / "b.jsonl").write_text('{"id": 1, "text": "The market opens."}\n{"id": 3, "text": "It is red."}\n')
    for turn in range(2):
        report = index.add_files([docs])
        assert {p.text for p in index} == {GOOD, "Blue.", "It is red."}, turn
        (warning,) = report.warnings
        assert "b.jsonl: 1 of its passages have ids of others ('1' of " in warning
        assert "a.jsonl" in warning
    (docs / "a.jsonl").unlink()
    report = index.add_files([docs])
    assert report.warnings == ()
    assert {p.text for p in index} == {GOOD, "Blue.", "It is red.", "The market opens."}
    (docs / "b.jsonl").rename(docs / "c.jsonl")
    assert index.add_files([docs]).warnings == ()
    assert {p.id for p in index if p.source and p.source.endswith("c.jsonl")} == {"1", "3"}


def test_a_passage_without_a_vector_fails_its_file_alone(tmp_path: Path, docs: Path) -> None:
    (docs / "dots.txt").write_text("... ...")
    (docs / "more.txt").write_text("It comes back at ten.")
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        report = index.add_files([docs])
        assert report.files_added == 2
        assert "all zeros" in report.files_failed[str(docs / "dots.txt")]
        assert len(index) == 2


@pytest.mark.parametrize(
    "unit",
    ["<a x=", "<!--", "<![CDATA[", "<!x", "<?x", "</x", "<a b='", "&a", "<textarea><!--", "<b>", "<pre>"],
)
def test_html_takes_time_in_proportion(tmp_path: Path, unit: str) -> None:
    file = tmp_path / "a.html"
    file.write_text("<p>hi</p>" + unit * 16_000)
    start = time.perf_counter()
    assert "hi" in read_document(file).text
    assert time.perf_counter() - start < 10


def test_a_reader_that_fails_costs_its_file_alone(
    index: PassageIndex, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(readers._DOCUMENTS, ".html", lambda *_: 1 / 0)
    (docs / "a.html").write_text("<p>x</p>")
    report = index.add_files([docs], workers=1)
    assert report.files_added == 1
    path = str(docs / "a.html")
    assert report.files_failed == {path: f"{path}: cannot be read (ZeroDivisionError: division by zero)."}


def test_what_raises_in_the_callers_own_code_is_not_of_the_file(docs: Path) -> None:
    def count(text: str) -> int:
        raise LookupError("mine")

    for name, content in (("a.csv", "a,b\n1,2\n"), ("a.md", "x")):
        (docs / name).write_text(content)
        with pytest.raises(LookupError, match="mine"):
            list(read_files([docs / name], count_tokens=count))
