"""`nbce-rag index --check`, `--rebuild` and `--factory`, and conditions as people type them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from index_tools import ANIMALS, bag_of_words, damage
from typer.testing import CliRunner, Result

from nbce_rag.cli.main import app
from nbce_rag.cli.where import parse_where
from nbce_rag.errors import InputError
from nbce_rag.index import PassageIndex


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add(ANIMALS)
        index.compact()
    return tmp_path / "index"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["index", *arguments])


def test_check_and_rebuild(made: Path) -> None:
    result = run("--check", "--index", str(made))
    assert result.exit_code == 0, result.output
    assert "3 vectors, 0 removed, Flat, recall 1.000" in result.stdout
    assert "Passages: 3, 0 of them not in a FAISS file. No problems." in result.stdout
    (file,) = made.glob("vectors-*.faiss")
    damage(file, "random")
    result = run("--check", "--index", str(made))
    assert result.exit_code == 1
    assert "problem:" in result.stderr
    assert "Problems: 1." in result.stdout
    assert run("--rebuild", "--index", str(made)).exit_code == 0
    assert run("--check", "--index", str(made)).exit_code == 0


def test_factory(made: Path) -> None:
    result = run("--factory", "sq8", "--index", str(made))
    assert result.exit_code == 0, result.output
    assert ", SQ8, recall" in result.stdout
    result = run("--factory", "nonsense", "--index", str(made))
    assert result.exit_code == 2
    assert "factory='nonsense' is none for 32 dimensions" in result.stderr


def test_nothing_to_do(made: Path, tmp_path: Path) -> None:
    for arguments in ([], [str(tmp_path), "--check"]):
        result = run(*arguments, "--index", str(made))
        assert result.exit_code == 2
        assert "give either documents, or --check" in result.stderr
    assert "no passage index" in run("--check", "--index", str(tmp_path / "none")).stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year=1900", {"year": 1900}),
        ("language = en,de", {"language": ["en", "de"]}),
        ("year>=1900", {"year": {"$gte": 1900}}),
        ("year<2000", {"year": {"$lt": 2000}}),
        ("draft!=true", {"draft": {"$ne": True}}),
        ("tags~pet", {"tags": {"$contains": "pet"}}),
        ('id="7"', {"id": "7"}),
        ('{"$or": [{"a": 1}, {"b": 2}]}', {"$or": [{"a": 1}, {"b": 2}]}),
    ],
)
def test_conditions(text: str, expected: Any) -> None:
    assert parse_where([text]) == {"$and": [expected]}
    assert parse_where([text, "x=1"]) == {"$and": [expected, {"x": 1}]}


def test_what_is_no_condition() -> None:
    assert parse_where([]) is None
    for text in ("year", "=3", "{year", "year>>3", "a==b"):
        with pytest.raises(InputError, match="--where"):
            parse_where([text])
