from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pdf_maker import make_pdf

from nbce_rag.documents.folders import read_files
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import InputError, NbceWarning, ReadError
from nbce_rag.passages import Passage


def read(paths: Iterable[str | Path] | str, **options: Any) -> tuple[dict[Path, list[Passage]], list[str]]:
    """What was read, by path, and the messages of what was not."""
    errors: list[ReadError] = []
    found = dict(read_files(paths, on_error=errors.append, **options))
    return found, [str(error) for error in errors]


def read_lines(
    folder: Path, *lines: object, name: str = "a.jsonl", **options: Any
) -> tuple[list[Passage], list[str]]:
    text = "\n".join(
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines
    )
    (folder / name).write_text(text, encoding="utf-8")
    found, errors = read([folder / name], **options)
    return found.get(folder / name, []), errors


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for name, text in {
        "b.txt": "B text.",
        "a.md": "# A\n\nA text.",
        "sub/c.html": "<p>C text.</p>",
        "sub/image.png": "no text",
        ".hidden.txt": "hidden",
        ".git/d.txt": "hidden",
        "sub/.cache/e.txt": "hidden",
    }.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "docs"


def test_folders_are_read_in_order_without_hidden_and_other_files(docs: Path) -> None:
    found, errors = read([docs])
    assert [path.relative_to(docs).as_posix() for path in found] == ["a.md", "b.txt", "sub/c.html"]
    assert errors == []


def test_passages_know_their_title_source_and_span(docs: Path) -> None:
    (docs / "a.md").write_text("# The title\n\nOne two three.\r\n\r\nFour five six.", encoding="utf-8")
    found, _ = read([docs], max_tokens=4, overlap=0, count_tokens=words)
    passages = found[docs / "a.md"]
    text = read_document(docs / "a.md").text
    assert [p.text for p in passages] == ["# The title", "One two three.", "Four five six."]
    assert all(text[p.start : p.end] == p.text for p in passages)
    assert {(p.title, p.source) for p in passages} == {("The title", (docs / "a.md").as_posix())}


def test_sources_stay_relative_when_the_path_is(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(docs.parent)
    found, _ = read("./docs")
    assert [p.source for passages in found.values() for p in passages] == [
        "docs/a.md",
        "docs/b.txt",
        "docs/sub/c.html",
    ]


def test_reading_again_gives_the_same_ids(docs: Path) -> None:
    ids = [[p.id for passages in read([docs])[0].values() for p in passages] for _ in range(2)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3


def test_a_file_that_is_named_is_read_though_hidden_and_once(docs: Path) -> None:
    found, _ = read([docs / ".hidden.txt", docs / "b.txt", docs, docs / "sub" / ".." / "b.txt"])
    assert [path.name for path in found] == [".hidden.txt", "b.txt", "a.md", "c.html"]


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(docs: Path) -> None:
    (docs / "a.md").write_bytes(b"caf\xe9")
    (docs / "empty.txt").write_text("")
    (docs / "bad.pdf").write_bytes(b"%PDF-1.4 broken")
    found, errors = read([docs / "missing.txt", docs / "sub" / "image.png", docs])
    assert [path.name for path in found] == ["b.txt", "c.html"]
    assert [error.split(":")[0].rsplit("/", 1)[1] for error in errors] == [
        "missing.txt",
        "image.png",
        "a.md",
        "bad.pdf",
        "empty.txt",
    ]


def test_without_a_handler_errors_become_warnings(docs: Path) -> None:
    (docs / "a.md").write_text(" ")
    with pytest.warns(NbceWarning, match=r"a\.md: holds no text") as caught:
        found = dict(read_files([docs]))
    assert len(found) == 2
    assert [warning.filename for warning in caught] == [__file__]


def test_warnings_from_deep_inside_point_at_the_callers_line(docs: Path, tmp_path: Path) -> None:
    records = docs / "records.jsonl"
    records.write_text('{"text": "one"}\n{}\n')
    (tmp_path / "empty").mkdir()
    with pytest.warns(NbceWarning) as caught:
        for _ in read_files([records, tmp_path / "empty"]):
            pass
    assert len(caught) == 2
    assert {warning.filename for warning in caught} == {__file__}


def test_a_handler_may_stop_the_reading(docs: Path) -> None:
    def stop(error: ReadError) -> None:
        raise error

    with pytest.raises(ReadError, match="does not exist"):
        list(read_files(["no-such.txt", docs], on_error=stop))


def test_a_folder_without_any_document_is_named(tmp_path: Path) -> None:
    (message,) = read([tmp_path])[1]
    assert message.startswith(
        f"{tmp_path}: this folder holds no file that is read: text and code of any kind,"
    )
    assert "Check the path, or convert" in message
    assert len(message) < len(str(tmp_path)) + 300


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs symbolic links")
def test_links_that_are_broken_or_circular_do_no_harm(docs: Path) -> None:
    (docs / "broken.txt").symlink_to("nowhere.txt")
    (docs / "sub" / "loop").symlink_to(docs)
    (docs / "same.txt").symlink_to(docs / "b.txt")
    found, errors = read([docs])
    assert [path.name for path in found] == ["a.md", "b.txt", "c.html"]
    assert errors == [f"{docs}/broken.txt: does not exist; check the path."]


def test_options_are_checked_at_the_call_and_not_at_the_first_file() -> None:
    with pytest.raises(InputError, match="overlap"):
        read_files([], max_tokens=10, overlap=10)


def test_passages_of_a_pdf_know_their_page(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf("One two three.", "", "Four five six.", title="T"))
    found, _ = read([tmp_path], max_tokens=3, overlap=0, count_tokens=words)
    passages = found[tmp_path / "a.pdf"]
    assert [(p.text, p.metadata, p.title) for p in passages] == [
        ("One two three.", {"page": 1}, "T"),
        ("Four five six.", {"page": 3}, "T"),
    ]


def test_a_record_becomes_a_passage(tmp_path: Path) -> None:
    record = {"id": "r1", "text": " The text. ", "title": "T", "url": "u", "metadata": {"year": 2020}}
    [passage], errors = read_lines(tmp_path, record)
    assert errors == []
    assert passage == Passage(
        "The text.",
        id="r1",
        title="T",
        source=(tmp_path / "a.jsonl").as_posix(),
        start=1,
        end=10,
        metadata={"url": "u", "year": 2020},
    )


def test_a_long_record_becomes_numbered_passages(tmp_path: Path) -> None:
    passages, _ = read_lines(
        tmp_path,
        {"id": 7, "text": "One two. Three four."},
        {"text": "Five."},
        max_tokens=2,
        overlap=0,
        count_tokens=words,
    )
    assert [(p.id, p.text) for p in passages[:2]] == [("7#1", "One two."), ("7#2", "Three four.")]
    assert passages[2].id == Passage("Five.", source=passages[2].source, start=0).id


def test_bad_lines_are_named_by_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = [
        ('{"text": ', "is not JSON"),
        ("[1]", "must be an object"),
        ("{}", 'needs a string under "text"'),
        ({"text": 3}, 'needs a string under "text"'),
        ({"text": " \ufdd0"}, "holds no text"),
        ({"text": "a", "id": 1.5}, '"id" must be a string'),
        ({"text": "a", "id": True}, '"id" must be a string'),
        ({"text": "a", "title": ["t"]}, '"title" must be a string'),
        ({"text": "a", "metadata": "m"}, '"metadata" must be an object'),
        ('{"text": "a", "x": NaN}', "NaN is no JSON number"),
        ('{"text": "a", "x": "\\ud800"}', "surrogate"),
        ('{"text": "a", "x": ' + "[" * 100_000, "is not JSON"),
        ({"text": "other", "id": "good"}, "has the id 'good' of line 1"),
    ]
    passages, errors = read_lines(
        tmp_path,
        {"id": "good", "text": "Good."},
        *(line for line, _ in bad),
        "",
        {"id": "last", "text": "Last."},
    )
    assert [p.id for p in passages] == ["good", "last"]
    for number, (error, (_, message)) in enumerate(zip(errors, bad, strict=True), start=2):
        assert error.startswith(f"{tmp_path / 'a.jsonl'}, line {number}: ")
        assert message in error


def test_a_line_that_is_not_utf8_does_not_take_the_others_along(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"text": "One."}\r\n{"text": "caf\xe9"}\r\n{"text": "Two."}\r\n'
    )
    found, errors = read([tmp_path])
    assert [p.text for p in found[tmp_path / "a.jsonl"]] == ["One.", "Two."]
    assert [error.split(": ")[1] for error in errors] == ["is not UTF-8 at byte 13; save it as UTF-8."]
    assert ", line 2: " in errors[0]


def test_records_may_hold_other_line_ends_and_lose_passage_marks(tmp_path: Path) -> None:
    [passage], _ = read_lines(tmp_path, {"text": "One\u2028t\ufdd1wo\x85.", "title": "T\ufdd0"})
    assert (passage.text, passage.title) == ("One\u2028two\x85.", "T")


def test_records_without_ids_may_be_the_same(tmp_path: Path) -> None:
    passages, errors = read_lines(tmp_path, {"text": "Same."}, {"text": "Same."})
    assert errors == []
    assert passages[0] == passages[1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_records_are_read_from_gzip_and_utf16(tmp_path: Path, encoding: str) -> None:
    lines = '{"id": "1", "text": "你好。"}\n{"id": "2", "text": "再见。"}\n'
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(lines.encode(encoding)))
    found, errors = read([tmp_path])
    assert [p.text for p in found[tmp_path / "A.JSONL.GZ"]] == ["你好。", "再见。"]
    assert errors == []


@pytest.mark.parametrize("cut", [slice(4, None), slice(0, 30), slice(0, 0)])
def test_damaged_gzip_is_named(tmp_path: Path, cut: slice) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "words enough to fill it"}')[cut])
    found, errors = read([tmp_path])
    assert found == {}
    assert len(errors) == 1
    assert "a.jsonl.gz: " in errors[0]


def test_an_empty_file_of_records_is_named(tmp_path: Path) -> None:
    assert read_lines(tmp_path, "", " ")[1] == [f"{tmp_path / 'a.jsonl'}: holds no text."]
