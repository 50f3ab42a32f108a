"""Rows that vLLM reads: token ids, and no more, since keys and values are its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...errors import InputError
from ..model import Rows, TokenIds
from ..row_numbers import check_rows
from .servers import Place

__all__ = ["VllmRows", "place_of"]


class VllmRows:
    """`nbce_rag.models.model.Rows` that go to a `VllmDecoder`; nothing of ours steps them.

    Args:
        contexts: of each row.
        suffixes: what each ends with.
        room: tokens that fit behind every row.
    """

    def __init__(self, contexts: Sequence[TokenIds], suffixes: Sequence[TokenIds], room: int) -> None:
        self._contexts, self._suffixes, self._room = tuple(contexts), tuple(suffixes), room

    def __len__(self) -> int:
        return len(self._contexts)

    @property
    def room(self) -> int:
        return self._room

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        raise InputError("vLLM holds the decoding loop itself: its rows are not stepped from here.")

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        raise InputError("vLLM holds the decoding loop itself: its rows take no token back.")

    def keep(self, rows: Sequence[int]) -> VllmRows:
        check_rows(rows, len(self))
        return VllmRows([self._contexts[r] for r in rows], [self._suffixes[r] for r in rows], self._room)

    def joined(self, other: Rows) -> VllmRows:
        assert isinstance(other, VllmRows)
        room = min(self._room, other._room)
        return VllmRows((*self._contexts, *other._contexts), (*self._suffixes, *other._suffixes), room)

    def prompts(self, rows: Sequence[int]) -> list[TokenIds]:
        """Token ids of some rows, whole."""
        return [(*self._contexts[row], *self._suffixes[row]) for row in rows]

    def place(self, rows: Sequence[int]) -> Place:
        """What decides where the question with these rows goes, row 0 first."""
        return place_of([self._contexts[row] for row in rows], self._suffixes[rows[0]])


def place_of(contexts: Sequence[TokenIds], suffix: TokenIds) -> Place:
    """What decides where a question goes whose rows have these contexts, row 0's first."""
    return Place(contexts[min(1, len(contexts) - 1)], suffix, len(contexts))
