"""Memory of rows: columns of tokens with room for those to come, and states beside them.

All rows of a step end at one column, so that one write per layer serves every row::

    column        0 1 2 3 4 5 6 7 8 9
    row 0         . . . . . p p q q n      . unused   p prefix   s passage
    row 1         . p s s s s q q n n      q suffix   n new tokens
    row 2         p s s s s s s q q n

Row r starts at column `begins[r]`; a token in column c has position c - begins[r]. Nothing is concatenated
while decoding: a step writes one column. A recurrent layer's state has no columns, so that no padding ever
enters it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from ...kv.context import Packed
from .layers import Layout, Part

__all__ = ["RowMemory", "Run", "run_of"]

_ALIGNMENT = 64  # bytes, as torch has it

Run = slice | Tensor
"""Some of the rows: a run of them, which can be seen in place, or indexes."""


def run_of(rows: Sequence[int]) -> Run:
    """These rows, as a run where they are one."""
    if rows and list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(list(rows))


class RowMemory:
    """What the layers keep of R rows.

    Sliding-window layers are kept whole and masked: transformers builds the window into the mask, and
    columns differ by as much as positions do within a row.

    Args:
        begins: first column of each row.
        capacity: columns allocated.
        layout: of the model.

    Attributes:
        layers: tensors by name, a dictionary a layer: columns [rows, ..., capacity, ...] and states
            [rows, ...], each allocated when first written.
    """

    def __init__(self, begins: Sequence[int], capacity: int, layout: Layout) -> None:
        self.begins = torch.tensor(list(begins), dtype=torch.long)
        self.capacity = capacity
        self.layout = layout
        self.layers: list[dict[str, Tensor]] = [{} for _ in layout.layers]
        self._begins: dict[torch.device, Tensor] = {}
        self._marks: list[dict[str, Tensor]] = [{} for _ in layout.layers]

    def __len__(self) -> int:
        return len(self.begins)

    def begins_on(self, device: torch.device) -> Tensor:
        """`begins` on a device, where it is brought once."""
        if device not in self._begins:
            self._begins[device] = self.begins.to(device)
        return self._begins[device]

    def columns(self, layer: int, name: str, like: Tensor, tokens: int) -> Tensor:
        """A layer's columns [rows, ..., capacity, ...].

        Args:
            layer, name: which.
            like: such columns, of other rows or of one row without their dimension.
            tokens: the dimension of the result that counts tokens.
        """
        tensors = self.layers[layer]
        if name not in tensors:
            shape = [len(self), *like.shape[-tokens - 1 :]]
            shape[tokens] = self.capacity
            # Zeros, not garbage: a masked column still multiplies its value by a weight of zero.
            tensors[name] = _untouched_zeros(shape, like)
        return tensors[name]

    def states(self, layer: int) -> dict[str, Tensor]:
        """A layer's states [rows, ...]; of zeros, from which a row without any context starts."""
        tensors, parts = self.layers[layer], self.layout.layers[layer].parts
        for name, part in parts.items():
            if part.tokens is None and name not in tensors:
                tensors[name] = self._zeros(part)
        return {name: tensors[name] for name, part in parts.items() if part.tokens is None}

    def _zeros(self, part: Part) -> Tensor:
        return torch.zeros(len(self), *part.shape, dtype=part.dtype, device=part.device)

    def place(self, row: int, context: Packed, tokens: int) -> None:
        """Copy a context of so many tokens into its row, from column `begins[row]` on.

        Layers that hold fewer have the last ones, all that their window lets anything behind them see.
        """
        end = int(self.begins[row]) + tokens
        for number, name, part in self.layout.parts():
            tensor = context[f"{number}.{name}"]
            if part.tokens is None:
                self.states(number)[name][row] = tensor
                continue
            count = tensor.shape[part.tokens]
            columns = self.columns(number, name, tensor, part.tokens + 1)[row]
            columns.narrow(part.tokens, end - count, count).copy_(tensor)

    def cut(self, row: int, end: int) -> Packed:
        """Copies of what a row keeps before a column, as `place` takes them."""
        begin = int(self.begins[row])
        packed: dict[str, Tensor] = {}
        for number, name, part in self.layout.parts():
            tensor = self.layers[number][name][row]
            if part.tokens is not None:
                kept = self.layout.length(number, name, end - begin)
                tensor = tensor.narrow(part.tokens, end - kept, kept)
            packed[f"{number}.{name}"] = tensor.clone()
        return packed

    def copied(self, rows: Tensor, end: int) -> RowMemory:
        """Memory of the given rows [R'] (indexes, in order, repeats allowed), from the first column on that
        one of them has.

        Args:
            rows: which.
            end: the column before which all of them end.
        """
        first = int(self.begins[rows].min())
        copy = RowMemory((self.begins[rows] - first).tolist(), self.capacity - first, self.layout)
        run = run_of(rows.tolist())
        for number, name, part in self.layout.parts():
            tensor = self.layers[number].get(name)
            if tensor is None:
                continue
            if part.tokens is None:
                copy.layers[number][name] = tensor.index_select(0, rows.to(tensor.device))
                continue
            dim = part.tokens + 1
            columns = copy.columns(number, name, tensor, dim)
            columns.narrow(dim, 0, end - first).copy_(tensor.narrow(dim, first, end - first)[run])
        return copy

    def joined(
        self, other: RowMemory, shifts: tuple[int, int], ends: tuple[int, int], capacity: int
    ) -> RowMemory:
        """Memory of these rows and another's, each moved so many columns to the right, or to the left where
        no row has any there.

        Args:
            other: of the same model.
            shifts: columns, of these rows and of the others.
            ends: the columns before which these rows and the others end, as they stand now.
            capacity: columns allocated.
        """
        begins = [*(self.begins + shifts[0]).tolist(), *(other.begins + shifts[1]).tolist()]
        joined = RowMemory(begins, capacity, self.layout)
        for number, name, part in self.layout.parts():
            mine, others = self.layers[number].get(name), other.layers[number].get(name)
            if mine is None or others is None:
                continue
            if part.tokens is None:
                joined.layers[number][name] = torch.cat([mine, others])
                continue
            dim = part.tokens + 1
            columns = joined.columns(number, name, mine, dim)
            for tensor, shift, end, place in (
                (mine, shifts[0], ends[0], columns[: len(self)]),
                (others, shifts[1], ends[1], columns[len(self) :]),
            ):
                first = max(0, -shift)
                count = end - first
                place.narrow(dim, shift + first, count).copy_(tensor.narrow(dim, first, count))
        return joined

    def mark(self, rows: Run) -> None:
        """Remember the states of rows. Columns need none: what is behind a row's end is written over."""
        for number in range(len(self.layers)):
            for name, tensor in self.states(number).items():
                if name not in self._marks[number]:
                    self._marks[number][name] = torch.empty_like(tensor)
                self._marks[number][name][rows] = tensor[rows]

    def restore(self, rows: Run) -> None:
        """The states of rows as they were marked last; the mark stays."""
        for tensors, marks in zip(self.layers, self._marks, strict=True):
            for name, tensor in marks.items():
                tensors[name][rows] = tensor[rows]


def _untouched_zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros of a tensor's dtype, on its device.

    On a CPU the system hands out memory of zeros when it is touched. Rows have room for the longest answer,
    which takes longer to fill than the question takes to read where passages are short.
    """
    if like.device.type != "cpu":
        return like.new_zeros(list(shape))
    size = prod(shape) * like.element_size()
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return torch.from_numpy(raw[first : first + size]).view(like.dtype).view(list(shape))
