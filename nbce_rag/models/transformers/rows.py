"""Rows in one memory, read, stepped and taken back.

Where nothing lags, all rows end at the same column and one pass reads them all. Rows that lag behind end at
an earlier column, and rows that end alike are read together. Columns before the first one that a row has are
let go of when rows are copied, so that a batch in which questions come and go does not grow with time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Self, TypeVar

import torch
from torch import Tensor

from ...errors import InputError
from ..model import Rows
from ..row_numbers import check_rows, distinct_rows, stepped_rows
from .cache import RowCache
from .caches import row_cache
from .memory import RowMemory
from .staging import on_device, with_room
from .static_step import SPARE_COLUMNS, PlayedStep

__all__ = ["CachedRows", "Forward", "Recording", "in_order"]

T = TypeVar("T")
Forward = Callable[[RowCache, Tensor], Tensor]
"""A pass of new tokens [R, T] over a cache; log-probs [R, T, V]."""
Recording = Callable[[RowMemory], PlayedStep | None]
"""Makes a recording of a step of all rows of a memory; None where it could not be made."""

_BEFORE_RECORDING = 3  # steps; a recording takes as long as some of them


class CachedRows:
    """Rows that were read, as `nbce_rag.models.model.Rows` has them.

    Args:
        memory: what the layers keep of the rows.
        ends: the column before which each row ends.
        opened: the same when the row was opened; what is before cannot be taken back.
        forward: reads new tokens.
        record: makes a recording of a step of all rows, which is then played; None where none is made.
    """

    def __init__(
        self,
        memory: RowMemory,
        ends: Sequence[int],
        opened: Sequence[int],
        forward: Forward,
        record: Recording | None = None,
    ) -> None:
        self.memory = memory
        self._ends = list(ends)
        self._opened = list(opened)
        self._forward = forward
        self._record = record
        self._whole_steps = 0  # of all rows by one token, before a recording was worth it
        self._played: PlayedStep | None = None

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def room(self) -> int:
        """Tokens that still fit behind every row."""
        return self.memory.capacity - max(self._ends)

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """See `nbce_rag.models.model.Rows.step`."""
        chosen = self._stepped(ids, rows)
        if (log_probs := self._play(ids, chosen)) is not None:
            self._ends = [end + 1 for end in self._ends]
            return log_probs
        places_by_end: dict[int, list[int]] = {}
        for place, row in enumerate(chosen):
            places_by_end.setdefault(self._ends[row], []).append(place)
        parts = [
            self._with_room(partial(self._read, [chosen[place] for place in places], end, ids[places]))
            for end, places in places_by_end.items()
        ]
        # Only now: what a pass that failed has written is written over.
        for row in chosen:
            self._ends[row] += ids.shape[1]
        return in_order(parts, places_by_end.values())

    def _read(self, rows: list[int], end: int, ids: Tensor) -> Tensor:
        return self._forward(row_cache(self.memory, rows, end), ids)

    def _with_room(self, work: Callable[[], T]) -> T:
        return with_room(self.memory.layout.device, work)

    def _play(self, ids: Tensor, chosen: list[int]) -> Tensor | None:
        """A step of all rows by one token as it was recorded; None where there is no such recording."""
        end = self._ends[0]
        is_whole = ids.shape[1] == 1 and chosen == list(range(len(self))) and set(self._ends) == {end}
        if self._record is None or not is_whole:
            return None
        if self._played is None:
            self._whole_steps += 1
            if self._whole_steps <= _BEFORE_RECORDING or self.room <= SPARE_COLUMNS:
                return None
            self._played = self._record(self.memory)
            if self._played is None:
                self._record = None
                return None
        return self._played(ids, end)

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        """See `nbce_rag.models.model.Rows.rewind`."""
        chosen = distinct_rows(rows, len(self))
        most = min(self._ends[row] - self._opened[row] for row in chosen)
        if not 0 <= tokens <= most:
            raise InputError(f"rewind: {tokens} tokens cannot be taken back; {most} were appended.")
        for row in chosen:
            self._ends[row] -= tokens

    def keep(self, rows: Sequence[int]) -> Self:
        """See `nbce_rag.models.model.Rows.keep`."""
        check_rows(rows, len(self))
        end = max(self._ends[row] for row in rows)
        memory = self._with_room(lambda: self.memory.copied(rows, end))
        first = self.memory.capacity - memory.capacity
        ends, opened = ([columns[row] - first for row in rows] for columns in (self._ends, self._opened))
        return type(self)(memory, ends, opened, self._forward, self._record)

    def joined(self, other: Rows) -> Self:
        """See `nbce_rag.models.model.Rows.joined`."""
        if not isinstance(other, type(self)):
            raise InputError(f"{type(other).__name__} are rows of another backend; they cannot be joined.")
        end, other_end = max(self._ends), max(other._ends)
        shifts = (max(0, other_end - end), max(0, end - other_end)) if self.memory.layout.in_step else (0, 0)
        begins = (int(self.memory.begins.min()) + shifts[0], int(other.memory.begins.min()) + shifts[1])
        first = min(begins)
        shifts = (shifts[0] - first, shifts[1] - first)
        capacity = max(end, other_end) - first + max(self.room, other.room)

        def moved(mine: list[int], others: list[int]) -> list[int]:
            return [*(column + shifts[0] for column in mine), *(column + shifts[1] for column in others)]

        return type(self)(
            self._with_room(lambda: self.memory.joined(other.memory, shifts, (end, other_end), capacity)),
            moved(self._ends, other._ends),
            moved(self._opened, other._opened),
            self._forward,
            self._record,
        )

    def _stepped(self, ids: Tensor, rows: Sequence[int] | None) -> list[int]:
        """The rows of a step, which is possible."""
        chosen = stepped_rows(ids, rows, len(self))
        tokens = ids.shape[1]
        last = max(self._ends[row] for row in chosen)
        if last + tokens > self.memory.capacity:
            raise InputError(
                f"step: {tokens} tokens do not fit; there is room for {self.memory.capacity - last}."
            )
        return chosen


def in_order(parts: Sequence[Tensor], places: Iterable[Sequence[int]]) -> Tensor:
    """The rows of several passes, each with the places of its rows among all."""
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([place for some in places for place in some])
    return torch.cat(list(parts))[on_device(order.argsort(), parts[0].device)]
