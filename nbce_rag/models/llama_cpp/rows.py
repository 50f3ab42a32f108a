"""Rows as sequences of llama.cpp: what several have in common is copied when one of them changes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import InputError, NumericalError
from ..model import Rows
from ..row_numbers import check_rows, distinct_rows, stepped_rows
from .base import LoadedGguf
from .context import PASS_TOKENS
from .session import Part, Session, TokenSequence

__all__ = ["SequenceRows", "log_probs_of"]


class SequenceRows:
    """Rows that were read, as `nbce_rag.models.model.Rows` has them.

    Args:
        model: whose they are.
        sequences: of each row.
        opened: tokens of each row that cannot be taken back.
        most: tokens that each row may grow to.
    """

    def __init__(
        self,
        model: LoadedGguf,
        sequences: Sequence[TokenSequence],
        opened: Sequence[int],
        most: Sequence[int],
    ) -> None:
        self._model = model
        self._sequences = list(sequences)
        self._opened = list(opened)
        self._most = list(most)
        for sequence in self._sequences:
            sequence.holders.add(self)

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def room(self) -> int:
        """Tokens that still fit behind every row."""
        return min(most - length for most, length in zip(self._most, self._lengths(), strict=True))

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """See `nbce_rag.models.model.Rows.step`."""
        chosen = stepped_rows(ids, rows, len(self))
        tokens, lengths = ids.shape[1], self._lengths()
        room = min(self._most[row] - lengths[row] for row in chosen)
        if tokens > room:
            raise InputError(f"step: {tokens} tokens do not fit; there is room for {room}.")
        log_probs = torch.empty(len(chosen), tokens, self._model.vocab_size)
        with self._model.lock:
            for row in chosen:
                self._make_own(row)
            places_by_session: dict[Session, list[int]] = {}
            for place, row in enumerate(chosen):
                places_by_session.setdefault(self._sequences[row].session, []).append(place)
            try:
                for session, places in places_by_session.items():
                    new = [
                        Part(self._sequences[chosen[place]], ids[place].tolist(), range(tokens))
                        for place in places
                    ]
                    filled = [0] * len(new)
                    for index, logits in session.read(new, PASS_TOKENS):
                        behind = slice(filled[index], filled[index] + len(logits))
                        log_probs[places[index], behind] = log_probs_of(self._model, logits)
                        filled[index] = behind.stop
            except BaseException:
                # Rows that were read already go back, so that a failed step has changed nothing.
                for row in chosen:
                    sequence = self._sequences[row]
                    sequence.in_doubt = True
                    sequence.session.forget(sequence, len(sequence.ids) - lengths[row])
                raise
        return log_probs

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        """See `nbce_rag.models.model.Rows.rewind`."""
        chosen = distinct_rows(rows, len(self))
        if not self._model.can.rewind:
            raise InputError(f"The model {self._model.name!r} is recurrent and takes no token back.")
        lengths = self._lengths()
        most = min(lengths[row] - self._opened[row] for row in chosen)
        if not 0 <= tokens <= most:
            raise InputError(f"rewind: {tokens} tokens cannot be taken back; {most} were appended.")
        with self._model.lock:
            for row in chosen if tokens else ():
                self._make_own(row)
                self._sequences[row].session.cut(self._sequences[row], tokens)

    def keep(self, rows: Sequence[int]) -> SequenceRows:
        """See `nbce_rag.models.model.Rows.keep`."""
        check_rows(rows, len(self))
        opened, most = ([numbers[row] for row in rows] for numbers in (self._opened, self._most))
        return SequenceRows(self._model, [self._sequences[row] for row in rows], opened, most)

    def joined(self, other: Rows) -> SequenceRows:
        """See `nbce_rag.models.model.Rows.joined`."""
        if not isinstance(other, SequenceRows) or other._model is not self._model:
            raise InputError(f"{type(other).__name__} are rows of another model; they cannot be joined.")
        return SequenceRows(
            self._model,
            [*self._sequences, *other._sequences],
            [*self._opened, *other._opened],
            [*self._most, *other._most],
        )

    def _lengths(self) -> list[int]:
        return [len(sequence.ids) for sequence in self._sequences]

    def _make_own(self, row: int) -> None:
        """Copy a row's sequence if other rows have it too, here or elsewhere."""
        sequence = self._sequences[row]
        if len(sequence.holders) == 1 and self._sequences.count(sequence) == 1:
            return
        copy = sequence.session.copy(sequence)
        self._sequences[row] = copy
        copy.holders.add(self)
        if sequence not in self._sequences:
            sequence.holders.discard(self)


def log_probs_of(model: LoadedGguf, logits: Tensor) -> Tensor:
    """[N, V] log-probs of logits, in memory of their own.

    Raises:
        NumericalError: NaN among them.
    """
    log_probs = logits.log_softmax(-1)
    # One NaN in a row's logits makes its whole log-softmax NaN, so one value a row tells.
    if bool(log_probs[..., 0].isnan().any()):
        raise NumericalError(
            f"{model.name!r} gave NaN instead of probabilities; load it with kv_type='f32' or with "
            "flash_attn=False, or check its file."
        )
    return log_probs
