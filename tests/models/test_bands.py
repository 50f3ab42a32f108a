"""Rows in bands: the fewest columns, and the log-probs of one tensor, whatever is done with the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.decoding.budget import NOTHING, size_of
from nbce_rag.models.model import RowPrompt
from nbce_rag.models.transformers.bands import BAND_COST, BandedMemory, bands_of
from nbce_rag.models.transformers.base import LoadedModel


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """All ways to part rows."""
    if not rows:
        yield []
        return
    first, *others = rows
    for parts in partitions(others):
        yield [[first], *parts]
        for place in range(len(parts)):
            yield [*parts[:place], [first, *parts[place]], *parts[place + 1 :]]


@given(begins=st.lists(st.integers(0, 12), min_size=1, max_size=6), cost=st.integers(0, 20))
def test_bands_have_the_fewest_columns(begins: list[int], cost: int) -> None:
    capacity = 14

    def columns(parts: Any) -> int:
        return sum(cost + len(rows) * (capacity - min(begins[row] for row in rows)) for rows in parts)

    bands = bands_of(begins, capacity, cost)
    assert sorted(row for rows in bands for row in rows) == list(range(len(begins)))
    assert all(list(rows) == sorted(rows) for rows in bands)
    assert columns(bands) == min(map(columns, partitions(list(range(len(begins))))))


def test_many_short_rows_beside_a_long_one() -> None:
    """As sentences and a row of several passages are; equal rows stay together."""
    assert bands_of([0] * 200, 400, BAND_COST) == [tuple(range(200))]
    begins = [1900, *[1700] * 8, *[1850] * 16, 0]
    widths = [2000 - min(begins[row] for row in rows) for rows in bands_of(begins, 2000, BAND_COST)]
    assert widths == [2000, 300, 150]


def ids(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 480, (count,), generator=generator).tolist())


def of(model: LoadedModel, band_cost: int | None) -> Any:
    return replace(model, layout=replace(model.layout, band_cost=band_cost))


@st.composite
def courses(draw: st.DrawFn) -> list[tuple[str, int]]:
    """What is done with rows: steps of all or some, taking back, dropping, joining."""
    what = st.sampled_from(["step", "steps", "some", "rewind", "keep", "join"])
    return draw(st.lists(st.tuples(what, st.integers(0, 10_000)), min_size=1, max_size=7))


@pytest.mark.parametrize("family", ["gemma3", "llama"])
@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    cost=st.sampled_from([0, 30]),
    course=courses(),
)
def test_whatever_is_done_with_rows(
    family: str,
    tiny_loaded: Callable[..., Any],
    lengths: list[int],
    cost: int,
    course: list[tuple[str, int]],
) -> None:
    loaded = tiny_loaded(family)

    def opened(model: Any, counts: list[int], seed: int) -> Any:
        prompt = RowPrompt(
            tuple(ids(count, seed + place) for place, count in enumerate(counts)), ids(4, seed)
        )
        rows, [reading] = model.open([prompt], 24)
        return rows, reading.log_probs

    models = of(loaded, cost), of(loaded, None)
    pairs = [opened(model, lengths, 1) for model in models]
    assert isinstance(pairs[0][0].memory, BandedMemory)
    torch.testing.assert_close(pairs[0][1], pairs[1][1], atol=1e-4, rtol=0)
    banded, plain = (rows for rows, _ in pairs)
    last = 0  # tokens that all rows were stepped by last
    for what, seed in course:
        count = len(banded)
        if what in ("step", "steps", "some") and banded.room >= 3:
            tokens = 3 if what == "steps" else 1
            some = None if what != "some" else list(dict.fromkeys([seed % count, (seed // 7) % count]))
            new = torch.tensor(
                [ids(tokens, seed + row) for row in range(count if some is None else len(some))]
            )
            torch.testing.assert_close(banded.step(new, some), plain.step(new, some), atol=1e-4, rtol=0)
            last = tokens if some is None else 0
        elif what == "rewind" and last:
            banded.rewind(1), plain.rewind(1)
            last -= 1
        elif what == "keep":
            rows = [(seed // 3**place) % count for place in range(1 + seed % 4)]
            banded, plain, last = banded.keep(rows), plain.keep(rows), 0
        elif what == "join" and count < 12:
            counts = [seed % 31, seed % 7]
            more, others = (opened(model, counts, seed)[0] for model in models)
            banded, plain, last = banded.joined(more), plain.joined(others), 0


def test_what_memory_is_asked_for(tiny_loaded: Callable[..., Any]) -> None:
    """Rows of bands take room for their own tokens, others for those of the longest."""
    model = tiny_loaded("gemma3")
    long, short = size_of([1000], 20), size_of([10] * 9, 20)
    assert (long + short).rows == 10
    assert (long + short).tokens == 1020
    assert (long + short).total == 1290
    assert (long + short).cost(of(model, BAND_COST)) == model.cost(10, 129)
    assert (long + short).cost(of(model, None)) == model.cost(10, 1020)
    assert NOTHING.cost(model) == 0


def test_memory_is_as_wide_as_the_rows_of_each_band(tiny_loaded: Callable[..., Any]) -> None:
    model = of(tiny_loaded("gemma3"), 8)
    prompt = RowPrompt((ids(60, 1), *(ids(5, 2 + place) for place in range(6))), ids(4, 9))
    rows, _ = model.open([prompt], 8)
    widths = [(len(band.rows), band.memory.capacity) for band in rows.memory.bands]
    assert widths == [(1, 72), (6, 17)]
    assert all(
        band.memory.layers[0]["keys"].shape[2] == width
        for band, (_, width) in zip(rows.memory.bands, widths, strict=True)
    )
    assert [len(band.rows) for band in rows.keep([3, 1]).memory.bands] == [2]
    assert rows.keep([3, 1]).memory.capacity == 17
