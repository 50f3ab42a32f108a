"""Rows of models that keep a state: it goes on with every token and cannot be cut.

Before each step the states of its rows are marked. Rows that are taken back go back to the mark at once, and
what they had accepted since is read again together with the next tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor

from ...errors import InputError
from ..model import Rows
from ..row_numbers import distinct_rows
from .memory import RowMemory, run_of
from .rows import CachedRows, Forward, Recording, in_order

__all__ = ["StateRows"]


class StateRows(CachedRows):
    """`CachedRows` of a model with states; only what the last step appended can be taken back.

    Args:
        memory, ends, opened, forward: as there.
        record: not used; nothing is recorded of states.
    """

    def __init__(
        self,
        memory: RowMemory,
        ends: Sequence[int],
        opened: Sequence[int],
        forward: Forward,
        record: Recording | None = None,
    ) -> None:
        super().__init__(memory, ends, opened, forward)
        self._marks = list(ends)  # the column where the marked states of a row end
        self._tails: list[tuple[int, ...]] = [()] * len(ends)  # tokens from there to the row's end
        self._state_ends = list(ends)  # the column where its states end: the mark's, or the row's

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """See `nbce_rag.models.model.Rows.step`."""
        chosen = self._stepped(ids, rows)
        waiting = [self._waiting(row) for row in chosen]
        places_by_state: dict[tuple[int, int], list[int]] = {}
        for place, row in enumerate(chosen):
            places_by_state.setdefault((self._state_ends[row], len(waiting[place])), []).append(place)
        self.memory.mark(run_of(chosen))
        parts = []
        try:
            for (read, _), places in places_by_state.items():
                tokens = torch.tensor([[*waiting[place], *ids[place].tolist()] for place in places])
                work = partial(self._read_whole, [chosen[place] for place in places], read, tokens)
                parts.append(self._with_room(work)[:, -ids.shape[1] :])
        except BaseException:
            self.memory.restore(run_of(chosen))
            for row, before in zip(chosen, waiting, strict=True):  # what was marked for the last step is gone
                self._marks[row], self._tails[row] = self._state_ends[row], before
            raise
        for row, before, new in zip(chosen, waiting, ids.tolist(), strict=True):
            self._marks[row] = self._state_ends[row]
            self._tails[row] = (*before, *new)
            self._ends[row] += len(new)
            self._state_ends[row] = self._ends[row]
        return in_order(parts, places_by_state.values())

    def _read_whole(self, rows: list[int], end: int, ids: Tensor) -> Tensor:
        try:
            return self._read(rows, end, ids)
        except torch.OutOfMemoryError:
            self.memory.restore(run_of(rows))  # some layers' states went on, and it is done once more
            raise

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        """See `nbce_rag.models.model.Rows.rewind`."""
        chosen = distinct_rows(rows, len(self))
        most = min(len(self._tails[row]) for row in chosen)
        if not 0 <= tokens <= most:
            raise InputError(
                f"rewind: {tokens} tokens cannot be taken back; where layers keep states, those of the last "
                f"step can be, {most} here."
            )
        if tokens == 0:
            return
        behind = [row for row in chosen if self._state_ends[row] > self._marks[row]]
        if behind:
            self.memory.restore(run_of(behind))
        for row in chosen:
            self._ends[row] -= tokens
            self._tails[row] = self._tails[row][:-tokens]
            self._state_ends[row] = self._marks[row]

    def keep(self, rows: Sequence[int]) -> Self:
        """See `nbce_rag.models.model.Rows.keep`."""
        kept = super().keep(rows)
        waiting = [self._waiting(row) for row in rows]
        kept._resume([(end - len(some), some) for end, some in zip(kept._ends, waiting, strict=True)])
        return kept

    def joined(self, other: Rows) -> Self:
        """See `nbce_rag.models.model.Rows.joined`."""
        joined = super().joined(other)
        parts = [part for part in (self, other) if isinstance(part, StateRows)]
        waiting = [part._waiting(row) for part in parts for row in range(len(part))]
        ends = zip(joined._ends, waiting, strict=True)
        joined._resume([(end - len(tokens), tokens) for end, tokens in ends])
        return joined

    def _waiting(self, row: int) -> tuple[int, ...]:
        """Tokens of a row that its states have not read."""
        return () if self._state_ends[row] == self._ends[row] else self._tails[row]

    def _resume(self, states: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        """Go on from (the column where a row's states end, what they have not read); nothing is marked."""
        self._state_ends = [column for column, _ in states]
        self._marks = list(self._state_ends)
        self._tails = [tokens for _, tokens in states]
