"""Rows in one preallocated cache of keys and values.

Where nothing lags, all rows end at the same column, so that one write per layer serves every row of a step::

    column        0 1 2 3 4 5 6 7 8 9
    row 0         . . . . . p p q q n      . unused   p prefix   s passage
    row 1         . p s s s s q q n n      q suffix   n new tokens
    row 2         p s s s s s s q q n

Row r starts at column `begins[r]` and ends before column `ends[r]`; a token in column c has position
c - begins[r]. Nothing is concatenated while decoding: a step writes one column. Rows that lag behind end at
an earlier column, and rows that end alike are read together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ...errors import InputError
from ...kv.context import Packed
from ..model import Rows

__all__ = ["CachedRows", "RowCache", "RowMemory"]


class _Layer:
    """Keys and values [rows, kv_heads, capacity, head_dim] of one layer, allocated when first written."""

    __slots__ = ("keys", "values")

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def allocate(self, rows: int, capacity: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        # Zeros, not garbage: a masked column still multiplies its value by a weight of zero.
        def zeros(like: Tensor) -> Tensor:
            return like.new_zeros(rows, like.shape[-3], capacity, like.shape[-1])

        if self.keys is None or self.values is None:
            self.keys, self.values = zeros(keys), zeros(values)
        return self.keys, self.values


class RowMemory:
    """Keys and values of R rows with room for the tokens to come.

    Sliding-window layers are kept whole and masked: transformers builds the window into the mask, and
    columns differ by as much as positions do within a row.

    Args:
        begins: first column of each row.
        capacity: columns allocated.
        layers: number of the model's layers.
    """

    def __init__(self, begins: Sequence[int], capacity: int, layers: int) -> None:
        self.begins = torch.tensor(list(begins), dtype=torch.long)
        self.capacity = capacity
        self.layers = [_Layer() for _ in range(layers)]

    def place(self, row: int, context: Packed, tokens: int) -> None:
        """Copy a context of so many tokens into its row, from column `begins[row]` on.

        Layers that hold fewer have the last ones, all that their window lets anything behind them see.
        """
        end = int(self.begins[row]) + tokens
        for number, layer in enumerate(self.layers):
            keys, values = context[f"{number}.keys"], context[f"{number}.values"]
            all_keys, all_values = layer.allocate(len(self.begins), self.capacity, keys, values)
            first = end - keys.shape[-2]
            all_keys[row, :, first:end] = keys
            all_values[row, :, first:end] = values

    def copied(self, rows: Tensor) -> RowMemory:
        """Memory of the given rows [R'] (indexes, in order, repeats allowed)."""
        copy = RowMemory(self.begins[rows].tolist(), self.capacity, len(self.layers))
        for old, new in zip(self.layers, copy.layers, strict=True):
            if old.keys is not None and old.values is not None:
                index = rows.to(old.keys.device)
                new.keys, new.values = old.keys.index_select(0, index), old.values.index_select(0, index)
        return copy

    def joined(self, other: RowMemory, shifts: tuple[int, int], capacity: int) -> RowMemory:
        """Memory of these rows and another's, each moved so many columns to the right."""
        begins = [*(self.begins + shifts[0]).tolist(), *(other.begins + shifts[1]).tolist()]
        joined = RowMemory(begins, capacity, len(self.layers))
        for mine, others, new in zip(self.layers, other.layers, joined.layers, strict=True):
            if mine.keys is None or mine.values is None or others.keys is None or others.values is None:
                continue
            if shifts == (0, 0) and capacity == self.capacity == other.capacity:
                new.keys = torch.cat([mine.keys, others.keys])
                new.values = torch.cat([mine.values, others.values])
                continue
            keys, values = new.allocate(len(begins), capacity, mine.keys, mine.values)
            rows = len(self.begins)
            for target, parts in ((keys, (mine.keys, others.keys)), (values, (mine.values, others.values))):
                for part, shift, place in zip(parts, shifts, (slice(rows), slice(rows, None)), strict=True):
                    columns = min(part.shape[2], capacity - shift)
                    target[place, :, shift : shift + columns] = part[:, :, :columns]
        return joined


class _LayerView(CacheLayerMixin):
    """Some rows of a layer, filled up to column `length`, as transformers wants to see them."""

    def __init__(
        self, layer: _Layer, rows: slice | Tensor, allocated: int, capacity: int, length: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layer, self.rows = layer, rows
        self.allocated, self.capacity, self.length = allocated, capacity, length
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.layer.allocate(self.allocated, self.capacity, key_states, value_states)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.layer.allocate(self.allocated, self.capacity, key_states, value_states)
        end = self.length + key_states.shape[-2]
        keys[self.rows, :, self.length : end] = key_states
        values[self.rows, :, self.length : end] = value_states
        self.length = end
        return keys[self.rows, :, :end], values[self.rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class RowCache(Cache):
    """Rows of a memory that end at one column, as the cache of one or more forward passes.

    Args:
        memory: of all rows.
        rows: which of them; a run of rows is a view, others are copied when they are read.
        length: columns filled.
    """

    def __init__(self, memory: RowMemory, rows: Sequence[int], length: int) -> None:
        run = bool(rows) and list(rows) == list(range(rows[0], rows[0] + len(rows)))
        index = slice(rows[0], rows[0] + len(rows)) if run else torch.tensor(list(rows))
        self.begins = memory.begins[index]
        self._views = [
            _LayerView(layer, index, len(memory.begins), memory.capacity, length) for layer in memory.layers
        ]
        super().__init__(layers=list(self._views))

    @property
    def length(self) -> int:
        """Columns filled so far."""
        return self._views[0].length

    def attention_mask(self, new_tokens: int) -> Tensor:
        """[R, length + new_tokens] ones where a row has a token, for the next forward pass."""
        columns = torch.arange(self.length + new_tokens)
        return (columns >= self.begins[:, None]).long()

    def position_ids(self, new_tokens: int) -> Tensor:
        """[R, new_tokens] positions of the next tokens."""
        return torch.arange(self.length, self.length + new_tokens) - self.begins[:, None]


Forward = Callable[[RowCache, Tensor], Tensor]
"""A pass of new tokens [R, T] over a cache; log-probs [R, T, V]."""


class CachedRows:
    """Rows that were read, as `nbce_rag.models.model.Rows` has them.

    Args:
        memory: keys and values of the rows.
        ends: the column before which each row ends.
        opened: the same when the row was opened; what is before cannot be taken back.
        forward: reads new tokens.
    """

    def __init__(
        self, memory: RowMemory, ends: Sequence[int], opened: Sequence[int], forward: Forward
    ) -> None:
        self.memory = memory
        self._ends = list(ends)
        self._opened = list(opened)
        self._forward = forward

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def room(self) -> int:
        """Tokens that still fit behind every row."""
        return self.memory.capacity - max(self._ends)

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """See `nbce_rag.models.model.Rows.step`."""
        chosen = self._checked(rows)
        if ids.dim() != 2 or len(ids) != len(chosen) or ids.shape[1] < 1:
            raise InputError(f"step: token ids of shape {list(ids.shape)} do not fit {len(chosen)} rows.")
        tokens = ids.shape[1]
        last = max(self._ends[row] for row in chosen)
        if last + tokens > self.memory.capacity:
            raise InputError(
                f"step: {tokens} tokens do not fit; there is room for {self.memory.capacity - last}."
            )
        places_by_end: dict[int, list[int]] = {}
        for place, row in enumerate(chosen):
            places_by_end.setdefault(self._ends[row], []).append(place)
        parts = [
            self._forward(RowCache(self.memory, [chosen[place] for place in places], end), ids[places])
            for end, places in places_by_end.items()
        ]
        # Only now: what a pass that failed has written is written over.
        for row in chosen:
            self._ends[row] += tokens
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([place for places in places_by_end.values() for place in places])
        return torch.cat(parts)[order.argsort().to(parts[0].device)]

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        """See `nbce_rag.models.model.Rows.rewind`."""
        chosen = self._checked(rows)
        most = min(self._ends[row] - self._opened[row] for row in chosen)
        if not 0 <= tokens <= most:
            raise InputError(f"rewind: {tokens} tokens cannot be taken back; {most} were appended.")
        for row in chosen:
            self._ends[row] -= tokens

    def keep(self, rows: Sequence[int]) -> CachedRows:
        """See `nbce_rag.models.model.Rows.keep`."""
        self._check(rows)
        memory = self.memory.copied(torch.tensor(list(rows)))
        ends, opened = ([columns[row] for row in rows] for columns in (self._ends, self._opened))
        return CachedRows(memory, ends, opened, self._forward)

    def joined(self, other: Rows) -> CachedRows:
        """See `nbce_rag.models.model.Rows.joined`."""
        if not isinstance(other, CachedRows):
            raise InputError(f"{type(other).__name__} are rows of another backend; they cannot be joined.")
        end, other_end = max(self._ends), max(other._ends)
        shifts = (max(0, other_end - end), max(0, end - other_end))
        capacity = max(end, other_end) + max(self.room, other.room)

        def moved(mine: list[int], others: list[int]) -> list[int]:
            return [*(column + shifts[0] for column in mine), *(column + shifts[1] for column in others)]

        return CachedRows(
            self.memory.joined(other.memory, shifts, capacity),
            moved(self._ends, other._ends),
            moved(self._opened, other._opened),
            self._forward,
        )

    def _checked(self, rows: Sequence[int] | None) -> list[int]:
        if rows is None:
            return list(range(len(self)))
        self._check(rows)
        if len(set(rows)) < len(rows):
            raise InputError(f"rows={list(rows)!r} names a row twice.")
        return list(rows)

    def _check(self, rows: Sequence[int]) -> None:
        if not rows:
            raise InputError("rows=[] names no row; None stands for all of them.")
        for row in rows:
            if not 0 <= row < len(self):
                raise InputError(f"Row {row} is not there; the rows are 0 to {len(self) - 1}.")
