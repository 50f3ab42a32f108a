"""`nbce-rag index --check`, `--rebuild` and `--factory`, and conditions as people type them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
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
        ("year=1900", {"year": ["1900", 1900]}),
        ("language = en,de", {"language": ["en", "de", "en,de"]}),
        ("year>=1900", {"$or": [{"year": {"$gte": "1900"}}, {"year": {"$gte": 1900}}]}),
        ("when<2000-01", {"when": {"$lt": "2000-01"}}),
        ("draft!=true", {"draft": {"$nin": ["true", True]}}),
        ("version=1.10", {"version": "1.10"}),
        ("zip=01234", {"zip": "01234"}),
        ('author="Venn, Ada",Tolk', {"author": ["Venn, Ada", "Tolk"]}),
        ("author=Venn, Ada", {"author": ["Venn", "Ada", "Venn, Ada"]}),
        ('tags~"a,b"', {"tags": {"$contains": "a,b"}}),
        ("path=C:\\docs\\a=b", {"path": "C:\\docs\\a=b"}),
        ('"odd=key"=x', {"odd=key": "x"}),
        ("year=[1900, 1901]", {"year": [1900, 1901]}),
        ('note="say \\"no\\""', {"note": 'say "no"'}),
        ("empty=", {"empty": ""}),
        ("tags~pet", {"tags": {"$contains": "pet"}}),
        ('id="7"', {"id": "7"}),
        ('{"$or": [{"a": 1}, {"b": 2}]}', {"$or": [{"a": 1}, {"b": 2}]}),
    ],
)
def test_conditions(text: str, expected: Any) -> None:
    assert parse_where([text]) == {"$and": [expected]}
    assert parse_where([text, "x=1"]) == {"$and": [expected, {"x": ["1", 1]}]}


def test_what_is_no_condition() -> None:
    assert parse_where([]) is None
    for text in ("year", "=3", "{year", "year>>3", "a==b", "a!b=3", '"a" b=3', "x" * 70_000 + "=1"):
        with pytest.raises(InputError, match="--where"):
            parse_where([text])


RECORDS = [
    {
        "id": 42,
        "title": "1984",
        "text": "The tide gauge at Brill reads nine.",
        "metadata": {
            "year": "2024",
            "version": "1.10",
            "isbn": "9783161484100",
            "zip": "01234",
            "author": "Venn, Ada",
            "flag": "true",
            "none": "null",
            "tags": ["a,b", "c"],
            "ratio": 1.0,
            "when": "2024-03-05",
            "a.b": "x",
            "nested": {"k": {"z": 1}, "town": "Brill"},
            "path": "C:\\docs\\a=b",
        },
    },
    {
        "id": "x7",
        "title": "Other",
        "text": "The lamp is lit at dusk.",
        "metadata": {
            "year": 2024,
            "version": 1.1,
            "author": "Tolk, Bram",
            "flag": True,
            "none": None,
            "tags": [],
            "ratio": 1,
            "when": "2023-12-31",
        },
    },
]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PassageIndex]:
    folder = tmp_path_factory.mktemp("records")
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    with PassageIndex.create(folder / "index", bag_of_words) as index:
        index.add_files([folder / "records.jsonl"])
        yield index


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id=42", {"42"}),
        ("title=1984", {"42"}),
        ("isbn=9783161484100", {"42"}),
        ("version=1.10", {"42"}),
        ("version=1.1", {"x7"}),
        ("version!=1.10", {"x7"}),
        ('author="Venn, Ada"', {"42"}),
        ("author=Venn, Ada", {"42"}),
        ("author~Ada", {"42"}),
        ("zip=01234", {"42"}),
        ("year=2024", {"42", "x7"}),
        ('year="2024"', {"42"}),
        ('{"year": 2024}', {"x7"}),
        ("year>=2000", {"42", "x7"}),
        ("flag=true", {"42", "x7"}),
        ('{"flag": true}', {"x7"}),
        ("none=null", {"42", "x7"}),
        ('{"none": null}', {"x7"}),
        ("tags~c", {"42"}),
        ('tags~"a,b"', {"42"}),
        ("tags=[]", {"x7"}),
        ("ratio=1", {"42", "x7"}),
        ("ratio=1.0", {"42", "x7"}),
        ("when>=2024-01-01", {"42"}),
        ("when>=2024", {"42"}),
        ("when<2024-01-01", {"x7"}),
        ("a.b=x", {"42"}),
        ("nested.town=Brill", {"42"}),
        ("nested.k.z=1", {"42"}),
        ("nested.k.z>1", set()),
        ("nested.k.y=1", set()),
        ("path=C:\\docs\\a=b", {"42"}),
    ],
)
@pytest.mark.parametrize("few", [512, 0])
def test_what_is_typed_finds_what_it_says(
    records: PassageIndex, text: str, expected: set[str], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbce_rag.index.filters.lookup._READ_UP_TO", few)
    where = parse_where([text])
    assert {p.id for p in records.find(where)} == expected
    assert {p.id for p in records.search("tide", where=where)} == expected


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["year>=2030"],
            "Of 2 passages none meets year >= '2030' or year >= 2030 (values of year are numbers",
        ),
        (["yaer=2024"], "(no metadata have 'yaer'; they have a.b, author, "),
        (["id=43", "year=2024"], "none meets id = '43' or 43."),
        (["year=2024", "version=1.10", "none=null", "zip!=01234"], "none meets all conditions at once"),
        (["nested.k=2"], "(values of nested.k are mappings)"),
    ],
)
def test_what_excluded_everything_is_said(records: PassageIndex, typed: list[str], message: str) -> None:
    where = parse_where(typed)
    assert records.search("tide", where=where) == []
    assert message in records.explain(where)


@pytest.mark.parametrize("sign", ["a", "a=b", '"', "=[", "a~", "a=1,"])
def test_long_conditions_are_read_in_linear_time(sign: str) -> None:
    for filler in (" ", ",", '"', "[", "=", "\\"):
        start = time.perf_counter()
        with suppress(InputError):
            parse_where([sign + filler * 60_000 + "c"])
        assert time.perf_counter() - start < 2.0


def test_values_that_were_read_wrongly() -> None:
    """A list is a list, NaN is a text, and what JSON cannot read in a key's quotes is no condition."""
    assert parse_where(['tags=[["a","b"]]']) == {"$and": [{"tags": {"$eq": ["a", "b"]}}]}
    assert parse_where(["title=NaN"]) == {"$and": [{"title": "NaN"}]}
    assert parse_where(["x=Infinity"]) == {"$and": [{"x": "Infinity"}]}
    with pytest.raises(InputError, match="is no condition"):
        parse_where(['"a\\qb"=1'])
