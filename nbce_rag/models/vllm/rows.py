"""Rows that vLLM reads: token ids, and no more, since keys and values are its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from ..model import RowPrompt, Rows, TokenIds
from ..row_numbers import check_rows
from .servers import Place

__all__ = ["VllmRows", "place_of"]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row, and where the prompt goes that it came with."""

    context: TokenIds
    suffix: TokenIds
    place: Place


class VllmRows:
    """`nbce_rag.models.model.Rows` that go to a `VllmDecoder`; nothing of ours steps them."""

    def __init__(self, rows: Sequence[_Row], room: int) -> None:
        self._rows, self._room = tuple(rows), room

    @classmethod
    def of(cls, prompts: Sequence[RowPrompt], room: int) -> VllmRows:
        """The rows of some prompts, with room for so many tokens behind each."""
        rows = []
        for prompt in prompts:
            place = place_of(prompt)
            rows += [_Row(context, prompt.suffix, place) for context in prompt.contexts]
        return cls(rows, room)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def room(self) -> int:
        return self._room

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        raise InputError("vLLM holds the decoding loop itself: its rows are not stepped from here.")

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        raise InputError("vLLM holds the decoding loop itself: its rows take no token back.")

    def keep(self, rows: Sequence[int]) -> VllmRows:
        check_rows(rows, len(self))
        return VllmRows([self._rows[row] for row in rows], self._room)

    def joined(self, other: Rows) -> VllmRows:
        assert isinstance(other, VllmRows)
        return VllmRows((*self._rows, *other._rows), min(self._room, other._room))

    def prompts(self, rows: Sequence[int]) -> list[TokenIds]:
        """Token ids of some rows, whole."""
        return [(*self._rows[row].context, *self._rows[row].suffix) for row in rows]

    def place(self, rows: Sequence[int]) -> Place:
        """What decides where the question with these rows goes, row 0 first."""
        return self._rows[rows[0]].place


def place_of(prompt: RowPrompt) -> Place:
    """What decides where a prompt goes: its best passage's row; and what is read of it later, by the words of
    all its passages."""
    question = (prompt.suffix, prompt.vocabulary) if prompt.vocabulary else None
    return Place(prompt.contexts[min(1, len(prompt.contexts) - 1)], question, len(prompt.contexts))
