"""Memory of rows of very different lengths: rows of about one length lie together, in bands.

One tensor for all rows is as wide as the longest of them. Among rows of single sentences and of whole
passages, or beside one row of several passages, most of it would be padding that every step attends to::

    column     0 1 2 3 4 5 6 7 8 9
    row 1      p s s s s s s q q n     the first band, ten columns wide
    row 0                . p q q n     the second, five columns wide
    row 2                p s q q n

All bands end at the same columns, so that a step is one pass: only attention is done band by band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...kv.context import Packed
from .layers import Layout
from .memory import RowMemory, Run, run_of
from .staging import DeviceStaging

__all__ = ["BAND_COST", "Band", "BandPart", "BandedColumns", "BandedMemory", "bands_of", "can_be_banded"]

BAND_COST = 1024
"""Columns that take as long to attend to as another band takes to be asked for, about, on two cores."""


@dataclass(frozen=True, slots=True)
class BandedColumns:
    """Keys or values of rows by bands, in place of a tensor [R, heads, L, dim].

    Attributes:
        parts: of each band the places of its rows among the R, the column of all that its first one is, and
            its tensor [R', heads, L', dim].
    """

    parts: tuple[tuple[Run, int, Tensor], ...]


@dataclass(frozen=True, slots=True)
class Band:
    """Rows of about one length.

    Attributes:
        rows: which of all, in order.
        first: the column of all rows' memory that is its first one.
        memory: theirs.
    """

    rows: tuple[int, ...]
    first: int
    memory: RowMemory


@dataclass(frozen=True, slots=True)
class BandPart:
    """Some rows of a band.

    Attributes:
        band: the band.
        places: of the rows among those that were asked for.
        rows: the rows within the band.
    """

    band: Band
    places: Run
    rows: Run


class BandedMemory(RowMemory):
    """A `RowMemory` for models whose layers keep columns of keys and values alone, which are the bands'.

    Args:
        begins, capacity: as there.
        layout: of the model, whose `band_cost` is a number.
    """

    def __init__(self, begins: Sequence[int], capacity: int, layout: Layout) -> None:
        super().__init__(begins, capacity, layout)
        assert layout.band_cost is not None
        self.bands: list[Band] = []
        self._band_of: dict[int, tuple[Band, int]] = {}
        for rows in bands_of(begins, capacity, layout.band_cost):
            first = min(begins[row] for row in rows)
            memory = RowMemory([begins[row] - first for row in rows], capacity - first, layout)
            band = Band(rows, first, memory)
            self.bands.append(band)
            for place, row in enumerate(rows):
                self._band_of[row] = band, place

    def place(self, row: int, context: Packed, tokens: int) -> None:
        """See `RowMemory.place`."""
        band, place = self._band_of[row]
        band.memory.place(place, context, tokens)

    def parts(self, rows: Sequence[int]) -> list[BandPart]:
        """Rows by their bands."""
        asked = {row: place for place, row in enumerate(rows)}
        parts = []
        for band in self.bands:
            within = [place for place, row in enumerate(band.rows) if row in asked]
            if within:
                places = [asked[band.rows[place]] for place in within]
                parts.append(BandPart(band, run_of(places), run_of(within)))
        return parts

    def cut(self, row: int, end: int, staging: DeviceStaging | None = None) -> Packed:
        """See `RowMemory.cut`."""
        band, place = self._band_of[row]
        return band.memory.cut(place, end - band.first, staging)

    def copy_rows(self, row: int, other: RowMemory, rows: Sequence[int], end: int) -> None:
        """See `RowMemory.copy_rows`."""
        assert isinstance(other, BandedMemory)
        for target, source in enumerate(rows, row):
            (mine, place), (band, its_place) = self._band_of[target], other._band_of[source]
            mine.memory.copy_rows(place, band.memory, [its_place], end - band.first)


def can_be_banded(layout: Layout) -> bool:
    """Whether a model's rows can be kept in bands, if its attention is ours: they end at one column, and
    nothing but keys and values is kept."""
    names = {name for _, name, _ in layout.parts()}
    return layout.in_step and names == {"keys", "values"}


def bands_of(begins: Sequence[int], capacity: int, cost: int) -> list[tuple[int, ...]]:
    """The rows of each band, such that columns of all bands, and `cost` of them for each, are the fewest.

    Args:
        begins: the first column of each row.
        capacity: columns of the longest possible row.
        cost: columns that a further band has to spare.

    Returns:
        The widest band first, each with its rows in order.
    """
    order = sorted(range(len(begins)), key=lambda row: begins[row])
    widths = capacity - np.array([begins[row] for row in order], dtype=np.int64)
    count = len(order)
    least = np.zeros(count + 1, dtype=np.int64)  # columns of the first so many rows
    starts = np.zeros(count + 1, dtype=np.int64)  # where the last band of these begins
    for stop in range(1, count + 1):
        lengths = stop - np.arange(stop)
        totals = least[:stop] + lengths * widths[:stop] + cost
        starts[stop] = int(totals.argmin())
        least[stop] = totals[starts[stop]]
    bands, stop = [], count
    while stop:
        bands.append(tuple(sorted(order[int(starts[stop]) : stop])))
        stop = int(starts[stop])
    return bands[::-1]
