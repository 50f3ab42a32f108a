"""Conditions on metadata: what is looked up is what a plain reading of each passage says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_tools import ANIMALS, bag_of_words, ids

from nbce_rag.errors import InputError
from nbce_rag.index import GENERATED, PassageIndex
from nbce_rag.index.filters.conditions import AllOf, AnyOf, Fields, FieldTest, Negation, as_condition
from nbce_rag.index.filters.lookup import KeyFinder
from nbce_rag.passages import Passage

HUGE = 2**70
SCALARS = st.sampled_from(
    [None, True, False, 0, 1, 2, -1, 1.0, 0.5, HUGE, "", "a", "ab", "b", "é", "x" * 300, "nul\0"]
)
# Numbers of which decimals say something else than bits, moments, texts that look like numbers or escapes.
SCALARS |= st.sampled_from([2**60, 2.0**60, 2**60 + 1, 10**23, 1e23, -0.0, 0.1, 1e-320, 1.7e308, -HUGE])
SCALARS |= st.sampled_from(
    [datetime(1931, 5, 1, 12, tzinfo=UTC), date(1931, 5, 1), "1931-05-01", "1", "true"]
)
SCALARS |= st.sampled_from(["\\u0000", "nul", "\ufdef", "\uffff", "\U0001f600", "'", "%s", '"', "\\"])
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2),
    st.dictionaries(st.sampled_from(["in", "a"]), SCALARS | st.lists(SCALARS, max_size=2), max_size=2),
)
KEYS = st.sampled_from(["p", "q", "source", "title", "id"])
PATHS = st.sampled_from(["p.in", "q.a", "p.in.a", "p\0"])
METADATA = st.dictionaries(KEYS | PATHS, VALUES, max_size=3)
TESTS = st.builds(
    FieldTest,
    KEYS | PATHS | st.tuples(st.sampled_from(["p", "q"]), st.sampled_from(["in", "a"])),
    st.sampled_from(["eq", "lt", "lte", "gt", "gte", "contains", "exists"]),
    VALUES,
    st.sampled_from(["any", "set", "none"]),
)
TESTS |= st.builds(FieldTest, KEYS, st.just("in"), st.lists(VALUES, max_size=3).map(tuple))
TESTS |= st.builds(
    FieldTest,
    KEYS,
    st.just("range"),
    st.tuples(
        st.tuples(st.sampled_from(["gt", "gte"]), SCALARS), st.tuples(st.sampled_from(["lt", "lte"]), SCALARS)
    ),
)
TESTS |= st.builds(FieldTest, KEYS, st.just("call"), st.just(lambda value: isinstance(value, str | list)))
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        inner.map(Negation),
    ),
    max_leaves=5,
)


@pytest.fixture
def index(place: Path | str) -> Iterator[PassageIndex]:
    with PassageIndex.create(place, bag_of_words) as made:
        yield made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(METADATA, st.none() | st.sampled_from(["a", "b"])), min_size=1, max_size=6),
    conditions=st.lists(CONDITIONS, min_size=1, max_size=8),
    few=st.sampled_from([0, 2]),
)
def test_looking_up_is_asking_each(index: PassageIndex, rows: Any, conditions: Any, few: int) -> None:
    passages = [
        Passage("text", id=str(n), metadata=metadata, source=column, title=column)
        for n, (metadata, column) in enumerate(rows)
    ]
    index.delete([p.id for p in index])
    index.add(passages)
    stored = {p.id: p for p in index}
    for condition in conditions:
        expected = {
            p.id
            for p in stored.values()
            if condition.holds(Fields(p.metadata, {"id": p.id, "source": p.source, "title": p.title}))
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nbce_rag.index.filters.lookup._READ_UP_TO", few)
            assert {p.id for p in index.find(condition)} == expected
    assert index.check().ok


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"legs": {"$gte": 3}}, {"cat", "dog"}),
        ({"legs": {"$gt": 1, "$lt": 4}}, {"bird"}),
        ({"legs": {"$ne": 4}}, {"bird"}),
        ({"legs": {"$nin": [2]}}, {"cat", "dog"}),
        ({"tags": {"$contains": "pet"}}, {"cat"}),
        ({"title": {"$contains": "at"}}, {"cat"}),
        ({"tags": {"$exists": False}}, {"dog", "bird"}),
        ({"$or": [{"flies": True}, {"tags": {"$exists": True}}]}, {"cat", "bird"}),
        ({"$and": [{"legs": 4}, {"$not": {"tags": {"$exists": True}}}]}, {"dog"}),
        ({"source": {"$gte": "b"}}, {"bird"}),
    ],
)
def test_operators(index: PassageIndex, where: Any, expected: set[str]) -> None:
    index.add(ANIMALS)
    assert set(ids(index.search("cats purr", where=where))) == expected
    assert {p.id for p in index.find(where)} == expected
    assert index.delete(where=where) == len(expected)
    assert {p.id for p in index} == {"cat", "dog", "bird"} - expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"legs": {"$near": 3}}, r"\$near"),
        ({"$xor": []}, r"\$xor"),
        ({"legs": {"$in": 3}}, r"\$in on 'legs' takes a list"),
        ({"$and": "legs"}, r"\$and takes filters"),
    ],
)
def test_what_is_no_filter(index: PassageIndex, where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.search("cats", where=where)


def test_lookups_read_no_metadata(index: PassageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add(Passage(f"word{n}", id=f"{n}", metadata={"n": n, "even": n % 2 == 0}) for n in range(1200))
    monkeypatch.setattr(
        KeyFinder, "_ask", lambda _self, _condition, among: among[:0] if not len(among) else 1 / 0
    )
    assert len(index.search("word", k=2000, where={"even": True})) == 600
    assert len(index.search("word", k=2000, where={"n": {"$gte": 100, "$lt": 700}})) == 600
    assert len(index.search("word", k=2000, where={"even": {"$ne": True}})) == 600


def test_generated_passages_are_found_when_asked_for(index: PassageIndex) -> None:
    index.add([*ANIMALS, Passage("cats purr", id="made", metadata={**GENERATED, "legs": 4})])
    assert "made" not in ids(index.search("cats purr"))
    assert "made" not in ids(index.search("cats purr", where={"legs": 4}))
    assert "made" not in ids(index.search("cats purr", mode="hybrid"))
    assert "made" in ids(index.search("cats purr", generated=True))
    assert ids(index.search("cats purr", where={"origin": "generated"})) == ["made"]
    assert len(list(index)) == len(list(index.find())) == 4


def test_mappings_become_conditions() -> None:
    assert as_condition({"a": 1}) == FieldTest("a", "eq", 1)
    assert as_condition({}) == AllOf(())
    assert as_condition({"a": {"$gte": 1, "$lt": 2}}) == FieldTest("a", "range", (("gte", 1), ("lt", 2)))
    assert as_condition({"a": {"b": 1}}) == FieldTest("a", "eq", {"b": 1})


def test_truth_values_have_no_order(place: Path | str) -> None:
    with PassageIndex.create(place, bag_of_words) as index:
        index.add([Passage("a", id="true", metadata={"x": True}), Passage("b", id="one", metadata={"x": 1})])
        assert [passage.id for passage in index.find({"x": {"$gt": 0}})] == ["one"]
        assert [passage.id for passage in index.search("a", 2, {"x": {"$gte": 0}})] == ["one"]
        assert list(index.find({"x": {"$gte": True}})) == []
