"""Memory of rows: columns of tokens with room for those to come, and states beside them.

All rows of a step end at one column, so that one write per layer serves every row::

    column        0 1 2 3 4 5 6 7 8 9
    row 0         . . . . . p p q q n      . unused   p prefix   s passage
    row 1         . p s s s s q q n n      q suffix   n new tokens
    row 2         p s s s s s s q q n

Row r starts at column `begins[r]`; a token in column c has position c - begins[r]. Nothing is concatenated
while decoding: a step writes one column. A recurrent layer's state has no columns, so that no padding ever
enters it.

Columns of layers that are alike lie in one tensor, so that contexts are laid into rows, and rows copied, in
one go instead of layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ...kv.context import Packed, kinds
from ...kv.flat import FlatContext
from .layers import Layout, Part
from .staging import DeviceStaging, on_device

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
        blocks: columns of layers that are alike, [layers, rows, ..., capacity, ...] by their place among
            `Layout.blocks`; what `layers` has are views of them.
    """

    def __init__(self, begins: Sequence[int], capacity: int, layout: Layout) -> None:
        self.begins = torch.tensor(list(begins), dtype=torch.long)
        self.capacity = capacity
        self.layout = layout
        self.layers: list[dict[str, Tensor]] = [{} for _ in layout.layers]
        self.blocks: dict[int, Tensor] = {}
        self._kinds = layout.blocks
        self._places = {member: place for place, kind in enumerate(self._kinds) for member in kind.members}
        self._begins: dict[torch.device, Tensor] = {}
        self._marks: list[dict[str, Tensor]] = [{} for _ in layout.layers]

    def __len__(self) -> int:
        return len(self.begins)

    def begins_on(self, device: torch.device) -> Tensor:
        """`begins` on a device, where it is brought once."""
        if device not in self._begins:
            self._begins[device] = on_device(self.begins, device)
        return self._begins[device]

    def columns(self, layer: int, name: str, like: Tensor) -> Tensor:
        """A layer's columns [rows, ..., capacity, ...].

        Args:
            layer, name: which.
            like: a tensor of their dtype and device.
        """
        if name not in self.layers[layer]:
            self._block(self._places[layer, name], like)
        return self.layers[layer][name]

    def _block(self, place: int, like: Tensor) -> Tensor:
        if place not in self.blocks:
            kind = self._kinds[place]
            # Zeros, not garbage: a masked column still multiplies its value by a weight of zero.
            block = _untouched_zeros((len(kind.members), len(self), *kind.part.of(self.capacity)), like)
            self._set_block(place, block)
        return self.blocks[place]

    def _set_block(self, place: int, block: Tensor) -> None:
        self.blocks[place] = block
        for (layer, name), columns in zip(self._kinds[place].members, block.unbind(0), strict=True):
            self.layers[layer][name] = columns

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
            if part.tokens is None:
                self.states(number)[name][row] = context[f"{number}.{name}"]
        for place, kind in enumerate(self._kinds):
            dim = kind.part.tokens
            assert dim is not None
            stack = context.stack(kind.names) if isinstance(context, FlatContext) else None
            if stack is not None:
                count = stack.shape[dim + 1]
                self._block(place, stack)[:, row].narrow(dim + 1, end - count, count).copy_(stack)
                continue
            for (layer, name), key in zip(kind.members, kind.names, strict=True):
                tensor = context[key]
                count = tensor.shape[dim]
                columns = self.columns(layer, name, tensor)[row]
                columns.narrow(dim, end - count, count).copy_(tensor)

    def cut(self, row: int, end: int, staging: DeviceStaging | None = None) -> Packed:
        """Copies of what a row keeps before a column, as `place` takes them.

        Args:
            row, end: which.
            staging: of the device; into one buffer then.
        """
        tokens = end - int(self.begins[row])
        parts: dict[str, Tensor] = {}
        stacks: dict[tuple[str, ...], Tensor] = {}
        for place, kind in enumerate(self._kinds):
            dim = kind.part.tokens
            assert dim is not None
            count = self.layout.length(*kind.members[0], tokens)
            stacks[kind.names] = self.blocks[place][:, row].narrow(dim + 1, end - count, count)
            parts.update(zip(kind.names, stacks[kind.names].unbind(0), strict=True))
        for number, name, part in self.layout.parts():
            if part.tokens is None:
                parts[f"{number}.{name}"] = self.layers[number][name][row]
        if staging is None:
            names = (f"{number}.{name}" for number, name, _ in self.layout.parts())
            return {name: parts[name].clone() for name in names}
        what = kinds(parts)
        flat = FlatContext(staging.memory(what), what)
        for block, columns in stacks.items():
            stack = flat.stack(block)
            assert stack is not None
            stack.copy_(columns)
        for name in what.keys() - {name for block in stacks for name in block}:
            flat[name].copy_(parts[name])
        return flat

    def copied(self, rows: Sequence[int], end: int) -> Self:
        """Memory of the given rows (in order, repeats allowed), from the first column on that one of them
        has.

        Args:
            rows: which.
            end: the column before which all of them end.
        """
        begins = self.begins[list(rows)]
        first = int(begins.min())
        copy = type(self)((begins - first).tolist(), self.capacity - first, self.layout)
        copy.copy_rows(0, self, rows, end)
        return copy

    def joined(self, other: RowMemory, shifts: tuple[int, int], ends: tuple[int, int], capacity: int) -> Self:
        """Memory of these rows and another's, each moved so many columns to the right, or to the left where
        no row has any there.

        Args:
            other: of the same model.
            shifts: columns, of these rows and of the others.
            ends: the columns before which these rows and the others end, as they stand now.
            capacity: columns allocated.
        """
        begins = [*(self.begins + shifts[0]).tolist(), *(other.begins + shifts[1]).tolist()]
        joined = type(self)(begins, capacity, self.layout)
        joined.copy_rows(0, self, range(len(self)), ends[0])
        joined.copy_rows(len(self), other, range(len(other)), ends[1])
        return joined

    def copy_rows(self, row: int, other: RowMemory, rows: Sequence[int], end: int) -> None:
        """Copy rows of another memory, whose columns stand here as they stand there among each other.

        Args:
            row: the first of them here; the others follow.
            other, rows: the memory, and which of its rows; repeats allowed.
            end: the column of `other` before which all of them end.
        """
        here, run = slice(row, row + len(rows)), run_of(rows)
        begin, its_begin = int(self.begins[here].min()), int(other.begins[run].min())
        indexes: dict[torch.device, Tensor] = {}

        def some(tensor: Tensor, dim: int) -> Tensor:
            if isinstance(run, slice):
                return tensor.narrow(dim, run.start, len(rows))
            if tensor.device not in indexes:
                indexes[tensor.device] = on_device(run, tensor.device)
            return tensor.index_select(dim, indexes[tensor.device])

        for place, block in other.blocks.items():
            tokens = self._kinds[place].part.tokens
            assert tokens is not None
            columns = self._block(place, block)[:, here].narrow(tokens + 2, begin, end - its_begin)
            columns.copy_(some(block.narrow(tokens + 2, its_begin, end - its_begin), 1))
        for number, name, part in self.layout.parts():
            if part.tokens is None and name in other.layers[number]:
                self.states(number)[name][here] = some(other.layers[number][name], 0)

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
