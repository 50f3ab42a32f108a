"""The index follows its folders: what is new, changed, renamed or deleted; and what it holds is shown."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from index_tools import ANIMALS, bag_of_words, count_embedded, open_again
from typer.testing import CliRunner, Result

from nbce_rag.cli.main import app
from nbce_rag.documents import readers
from nbce_rag.documents.document import Document
from nbce_rag.documents.limits import ReadLimits
from nbce_rag.errors import InputError
from nbce_rag.index import PassageIndex
from nbce_rag.index.sqlite.storage import Storage
from nbce_rag.passages import Passage

NOTES = {
    "a.txt": "Cats purr.",
    "b.md": "# Dogs\n\nDogs bark.",
    "sub/c.txt": "Birds sing.",
    "d.txt": "Cows low.",
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for name, text in NOTES.items():
        file = tmp_path / "docs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "docs"


@pytest.fixture
def index(tmp_path: Path, docs: Path) -> Iterator[PassageIndex]:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as made:
        made.sync_files([docs])
        yield made
    with open_again(tmp_path / "index") as again:
        assert again.check().ok


def texts(index: PassageIndex) -> set[str]:
    return {passage.text for passage in index}


def agree(count: int, total: int) -> bool:
    return True


class TestSync:
    @pytest.fixture
    def index(self, place: Path | str, docs: Path) -> Iterator[PassageIndex]:
        with PassageIndex.create(place, bag_of_words) as made:
            made.sync_files([docs])
            yield made
        with open_again(place) as again:
            assert again.check().ok

    def test_first_and_again(self, tmp_path: Path, docs: Path) -> None:
        (docs / "x.png").write_bytes(b"\x89PNG")
        (docs / "y.PNG").write_bytes(b"\x89PNG")
        (docs / "program").write_bytes(b"\x7fELF\0\0")
        (docs / ".hidden").write_text("no")
        with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
            report = index.sync_files(docs)  # type: ignore[arg-type]
            assert report.files_added == tuple(
                str(docs / name) for name in ("a.txt", "b.md", "d.txt", "sub/c.txt")
            )
            assert report.other_types == {".png": 2, "": 1}
            assert (report.passages_added, report.passages_removed) == (4, 0)
            embedded = count_embedded(index)
            again = index.sync_files([docs])
            assert (again.files_added, again.files_changed, again.files_unchanged) == ((), (), 4)
            assert embedded == []

    def test_changed_and_deleted(self, index: PassageIndex, docs: Path) -> None:
        (docs / "a.txt").write_text("Snakes hiss.")
        (docs / "sub/c.txt").unlink()
        (docs / "sub").rmdir()
        report = index.sync_files([docs])
        assert report.files_changed == (str(docs / "a.txt"),)
        assert report.files_removed == (str(docs / "sub/c.txt"),)
        assert (report.files_added, report.files_moved, report.files_unchanged) == ((), {}, 2)
        assert (report.passages_added, report.passages_removed) == (1, 2)
        assert not texts(index) & {"Cats purr.", "Birds sing."}
        assert len(index) == 3

    def test_renamed_ones_move_without_embedding(self, index: PassageIndex, docs: Path) -> None:
        vectors = index.vectors([p.id for p in index if p.text == "Cats purr."])
        embedded = count_embedded(index)
        (docs / "a.txt").rename(docs / "zebra.txt")
        (docs / "sub").rename(docs / "other")
        report = index.sync_files([docs])
        assert report.files_moved == {
            str(docs / "zebra.txt"): str(docs / "a.txt"),
            str(docs / "other/c.txt"): str(docs / "sub/c.txt"),
        }
        assert embedded == []
        assert (report.files_added, report.files_removed, report.files_unchanged) == ((), (), 2)
        assert (report.passages_added, report.passages_removed) == (0, 0)
        (moved,) = [p for p in index if p.text == "Cats purr."]
        assert moved.source == (docs / "zebra.txt").as_posix()
        assert moved.id not in vectors  # as if it had been taken in there
        assert index.vectors([moved.id])[moved.id].tolist() == next(iter(vectors.values())).tolist()
        assert index.search("cats purr", 1)[0].source == moved.source
        assert index.search("purr", 1, mode="words")[0].id == moved.id
        assert [p.id for p in index.find({"source": moved.source})] == [moved.id]
        again = index.sync_files([docs])
        assert (again.files_unchanged, again.files_moved) == (4, {})

    def test_a_moved_index_is_as_one_made_anew(self, index: PassageIndex, docs: Path, tmp_path: Path) -> None:
        (docs / "long.txt").write_text(" ".join(f"Sentence number {i} is here." for i in range(400)))
        index.sync_files([docs], max_tokens=20, overlap=0)
        (docs / "long.txt").rename(docs / "moved.txt")
        embedded = count_embedded(index)
        report = index.sync_files([docs], max_tokens=20, overlap=0)
        assert embedded == []
        assert list(report.files_moved) == [str(docs / "moved.txt")]
        with PassageIndex.create(tmp_path / "fresh", bag_of_words) as fresh:
            fresh.sync_files([docs], max_tokens=20, overlap=0)
            assert sorted(fresh, key=lambda p: p.id) == sorted(index, key=lambda p: p.id)

    def test_a_file_renamed_over_another(self, index: PassageIndex, docs: Path) -> None:
        embedded = count_embedded(index)
        (docs / "a.txt").replace(docs / "d.txt")
        report = index.sync_files([docs])
        assert list(report.files_moved) == [str(docs / "d.txt")]
        assert report.passages_removed == 1
        assert embedded == []
        assert texts(index) == {"Cats purr.", "# Dogs\n\nDogs bark.", "Birds sing."}

    def test_records_keep_their_ids_when_their_file_moves(self, index: PassageIndex, docs: Path) -> None:
        lines = [json.dumps({"id": f"n{i}", "text": f"note {i}", "year": i}) for i in range(3)]
        (docs / "notes.jsonl").write_text("\n".join(lines))
        index.sync_files([docs])
        embedded = count_embedded(index)
        (docs / "notes.jsonl").rename(docs / "sub" / "records.jsonl")
        report = index.sync_files([docs])
        assert list(report.files_moved.values()) == [str(docs / "notes.jsonl")]
        assert embedded == []
        passage = index.get("n1")
        assert passage is not None
        assert passage.source == (docs / "sub/records.jsonl").as_posix()
        assert [p.id for p in index.find({"year": {"$gte": 1}})] == ["n1", "n2"]

    def test_renamed_to_another_type_it_is_read_anew(self, index: PassageIndex, docs: Path) -> None:
        (docs / "b.md").rename(docs / "b.txt")
        report = index.sync_files([docs])
        assert report.files_moved == {str(docs / "b.txt"): str(docs / "b.md")}
        assert len(index) == 4
        (docs / "b.txt").rename(docs / "b.pdf")  # which it is not
        report = index.sync_files([docs])
        assert list(report.files_failed) == [str(docs / "b.pdf")]
        assert report.files_missing == (str(docs / "b.txt"),)
        assert len(index) == 4

    @pytest.mark.parametrize("name", ["a.pdf", "zebra.pdf"])
    def test_a_copy_that_cannot_be_read_is_no_new_name_where_another_is(
        self, index: PassageIndex, docs: Path, name: str
    ) -> None:
        (docs / name).write_text("Cats purr.")
        assert list(index.sync_files([docs]).files_failed) == [str(docs / name)]
        for new, old in (("moved.txt", "a.txt"), ("again.txt", "moved.txt")):
            embedded = count_embedded(index)
            (docs / old).rename(docs / new)
            report = index.sync_files([docs])
            assert report.files_moved == {str(docs / new): str(docs / old)}
            assert (report.files_missing, report.files_removed, embedded) == ((), (), [])
            assert list(report.files_failed) == [str(docs / name)]
            assert [p.source for p in index if p.text == "Cats purr."] == [(docs / new).as_posix()]

    def test_of_several_copies_as_many_move_as_are_gone(self, index: PassageIndex, docs: Path) -> None:
        (docs / "copy.txt").write_text("Cats purr.")
        index.sync_files([docs])
        for new in ("1.pdf", "2.txt", "3.pdf"):
            (docs / new).write_text("Cats purr.")
        (docs / "a.txt").unlink()
        (docs / "copy.txt").unlink()
        report = index.sync_files([docs])
        # One that cannot be read may be a new name as well, so what there was stays.
        assert report.files_moved == {str(docs / "2.txt"): str(docs / "a.txt")}
        assert report.files_missing == (str(docs / "copy.txt"),)
        assert len(index) == 5

    def test_one_of_two_copies_is_gone(self, index: PassageIndex, docs: Path) -> None:
        (docs / "copy.txt").write_text("Cats purr.")
        index.sync_files([docs])
        (docs / "a.txt").unlink()
        report = index.sync_files([docs])
        assert (report.files_moved, report.files_removed) == ({}, (str(docs / "a.txt"),))
        assert "Cats purr." in texts(index)

    def test_what_lies_elsewhere_stays(self, index: PassageIndex, docs: Path, tmp_path: Path) -> None:
        other = tmp_path / "docs-2"
        other.mkdir()
        (other / "e.txt").write_text("Owls hoot.")
        index.add(ANIMALS)
        index.sync_files([other])
        (other / "e.txt").unlink()
        (docs / "a.txt").unlink()
        assert index.sync_files([docs / "sub", docs / "d.txt"]).files_removed == ()
        assert index.sync_files([docs]).files_removed == (str(docs / "a.txt"),)
        assert "Owls hoot." in texts(index)
        assert {p.id for p in ANIMALS} <= {p.id for p in index}

    def test_what_is_missing_itself_keeps_its_passages(self, index: PassageIndex, docs: Path) -> None:
        docs.rename(docs.with_name("unmounted"))
        report = index.sync_files([docs, docs / "a.txt"])
        assert set(report.files_failed) == {str(docs), str(docs / "a.txt")}
        assert len(index) == 4

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads every folder")
    def test_what_cannot_be_looked_into_stays(self, index: PassageIndex, docs: Path) -> None:
        (docs / "sub").chmod(0)
        try:
            report = index.sync_files([docs])
        finally:
            (docs / "sub").chmod(0o700)
        assert report.files_removed == ()
        assert len(index) == 4

    def test_what_cannot_be_told_to_be_gone_stays(
        self, index: PassageIndex, docs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (docs / "a.txt").unlink()
        lstat = os.lstat

        def refuse(path: Any, **more: Any) -> Any:
            if str(path).endswith("a.txt"):
                raise PermissionError(13, "Permission denied")
            return lstat(path, **more)

        monkeypatch.setattr("nbce_rag.index.sync.os.lstat", refuse)
        assert index.sync_files([docs]).files_removed == ()
        assert "Cats purr." in texts(index)

    def test_names_that_are_not_utf_8(self, index: PassageIndex, docs: Path) -> None:
        try:
            odd = Path(os.fsdecode(os.fsencode(docs) + b"/\xe9.txt"))
            odd.write_text("Goats bleat.")
        except OSError:
            pytest.skip("this file system has names in UTF-8 only")
        assert index.sync_files([docs]).files_added == (str(odd),)
        odd.rename(docs / "plain.txt")
        assert index.sync_files([docs]).files_moved == {str(docs / "plain.txt"): str(odd)}
        (docs / "plain.txt").rename(odd)
        assert index.sync_files([docs]).files_moved == {str(odd): str(docs / "plain.txt")}
        odd.unlink()
        assert index.sync_files([docs]).files_removed == (str(odd),)

    def test_keep_missing(self, index: PassageIndex, docs: Path) -> None:
        for name in ("a.txt", "b.md", "sub/c.txt"):
            (docs / name).unlink()
        (docs / "d.txt").rename(docs / "e.txt")
        report = index.sync_files([docs], keep_missing=True)
        assert len(report.files_missing) == 3
        assert (report.files_removed, list(report.files_moved)) == ((), [str(docs / "e.txt")])
        assert len(index) == 4

    def test_more_than_half_has_to_be_agreed_to(self, index: PassageIndex, docs: Path) -> None:
        for name in ("a.txt", "b.md", "sub/c.txt"):
            (docs / name).unlink()
        (docs / "new.txt").write_text("Frogs croak.")
        seen: list[tuple[int, int]] = []

        def decline(count: int, total: int) -> bool:
            seen.append((count, total))
            return False

        with pytest.raises(InputError, match=r"3 of 4 passages would be removed.*--keep-missing"):
            index.sync_files([docs])
        with pytest.raises(InputError, match="nothing was changed"):
            index.sync_files([docs], confirm=decline)
        assert seen == [(3, 4)]
        assert len(index) == 4
        assert "Frogs croak." not in texts(index)
        report = index.sync_files([docs], confirm=agree)
        assert len(report.files_removed) == 3
        assert texts(index) == {"Cows low.", "Frogs croak."}

    def test_half_needs_no_agreement(self, index: PassageIndex, docs: Path) -> None:
        (docs / "a.txt").unlink()
        (docs / "b.md").unlink()
        assert len(index.sync_files([docs]).files_removed) == 2

    def test_a_whole_folder_that_moves_asks_nothing(self, index: PassageIndex, docs: Path) -> None:
        (docs / "new").mkdir()
        for name in ("a.txt", "b.md", "d.txt", "sub"):
            (docs / name).rename(docs / "new" / name)
        assert len(index.sync_files([docs]).files_moved) == 4

    def test_files_are_read_anew_when_their_reader_has_changed(
        self, tmp_path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (docs / "page.html").write_text("<p>Foxes yelp.</p>")
        (docs / "same.html").write_text("<p>Goats bleat.</p>")
        mail = "From: a@example.org\nSubject: Hens\nContent-Type: text/html\n\n<p>Hens cluck.</p>"
        (docs / "a.eml").write_text(mail)

        def older(path: Path, data: bytes, limits: ReadLimits) -> Document:
            return Document(data.decode().replace("<p>Foxes", "Foxes</p>").replace("<p>", "").strip("</p>"))

        with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
            with monkeypatch.context() as patch:
                patch.setitem(readers._DOCUMENTS, ".html", older)
                for suffix in (".html", ".eml"):
                    patch.setitem(readers._VERSIONS, suffix, 0)
                index.sync_files([docs])
            assert {"Foxes</p> yelp.", "Goats bleat."} <= texts(index)
            embedded = count_embedded(index)
            report = index.sync_files([docs])
            assert sorted(report.files_changed) == [
                str(docs / name) for name in ("a.eml", "page.html", "same.html")
            ]
            assert (report.files_added, report.files_unchanged) == ((), 4)
            assert (report.passages_added, report.passages_removed) == (1, 1)
            assert embedded == ["Foxes yelp."]
            assert {"Foxes yelp.", "Goats bleat."} <= texts(index)
            assert index.sync_files([docs]).files_unchanged == 7

    def test_only_text_as_it_stands_has_readers_without_a_version(self) -> None:
        plain = {".txt", ".md", ".markdown", ".mdx", ".rst", ".adoc", ".org", ".tex", ".jsonl", ".jsonl.gz"}
        assert {end for end in readers.SUFFIXES if not readers.reader_version(Path(f"a{end}"))} == plain
        assert readers.reader_version(Path("setup.cfg")) == 0

    def test_wrong_arguments(self, index: PassageIndex, docs: Path) -> None:
        with pytest.raises(InputError, match="confirm"):
            index.sync_files([docs], confirm=True)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="paths"):
            index.sync_files(5)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="path must be"):
            index.sync_files([5])  # type: ignore[list-item]
        with pytest.raises(InputError, match="overlap"):
            index.sync_files([docs], max_tokens=10, overlap=10)
        assert list(index.sync_files([docs, "nul\0.txt"]).files_failed) == ["nul\0.txt"]
        assert len(index) == 4


class Killed(BaseException):
    """Ends a call where a killed process would end."""


@pytest.mark.parametrize("call", range(12))
def test_killed_between_any_two_transactions_the_next_run_ends_right(
    call: int, tmp_path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (docs / "long.txt").write_text(" ".join(f"Sentence number {i} is here." for i in range(800)))
    options: Any = {"max_tokens": 10, "overlap": 0}
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.sync_files([docs], **options)
    (docs / "long.txt").write_text(" ".join(f"Phrase number {i} is there." for i in range(800)))
    (docs / "a.txt").rename(docs / "moved.txt")
    (docs / "b.md").write_text("# Wolves\n\nWolves howl.")
    (docs / "d.txt").unlink()
    write = Storage.write
    left = call

    def dying(self: Storage) -> Any:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return write(self)

    with open_again(tmp_path / "index") as index, monkeypatch.context() as patch:
        patch.setattr(Storage, "write", dying)
        with suppress(Killed):
            index.sync_files([docs], **options)
    if call % 2:  # what was half taken in is as it was before, or gone
        (docs / "long.txt").write_text(" ".join(f"Sentence number {i} is here." for i in range(800)))
        (docs / "moved.txt").rename(docs / "again.txt")
    with (
        open_again(tmp_path / "index") as index,
        PassageIndex.create(tmp_path / "fresh", bag_of_words) as fresh,
    ):
        index.sync_files([docs], confirm=agree, **options)
        fresh.sync_files([docs], **options)
        assert sorted(index, key=lambda p: p.id) == sorted(fresh, key=lambda p: p.id)
        assert index.check().ok
        assert index.sync_files([docs], **options).files_unchanged == 5 - 1


def test_a_begun_file_that_is_gone_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "long.txt").write_text(" ".join(f"Sentence number {i} is here." for i in range(800)))
    (docs / "a.txt").write_text("Cats purr.")
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        finish = Storage.finish_file

        def die(*arguments: Any) -> int:
            raise Killed

        monkeypatch.setattr(Storage, "finish_file", die)
        with pytest.raises(Killed):
            index.sync_files([docs], max_tokens=10, overlap=0)
        assert len(index) >= 256
        monkeypatch.setattr(Storage, "finish_file", finish)
        (docs / "long.txt").unlink()
        index.sync_files([docs], max_tokens=10, overlap=0, confirm=agree)
        assert texts(index) == {"Cats purr."}


def test_entries(index: PassageIndex, docs: Path) -> None:
    index.add([*ANIMALS[:2], Passage("ünnamed")])
    entries = {entry.source: entry for entry in index.source_entries()}
    assert list(entries)[-1] is None
    assert (entries[None].passages, entries[None].size, entries[None].stored_at) == (1, 8, None)
    assert (entries["a.txt"].passages, entries["a.txt"].size) == (2, len("cats purrdogs bark"))
    entry = entries[(docs / "a.txt").as_posix()]
    assert entry.stored_at == pytest.approx((docs / "a.txt").stat().st_mtime, abs=60)


def test_an_index_of_version_3_migrates(index: PassageIndex, docs: Path) -> None:
    index.close()
    with closing(sqlite3.connect(index.path / "passages.sqlite")) as connection:
        connection.execute("ALTER TABLE files DROP COLUMN stored_at")
        connection.execute("PRAGMA user_version = 3")
        connection.commit()
    with open_again(index.path) as again:
        assert [entry.stored_at for entry in again.source_entries()] == [None] * 4
        (docs / "a.txt").write_text("Snakes hiss.")
        assert again.sync_files([docs]).files_unchanged == 3
        assert sum(entry.stored_at is not None for entry in again.source_entries()) == 1


def run(*arguments: object, **more: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


@pytest.fixture
def path(index: PassageIndex, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that the command line can write to: it opens it with the embedder of these tests."""
    opened = PassageIndex.open

    def open_it(path: Any, embedder: Any = None, **options: Any) -> PassageIndex:
        return opened(path, embedder or bag_of_words, **options)

    monkeypatch.setattr(PassageIndex, "open", open_it)
    return index.path


class TestCommands:
    def test_index_says_what_it_did(self, path: Path, docs: Path) -> None:
        (docs / "a.txt").rename(docs / "z.txt")
        (docs / "b.md").write_text("# Wolves\n\nWolves howl.")
        (docs / "d.txt").unlink()
        (docs / "new.txt").write_text("Frogs croak.")
        for name in ("x.png", "y.png", "z.zip", "Makefile"):
            (docs / name).write_text("")
        result = run("index", docs, "--index", path)
        assert result.exit_code == 0, result.output
        assert result.stdout == (
            "Files: 1 added, 1 changed, 1 moved, 1 removed, 1 unchanged, 0 failed. "
            "Passages: 2 added, 2 removed, 4 in the index.\n"
        )
        assert f"moved: {docs / 'a.txt'} -> {docs / 'z.txt'}\n" in result.stderr
        assert f"removed: {docs / 'd.txt'} is gone\n" in result.stderr
        assert "4 files of other types passed over: .png (2), " in result.stderr
        assert "no suffix" in result.stderr

    def test_index_within_limits(self, path: Path, docs: Path) -> None:
        (docs / "long.txt").write_text("Long. " * 100)
        result = run(
            "index", docs, "--index", path, "--limit", "max_bytes=0.5kB", "--limit", "max_seconds=9.5"
        )
        assert result.exit_code == 0, result.output
        assert "0 added, 4 unchanged, 1 failed" in result.stdout
        assert f"failed: {docs / 'long.txt'}: " in result.stderr
        assert "max_bytes" in result.stderr
        assert "1 added" in run("index", docs, "--index", path).stdout

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            (["max_pages"], "--limit 'max_pages' sets no limit; write it like max_pages=2000"),
            (["most=3"], "with one of max_bytes, max_unpacked_bytes, max_depth, max_pages, max_seconds"),
            (["max_pages=1.5"], "--limit max_pages='1.5' must be a whole number"),
            (["max_pages=0"], "max_pages=0 is out of range"),
            (["max_seconds=soon"], "--limit max_seconds='soon' must be a number"),
            (["max_seconds=nan"], "max_seconds=nan must be a number"),
            (["max_bytes=many"], "'many' is no size"),
            (["max_depth=9", "max_depth=8"], "--limit max_depth is given twice"),
        ],
    )
    def test_limits_that_are_none(self, path: Path, docs: Path, limits: list[str], message: str) -> None:
        options = [part for limit in limits for part in ("--limit", limit)]
        result = run("index", docs, "--index", path, *options)
        assert result.exit_code == 2
        assert message in result.stderr.replace("\n", " ")
        result = run("index", "--check", "--index", path, *options)
        assert "--limit goes with documents" in result.stderr

    def test_index_reads_in_other_processes(self, path: Path, docs: Path) -> None:
        for number in range(3):
            (docs / f"page{number}.html").write_text(f"<p>Page {number}.</p>")
        result = run("index", docs, "--index", path, "--workers", "2")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("Files: 3 added, 4 unchanged, 0 failed. Passages: 3 added,")
        assert run("index", docs, "--index", path, "--workers", "0").exit_code == 2

    def test_index_says_which_packages_would_read_more(
        self, path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nbce_rag.documents import readers

        monkeypatch.setattr(readers, "find_spec", lambda name: None)
        for name in ("a.docx", "b.docx", "c.xlsx", "x.png"):
            (docs / name).write_bytes(b"PK")
        result = run("index", docs, "--index", path)
        assert "4 files of other types passed over: .docx (2), " in result.stderr
        assert ".docx, .xlsx would be read with: pip install 'nbce-rag[documents]'" in result.stderr

    def test_index_removes_most_of_an_index_only_when_told_to(self, path: Path, docs: Path) -> None:
        for name in ("a.txt", "b.md", "d.txt"):
            (docs / name).unlink()
        result = run("index", docs, "--index", path)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: 3 of 4 passages would be removed")
        assert result.stdout == ""
        result = run("index", docs, "--index", path, "--keep-missing")
        assert result.exit_code == 0
        assert "3 files that are gone stay in the index: " in result.stderr
        assert "4 in the index" in result.stdout
        result = run("index", docs, "--index", path, "--yes")
        assert result.exit_code == 0
        assert "3 removed, 1 unchanged" in result.stdout

    @pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 1), ("n\n", 2, 4), ("", 1, 4)])
    def test_index_asks_on_a_terminal(
        self, path: Path, docs: Path, answer: str, code: int, left: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a.txt", "b.md", "d.txt"):
            (docs / name).unlink()
        monkeypatch.setattr("nbce_rag.cli.index.on_terminal", lambda: True)
        result = run("index", docs, "--index", path, input=answer)
        assert "3 of 4 passages are gone. Remove these passages?" in result.stderr
        assert result.exit_code == code
        with open_again(path) as index:
            assert len(index) == left

    def test_a_folder_that_was_emptied(self, path: Path, docs: Path) -> None:
        for name in NOTES:
            (docs / name).unlink()
        result = run("index", docs, "--index", path, "--yes")
        assert result.exit_code == 0
        assert "4 removed" in result.stdout
        assert "0 in the index" in result.stdout

    def test_options_that_go_with_documents(self, path: Path) -> None:
        for option in ("--yes", "--keep-missing"):
            result = run("index", "--check", "--index", path, option)
            assert result.exit_code == 2
            assert f"{option} goes with documents" in result.stderr

    def test_list(self, path: Path, docs: Path) -> None:
        result = run("list", "--index", path)
        assert result.exit_code == 0, result.output
        assert "Sources: 4. Passages: 4." in result.stdout
        result = run("list", "--index", path, "--json")
        report = json.loads(result.stdout)
        assert [entry["source"] for entry in report["sources"]] == [
            (docs / name).as_posix() for name in ("a.txt", "b.md", "d.txt", "sub/c.txt")
        ]
        first = report["sources"][0]
        assert (first["passages"], first["bytes"]) == (1, 10)
        assert first["stored_at"].startswith("20")

    def test_list_of_an_empty_index(self, tmp_path: Path) -> None:
        with PassageIndex.create(tmp_path / "empty", bag_of_words):
            pass
        result = run("list", "--index", tmp_path / "empty")
        assert (result.exit_code, result.stdout) == (0, "Sources: 0. Passages: 0.\n")
        result = run("list", "--index", tmp_path / "none")
        assert result.exit_code == 2
        assert "no passage index" in result.stderr

    def test_show(self, path: Path, docs: Path) -> None:
        with open_again(path) as index:
            index.add(
                [
                    Passage(
                        "gold\x1b[31m",
                        id="au",
                        title="Gold",
                        source="g.txt",
                        start=3,
                        end=12,
                        metadata={"z": [79]},
                    )
                ]
            )
        result = run("show", "au", "--index", path)
        assert result.exit_code == 0, result.output
        assert result.stdout == (
            "id: au\nsource: g.txt, characters 3 to 12\ntitle: Gold\nz: [79]\n\ngold[31m\n"
        )
        report = json.loads(run("show", "au", "--index", path, "--json").stdout)
        assert report == {
            "id": "au",
            "source": "g.txt",
            "start": 3,
            "end": 12,
            "title": "Gold",
            "metadata": {"z": [79]},
            "text": "gold\x1b[31m",
        }
        result = run("show", "ag", "--index", path)
        assert result.exit_code == 2
        assert "no passage with the id 'ag'" in result.stderr

    def test_remove(self, path: Path, docs: Path) -> None:
        result = run("remove", docs / "a.txt", docs / "b.md", "--index", path)
        assert result.exit_code == 0, result.output
        assert result.stdout == "Passages: 2 removed, 2 in the index.\n"
        result = run("remove", docs / "c.txt", "--index", path)
        assert result.exit_code == 2
        assert "nothing of" in result.stderr
        assert (docs / "sub/c.txt").as_posix() in result.stderr
        assert run("index", docs, "--index", path).stdout.startswith("Files: 2 added, 2 unchanged")

    def test_watch_needs_its_package(self, path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "watchfiles", None)
        result = run("index", docs, "--index", path, "--watch")
        assert result.exit_code == 2
        assert "pip install 'nbce-rag[watch]'" in result.stderr

    def test_watch_follows_until_it_is_interrupted(
        self, path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def watch(*paths: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
            assert paths == (str(docs),)
            yield set()
            yield set()
            (docs / "a.txt").rename(docs / "z.txt")
            yield {(1, str(docs / "z.txt"))}
            yield {(1, str(path / "passages.sqlite-wal"))}
            for name in ("z.txt", "b.md", "d.txt"):
                (docs / name).unlink()
            yield {(3, str(docs / "b.md"))}
            (docs / "b.md").write_text("Wolves howl.")
            yield {(1, str(docs / "b.md"))}
            raise KeyboardInterrupt

        monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch))
        result = run("index", docs, "--index", path, "--watch")
        assert result.exit_code == 130
        lines = [line.split(". Passages")[0] for line in result.stdout.splitlines()]
        assert lines == [
            "Files: 0 added, 4 unchanged, 0 failed",
            "Files: 0 added, 1 moved, 3 unchanged, 0 failed",
            "Files: 0 added, 1 changed, 2 removed, 1 unchanged, 0 failed",
        ]
        assert "error: 3 of 4 passages would be removed" in result.stderr

    def test_watch_passes_over_what_is_excluded(
        self, path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def watch(*paths: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
            (docs / "draft.txt").write_text("Owls hoot.")
            (docs / "owls.txt").write_text("Owls hoot at night.")
            yield {(1, str(docs / "draft.txt"))}
            (docs / ".nbceignore").write_text("owls*\n")
            yield {(1, str(docs / ".nbceignore"))}
            raise KeyboardInterrupt

        monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch))
        result = run("index", docs, "--index", path, "--watch", "--exclude", "draft*")
        lines = [line.split(". Passages")[0] for line in result.stdout.splitlines()]
        assert lines == [
            "Files: 0 added, 4 unchanged, 0 failed",
            "Files: 1 added, 4 unchanged, 0 failed",
            "Files: 0 added, 1 removed, 4 unchanged, 0 failed",
        ]
        assert "owls.txt is excluded" in result.stderr

    def test_watch_of_what_is_not_there(
        self, path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace())
        result = run("index", docs / "none", "--index", path, "--watch")
        assert result.exit_code == 2
        assert "nothing to watch" in result.stderr
