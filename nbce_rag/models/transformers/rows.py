"""The preallocated key-value cache that the rows of a decoding batch are laid out in.

All rows end at the same column, so that one write per layer serves every row of a step::

    column        0 1 2 3 4 5 6 7 8 9
    row 0         . . . . . p q q n n      . unused   p prefix   s passage
    row 1         . p s s s s q q n n      q suffix   n new tokens
    row 2         p s s s s s q q n n

Row r starts at column `begins[r]`; a token in column c has position c - begins[r]. Nothing is
concatenated while decoding: a step writes one column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ...kv.context import ContextKV

__all__ = ["RowCache"]


class _Storage:
    """Keys and values [rows, kv_heads, capacity, head_dim] of one layer, allocated when first written."""

    __slots__ = ("keys", "values")

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def allocate(self, rows: int, capacity: int, keys: Tensor, values: Tensor) -> None:
        # Zeros, not garbage: a masked column still multiplies its value by a weight of zero.
        def zeros(like: Tensor) -> Tensor:
            return like.new_zeros(rows, like.shape[-3], capacity, like.shape[-1])

        if self.keys is None:
            self.keys, self.values = zeros(keys), zeros(values)


class _Layer(CacheLayerMixin):
    """A window of rows [start, stop) on a storage, filled up to column `length`."""

    def __init__(
        self, storage: _Storage, start: int, stop: int, rows: int, capacity: int, length: int
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storage, self.start, self.stop = storage, start, stop
        self.rows, self.capacity, self.length = rows, capacity, length
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.storage.allocate(self.rows, self.capacity, key_states, value_states)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.lazy_initialization(key_states, value_states)
        keys, values = self.storage.keys, self.storage.values
        assert keys is not None
        assert values is not None
        end = self.length + key_states.shape[-2]
        keys[self.start : self.stop, :, self.length : end] = key_states
        values[self.start : self.stop, :, self.length : end] = value_states
        self.length = end
        return keys[self.start : self.stop, :, :end], values[self.start : self.stop, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class RowCache(Cache):
    """Keys and values of R rows, right-aligned, with room for the tokens to come.

    Sliding-window layers are kept whole and masked: transformers builds the window into the mask, and
    columns differ by as much as positions do within a row.

    Args:
        begins: [R] first column of each row.
        capacity: columns allocated.
        layers: number of the model's layers.
        length: columns already filled.
    """

    def __init__(self, begins: Sequence[int], capacity: int, layers: int, length: int) -> None:
        self.begins = torch.tensor(list(begins), dtype=torch.long)
        self.capacity = capacity
        self._storages = [_Storage() for _ in range(layers)]
        self._set_layers(0, len(self.begins), len(self.begins), length)

    def _set_layers(self, start: int, stop: int, rows: int, length: int) -> None:
        self._layers = [_Layer(s, start, stop, rows, self.capacity, length) for s in self._storages]
        super().__init__(layers=list(self._layers))

    @property
    def length(self) -> int:
        """Columns filled so far."""
        return self._layers[0].length

    @length.setter
    def length(self, value: int) -> None:
        for layer in self._layers:
            layer.length = value

    def place(self, row: int, context: ContextKV, tokens: int) -> None:
        """Copy a context of so many tokens into its row, from column `begins[row]` on.

        Layers that hold fewer have the last ones, all that their window lets anything behind them see.
        """
        begin = int(self.begins[row])
        for storage, (keys, values) in zip(self._storages, context, strict=True):
            storage.allocate(len(self.begins), self.capacity, keys, values)
            assert storage.keys is not None
            assert storage.values is not None
            end = begin + tokens
            first = end - keys.shape[-2]
            storage.keys[row, :, first:end] = keys
            storage.values[row, :, first:end] = values

    def view(self, start: int, stop: int, length: int) -> RowCache:
        """Rows [start, stop) as a cache of their own over the same memory, filled up to `length`.

        A view can be viewed again, but neither `place` nor `keep` is meant for it.
        """
        view = RowCache.__new__(RowCache)
        view.begins, view.capacity, view._storages = self.begins[start:stop], self.capacity, self._storages
        seen = self._layers[0]  # its rows may be a window already
        view._set_layers(seen.start + start, seen.start + stop, seen.rows, length)
        return view

    def keep(self, rows: Tensor) -> RowCache:
        """A new cache with the given rows [R'] (indexes, in order, repeats allowed), filled as this one."""
        kept = RowCache(self.begins[rows].tolist(), self.capacity, len(self._storages), self.length)
        for old, new in zip(self._storages, kept._storages, strict=True):
            if old.keys is not None and old.values is not None:
                index = rows.to(old.keys.device)
                new.keys, new.values = old.keys.index_select(0, index), old.values.index_select(0, index)
        return kept

    def joined(self, other: RowCache) -> RowCache:
        """A new cache with the rows of this one and of another that ends at the same column."""
        begins = [*self.begins.tolist(), *other.begins.tolist()]
        joined = RowCache(begins, self.capacity, len(self._storages), self.length)
        for mine, others, new in zip(self._storages, other._storages, joined._storages, strict=True):
            if mine.keys is not None and mine.values is not None:
                assert others.keys is not None
                assert others.values is not None
                new.keys = torch.cat([mine.keys, others.keys])
                new.values = torch.cat([mine.values, others.values])
        return joined

    def attention_mask(self, new_tokens: int) -> Tensor:
        """[R, length + new_tokens] ones where a row has a token, for the next forward pass."""
        columns = torch.arange(self.length + new_tokens)
        return (columns >= self.begins[:, None]).long()

    def position_ids(self, new_tokens: int) -> Tensor:
        """[R, new_tokens] positions of the next tokens."""
        return torch.arange(self.length, self.length + new_tokens) - self.begins[:, None]
