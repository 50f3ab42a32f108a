"""What Python, NumPy and pandas give as plain values: in metadata, in conditions, in messages."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_tools import bag_of_words

from nbce_rag.errors import InputError
from nbce_rag.index import AllOf, FieldTest, Negation, PassageIndex
from nbce_rag.passages import Passage
from nbce_rag.values import NotPlainError, mended, plain, shown


class Kind(enum.StrEnum):
    A = "enum-a"


class Rank(enum.IntEnum):
    FIRST = 1


class Colour(enum.Enum):
    RED = ("red", Rank.FIRST)


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"


TAKEN = {
    "str of NumPy": (np.str_("x"), "x"),
    "str of its own mind": (Loud("x"), "x"),
    "StrEnum": (Kind.A, "enum-a"),
    "IntEnum": (Rank.FIRST, 1),
    "Enum": (Colour.RED, ["red", 1]),
    "bool of NumPy": (np.bool_(True), True),
    "int64": (np.int64(7), 7),
    "uint8": (np.uint8(7), 7),
    "float64": (np.float64(1.5), 1.5),
    "float32": (np.float32(0.1), float(np.float32(0.1))),
    "float16": (np.float16(0.5), 0.5),
    "longdouble": (np.longdouble(0.5), 0.5),
    "array": (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    "array of texts": (np.array(["a", "b"]), ["a", "b"]),
    "date": (date(2024, 3, 5), "2024-03-05"),
    "datetime": (datetime(2024, 3, 5, 6, 7), "2024-03-05T06:07:00"),
    "time": (time(6, 7), "06:07:00"),
    "datetime64": (np.datetime64("2024-03-05"), "2024-03-05"),
    "datetime64 in ns": (np.datetime64("2024-03-05T06:07", "ns"), "2024-03-05T06:07:00"),
    "whole Decimal": (Decimal("1930"), 1930),
    "Decimal": (Decimal("19.90"), 19.9),
    "path": (PurePosixPath("a") / "b", "a/b"),
    "UUID": (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    "tuple": ((1, (2,)), [1, [2]]),
    "range": (range(3), [0, 1, 2]),
    "mapping": (MappingProxyType({"a": OrderedDict(b=np.int8(1))}), {"a": {"b": 1}}),
    "whole number as a key": ({1: "x"}, {"1": "x"}),
    "enum as a key": ({Kind.A: "x"}, {"enum-a": "x"}),
    "large number": (2**200, 2**200),
}
REFUSED = {
    "NaN": math.nan,
    "NaN of NumPy": np.float32("nan"),
    "infinity": -math.inf,
    "NaN of Decimal": Decimal("NaN"),
    "signalling NaN": Decimal("sNaN"),
    "endless Decimal": Decimal("1e99999"),
    "NaT": np.datetime64("NaT"),
    "bytes": b"x",
    "bytes of NumPy": np.bytes_(b"x"),
    "complex": 1j,
    "complex of NumPy": np.complex64(1),
    "set": {1, 2},
    "object": object(),
    "function": len,
    "generator": iter([1]),
    "None as a key": {None: 1},
    "boolean as a key": {True: 1},
    "one key twice": {1: "a", "1": "b"},
    "half a surrogate pair": "\ud83d",
    "half a surrogate pair as a key": {"\ud83d": 1},
    "too many digits": 10**5000,
}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PassageIndex]:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as made:
        yield made


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_harmless_is_taken_in(index: PassageIndex, name: str) -> None:
    value, expected = TAKEN[name]
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)
    index.add([Passage("cats purr", id="p", metadata={"a": value, "b": [value]}), Passage("dogs", id="q")])
    found = index.get("p")
    assert found is not None
    assert found.metadata == {"a": expected, "b": [expected]}
    for where in ({"a": {"$eq": value}}, {"a": {"$in": [value]}}, {"b": {"$contains": value}}):
        assert [p.id for p in index.find(where)] == ["p"]
        assert [p.id for p in index.search("cats", where=where)] == ["p"]
    assert [p.id for p in index.find({"a": {"$ne": value}})] == ["q"]
    assert index.check().ok
    assert index.delete(where={"a": {"$ne": value}}) == 1
    assert [p.id for p in index] == ["p"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_is_named_with_passage_and_key(index: PassageIndex, name: str) -> None:
    value = REFUSED[name]
    with pytest.raises(InputError, match=r"passage 'odd' cannot be stored: metadata\['a'\]\[1\]"):
        index.add([Passage("cats", id="odd", metadata={"a": [0, value]})])
    assert len(index) == 0
    if name not in ("infinity", "set", "generator", "function"):
        for where in ({"a": {"$eq": value}}, {"a": {"$in": [value]}}, {"a": {"$lt": value}}):
            with pytest.raises(InputError, match="'a' compares with a value"):
                index.search("cats", where=where)
            with pytest.raises(InputError):
                index.delete(where=where)


@pytest.mark.parametrize(
    ("where", "plain_where"),
    [
        ({"year": np.int64(1930)}, {"year": 1930}),
        ({"year": {"$gte": np.int64(1930)}}, {"year": {"$gte": 1930}}),
        ({"year": {"$gte": np.int64(1930), "$lt": np.int64(1940)}}, {"year": {"$gte": 1930, "$lt": 1940}}),
        ({"year": [np.int64(1930), np.int64(1931)]}, {"year": [1930, 1931]}),
        ({"year": np.array([1930, 1931])}, {"year": [1930, 1931]}),
        ({"year": {"$nin": np.array([1930, 1931])}}, {"year": {"$nin": [1930, 1931]}}),
        ({"year": {1930, 1931}}, {"year": [1930, 1931]}),
        ({"year": range(1930, 1932)}, {"year": [1930, 1931]}),
        ({"flag": np.bool_(True)}, {"flag": True}),
        ({"year": {"$lt": np.float32(1910)}}, {"year": {"$lt": 1910}}),
        ({"year": {"$ne": np.int64(1930)}}, {"year": {"$ne": 1930}}),
        ({"year": Decimal(1930)}, {"year": 1930}),
        ({"when": {"$gte": date(1950, 1, 1)}}, {"when": {"$gte": "1950-01-01"}}),
        ({"year": {"$lt": math.inf}}, {"year": {"$exists": True}}),
        ({np.str_("year"): 1930}, {"year": 1930}),
        (FieldTest("year", "eq", np.int64(1930)), {"year": 1930}),
        (Negation(FieldTest("year", "in", (np.int64(1930),))), {"year": {"$ne": 1930}}),
    ],
)
def test_conditions_mean_what_their_plain_values_do(
    index: PassageIndex, where: Any, plain_where: dict[str, Any]
) -> None:
    index.add(
        Passage(
            f"ferry {n}",
            id=f"p{n}",
            metadata={"year": 1900 + n, "flag": n % 2 == 0, "when": f"{1900 + n}-06-01"},
        )
        for n in range(100)
    )
    expected = [p.id for p in index.find(plain_where)]
    assert 0 < len(expected) <= 100
    assert [p.id for p in index.find(where)] == expected
    assert {p.id for p in index.search("ferry", k=100, where=where)} == set(expected)
    assert index.delete(where=where) == len(expected)


def nested(depth: int) -> dict[str, Any]:
    where: dict[str, Any] = {"year": 1}
    for _ in range(depth):
        where = {"$not": where}
    return where


def test_a_condition_has_a_depth_and_a_length(index: PassageIndex) -> None:
    index.add([Passage("the ferry", id="p", metadata={"year": 1})])
    assert [p.id for p in index.find(nested(60))] == ["p"]
    deep: Any = FieldTest("year", "eq", 1)
    for _ in range(5000):
        deep = Negation(deep)
    value: Any = 1
    for _ in range(5000):
        value = {"a": value}
    for where in (
        nested(100),
        nested(5000),
        deep,
        {"year": value},
        {"$or": [{"year": n} for n in range(20_000)]},
    ):
        for call in (
            lambda where=where: index.search("ferry", where=where),
            lambda where=where: list(index.find(where)),
            lambda where=where: index.delete(where=where),
            lambda where=where: index.explain(where),
        ):
            with pytest.raises(InputError, match=r"deeper than 64 levels|more than 10,000 tests"):
                call()
    assert len(index) == 1


@pytest.mark.parametrize("where", [{}, {"$and": []}, {"$or": [{}]}, {"$not": {"$or": []}}])
def test_a_condition_that_asks_nothing_deletes_nothing(index: PassageIndex, where: dict[str, Any]) -> None:
    index.add([Passage("cats", id="a"), Passage("dogs", id="b")])
    with pytest.raises(InputError, match="asks nothing"):
        index.delete(where=where)
    assert len(index) == 2
    assert index.delete(["a"], where={}) == 1
    assert index.delete(where=AllOf(())) == 1


@pytest.mark.parametrize("odd", [["p1"], Passage("x"), 7, None, ("p1",), b"p1"])
def test_wrong_arguments_are_not_called_damage(index: PassageIndex, odd: Any) -> None:
    index.add([Passage("cats", id="p1")])
    for call in (
        lambda: index.get(odd),
        lambda: index.delete([odd]),
        lambda: index.vectors([odd]),
        lambda: index.search("cats", ids=[odd]),
        lambda: list(index.find(ids=[odd])),
    ):
        with pytest.raises(InputError, match="must be a text"):
            call()
    assert odd not in index
    assert len(index) == 1


def test_one_text_is_no_list_of_its_characters(index: PassageIndex) -> None:
    index.add([Passage(f"ferry {n}", id=f"p{n}") for n in range(9)])
    assert [p.id for p in index.find(ids="p7")] == ["p7"]
    assert list(index.vectors("p7")) == ["p7"]
    assert [p.id for p in index.search("ferry", ids="p7")] == ["p7"]
    assert len(index.search_batch("ferry", 2)) == 1
    assert len(index.search_batch((text for text in ("ferry", "nine")), 2)) == 2
    assert len(index.search("ferry", k=2**70, mode="words")) == 9
    assert index.get("caf\udce9") is None
    assert "\udce9" not in index
    assert index.delete("\udce9") == index.delete(source="caf\udce9.txt") == index.delete(source="a\0b") == 0
    for odd in (None, 5, "a text", [5]):
        with pytest.raises(InputError, match="takes Passage objects"):
            index.add(odd)  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_stays_as_it_is(value: Any) -> None:
    assert plain(value) == value
    assert json.dumps(plain(value)) == json.dumps(value)


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_mended_is_text(text: str) -> None:
    assert mended(text).encode().decode() == mended(text)
    whole = text.encode("utf-8", "replace").decode()
    assert mended(whole) == whole


def test_a_value_is_shown_whatever_it_is() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    loop: list[Any] = []
    loop.append(loop)
    for value in (10**6000, "x" * 10**6, Broken(), loop, [[0]] * 1000):
        assert len(shown(value)) <= 120
    with pytest.raises(NotPlainError, match="deeper than 64"):
        plain(loop)
