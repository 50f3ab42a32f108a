"""Rows of a banded memory as the cache that transformers reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from ...deadline import check_deadline
from .bands import BandedColumns, BandedMemory, BandPart
from .cache import RowCache
from .memory import run_of

__all__ = ["BandedRowCache"]


class _BandedLayer(CacheLayerMixin):
    """Some rows of a layer's columns by bands, filled up to column `length`."""

    def __init__(self, parts: Sequence[BandPart], layer: int, length: int, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parts, self.layer, self.length, self.capacity = parts, layer, length, capacity
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: columns are allocated when they are written."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        check_deadline()
        keys, values = self._write("keys", key_states), self._write("values", value_states)
        self.length += key_states.shape[-2]
        return keys, values

    def _write(self, name: str, states: Tensor) -> Tensor | BandedColumns:
        """Write new tokens [R, heads, T, dim]; all that there is now, which only our own attention reads."""
        seen = []
        for part in self.parts:
            columns = part.band.memory.columns(self.layer, name, states)
            begin = self.length - part.band.first
            end = begin + states.shape[-2]
            columns[part.rows, :, begin:end] = states[part.places]
            seen.append((part.places, part.band.first, columns[part.rows, :, :end]))
        [places, first, columns], *others = seen
        in_order = isinstance(places, slice) and not others and first == 0
        return columns if in_order else BandedColumns(tuple(seen))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class BandedRowCache(RowCache):
    """As `RowCache`, over rows of a `BandedMemory`, for models whose attention is ours.

    Args:
        memory, rows, length: as there.
    """

    def __init__(self, memory: BandedMemory, rows: Sequence[int], length: int) -> None:
        self.rows = run_of(rows)
        self.memory, self.fresh = memory, False
        self.length = length
        parts = memory.parts(rows)
        layers: list[Any] = [
            _BandedLayer(parts, number, length, memory.capacity) if kind.attends else DummyLayer()
            for number, kind in enumerate(memory.layout.layers)
        ]
        Cache.__init__(self, layers=layers)
