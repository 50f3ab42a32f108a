"""Files into the index: only what has changed, and what cannot be read is named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from index_tools import DIMENSION, bag_of_words, count_embedded

from nbce_rag.errors import InputError, ReadError
from nbce_rag.index import PassageIndex


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(path: Path) -> Iterator[PassageIndex]:
    with PassageIndex.create(path, bag_of_words) as made:
        yield made


class TestFiles:
    def test_only_changes_are_taken_in(self, index: PassageIndex, tmp_path: Path) -> None:
        docs = tmp_path / "docs"
        docs.mkdir()
        (docs / "a.txt").write_text("Cats purr.")
        (docs / "b.md").write_text("# Dogs\n\nDogs bark.")
        report = index.add_files([docs])
        assert (report.files_added, report.passages_added, dict(report.files_failed)) == (2, 2, {})
        embedded = count_embedded(index)
        report = index.add_files([docs])
        assert (report.files_added, report.files_unchanged, report.passages_added) == (0, 2, 0)
        assert embedded == []

        (docs / "a.txt").write_text("Snakes hiss.")
        (docs / "b.md").unlink()
        report = index.add_files([docs])
        assert (report.files_added, report.files_unchanged) == (1, 0)
        assert (report.passages_added, report.passages_removed) == (1, 1)
        assert sorted(p.text for p in index if "purr" in p.text) == []
        assert len(index.sources()) == 2  # nothing but what changed is removed

    def test_other_splitting_is_a_change(self, index: PassageIndex, tmp_path: Path) -> None:
        file = tmp_path / "long.txt"
        file.write_text(" ".join(f"Sentence number {i} is here." for i in range(40)))
        index.add_files(file, max_tokens=100, overlap=0)  # type: ignore[arg-type]
        few = len(index)
        report = index.add_files([file], max_tokens=20, overlap=0)
        assert report.files_added == 1
        assert report.passages_removed == few
        assert len(index) > 2 * few

    def test_unchanged_passages_of_a_changed_file_are_not_embedded_again(
        self, index: PassageIndex, tmp_path: Path
    ) -> None:
        file = tmp_path / "notes.jsonl"
        lines = [json.dumps({"id": f"n{i}", "text": f"note {i}"}) for i in range(10)]
        file.write_text("\n".join(lines))
        index.add_files([file])
        embedded = count_embedded(index)
        file.write_text("\n".join([*lines[1:], json.dumps({"id": "n10", "text": "note 10"})]))
        report = index.add_files([file])
        assert embedded == ["note 10"]
        assert (report.passages_added, report.passages_removed) == (1, 1)
        assert "n0" not in index

    def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
        self, index: PassageIndex, tmp_path: Path
    ) -> None:
        good, empty, missing, mixed = (tmp_path / n for n in ("a.txt", "b.txt", "c.txt", "d.jsonl"))
        good.write_text("Cats purr.")
        empty.write_text("")
        mixed.write_text('{"text": "Dogs bark."}\nnot json\n')
        seen: list[ReadError] = []
        report = index.add_files([good, empty, missing, mixed], on_error=seen.append)
        assert report.files_added == 2
        assert list(report.files_failed) == [str(empty), str(missing)]
        for file, message in report.files_failed.items():
            assert file in message
        assert len(report.warnings) == 1
        assert "d.jsonl, line 2" in report.warnings[0]
        assert len(seen) == 3
        assert len(index) == 2

    def test_a_file_that_cannot_be_read_any_more_keeps_its_passages(
        self, index: PassageIndex, tmp_path: Path
    ) -> None:
        file = tmp_path / "a.txt"
        file.write_text("Cats purr.")
        index.add_files([file])
        file.write_text("")
        assert list(index.add_files([file]).files_failed) == [str(file)]
        assert len(index) == 1

    def test_on_error_may_stop_it(self, index: PassageIndex, tmp_path: Path) -> None:
        def stop(error: ReadError) -> None:
            raise error

        with pytest.raises(ReadError, match=r"none\.txt"):
            index.add_files([tmp_path / "none.txt"], on_error=stop)

    def test_an_empty_folder_is_reported(self, index: PassageIndex, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        report = index.add_files([tmp_path / "empty"])
        assert list(report.files_failed) == [str(tmp_path / "empty")]

    def test_two_reasons_of_one_folder_do_not_hide_each_other(
        self, index: PassageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "secret"
        folder.mkdir()

        def refuse(path: str) -> Any:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(os, "scandir", refuse)
        report = index.add_files([folder])
        (reasons,) = report.files_failed.values()
        assert reasons.splitlines()[0] == f"{folder}: cannot be read: Permission denied."
        assert "holds no file" in reasons.splitlines()[1]

    def test_folders_are_told_apart_by_all_of_their_names(self, index: PassageIndex, tmp_path: Path) -> None:
        folders = [tmp_path / "Notes: one", tmp_path / "Notes: two"]
        for folder in folders:
            folder.mkdir()
        assert list(index.add_files(folders).files_failed) == list(map(str, folders))

    def test_large_files_are_stored_in_batches_and_resumed(
        self, index: PassageIndex, path: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "many.jsonl"
        file.write_text("\n".join(json.dumps({"id": f"{i:04}", "text": f"note {i}"}) for i in range(600)))
        embedder: Any = index.embedder
        inner, calls = embedder._fn, []

        def interrupted(texts: list[str]) -> Any:
            calls.append(len(texts))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return inner(texts)

        embedder._fn = interrupted
        with pytest.raises(KeyboardInterrupt):
            index.add_files([file])
        embedder._fn = inner
        assert len(index) == 512
        embedded = count_embedded(index)
        said: list[tuple[int, int, str]] = []
        report = index.add_files([file], progress=lambda *args: said.append(args))
        assert len(embedded) == 88
        assert (report.files_added, report.passages_added, len(index)) == (1, 88, 600)
        assert said[0] == (0, 1, str(file))
        assert said[-1] == (1, 1, "")
        assert any("passage 256 of 600" in what for _, _, what in said)

    def test_deleting_a_source_lets_the_file_in_again(self, index: PassageIndex, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_text("Cats purr.")
        index.add_files([file])
        assert index.delete(source=file) == 1
        assert index.add_files([file]).files_added == 1

    def test_a_file_is_the_same_by_any_name(
        self, index: PassageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.txt").write_text("Cats purr.")
        (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
        monkeypatch.chdir(tmp_path)
        assert index.add_files(["a.txt", tmp_path / "a.txt", "link.txt"]).files_added == 1
        assert index.add_files([tmp_path / "link.txt"]).files_unchanged == 1
        assert index.delete(source=tmp_path / "a.txt") == 1

    def test_files_are_split_to_fit_the_embedder(self, path: Path, tmp_path: Path) -> None:
        class Small:
            name = "small"
            dimension = DIMENSION
            max_tokens = 12
            embed = staticmethod(bag_of_words)
            embed_query = staticmethod(lambda text: bag_of_words([text])[0])
            count_tokens = staticmethod(lambda text: len(text.split()))

        file = tmp_path / "long.txt"
        file.write_text(" ".join(f"word{i}" for i in range(100)))
        with PassageIndex.create(path, Small()) as index:  # type: ignore[arg-type]
            index.add_files([file])
            assert {len(p.text.split()) <= 12 for p in index} == {True}
            assert len(index) > 8
            with pytest.raises(InputError, match="overlap"):
                index.add_files([file], max_tokens=10, overlap=10)
