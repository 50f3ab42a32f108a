"""Sequences of tokens in a context that grows with them."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakSet

from torch import Tensor

from ...deadline import check_deadline
from ...errors import ModelError
from .cells import Held
from .context import MOST_SEQUENCES, PASS_TOKENS, Context, ContextSettings
from .weights import Weights

__all__ = ["SPARE", "Part", "Session", "TokenSequence"]

SPARE = 1.25
"""Of the cells that are needed, so many times are made, so that contexts are seldom replaced."""

_LARGE = 8192  # cells beyond which a context that is mostly unused is made anew


class TokenSequence:
    """One sequence of a session; its cells are free again when nobody has it any more.

    Attributes:
        session: where it is.
        number: llama.cpp's own.
        ids: its tokens.
        held: its cells.
        holders: the rows that it is part of. What is part of several is copied before it is changed.
        in_doubt: whether cells may hold what `ids` does not, since a pass was broken off.
    """

    __slots__ = ("__weakref__", "held", "holders", "ids", "in_doubt", "number", "session")

    def __init__(self, session: Session, number: int, ids: Sequence[int], held: Held) -> None:
        self.session = session
        self.number = number
        self.ids = list(ids)
        self.held = held
        self.holders: WeakSet[object] = WeakSet()
        self.in_doubt = False

    def __del__(self) -> None:
        # Whichever thread this happens in, and whatever it holds: the session looks later.
        self.session.left.append((self.number, self.held))


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that are appended to a sequence.

    Attributes:
        sequence: each at most once in a reading.
        ids: the tokens.
        outputs: places among them whose logits are asked for, in order.
    """

    sequence: TokenSequence
    ids: Sequence[int]
    outputs: Sequence[int] = ()


class Session:
    """Sequences in one context, which is replaced by a larger one when it is full.

    Not safe to use from several threads at once, but for what happens when sequences are let go of.

    Args:
        weights, settings: as in `Context`.

    Attributes:
        left: numbers and cells of sequences that were let go of since the session was last used.
    """

    def __init__(self, weights: Weights, settings: ContextSettings) -> None:
        self._weights, self._settings = weights, settings
        self._context: Context | None = None
        self._free: list[int] = []
        self._used = 0
        self.left: deque[tuple[int, Held]] = deque()

    @property
    def cells(self) -> int:
        """How many there are, filled or not."""
        return 0 if self._context is None else self._context.cells

    @property
    def free_cells(self) -> int:
        """How many are not filled."""
        self._sweep()
        return self.cells - self._used

    @property
    def free_sequences(self) -> int:
        """How many sequences can still be made."""
        self._sweep()
        most = 0 if self._context is None else self._context.sequences
        return MOST_SEQUENCES - most + len(self._free)

    def close(self) -> None:
        """Give the memory back; its sequences are lost."""
        if self._context is not None:
            self._context.close()

    def prepare(self, cells: int, sequences: int) -> None:
        """Make room for tokens and sequences beside those that are there.

        Raises:
            ModelError: there is no memory for it, or the model was closed.
        """
        self._sweep()
        context = self._open_context
        if context is not None and cells <= self.free_cells and sequences <= len(self._free):
            return
        if context is None or self._is_idle:
            least = self.cells
            self._give_up()
            made = self._made(max(least, round(SPARE * cells)), sequences)
            self._free = list(range(made.sequences))
            self._context = made
            return
        most = context.sequences
        larger = self._made(
            max(context.cells, round(SPARE * (self._used + cells))), most - len(self._free) + sequences
        )
        larger.take_over(context)
        for number in range(most, larger.sequences):
            heapq.heappush(self._free, number)
        self._context = larger
        context.close()

    def shrink(self, cells: int) -> None:
        """Give a context up that nothing is in and that is far larger than so many cells."""
        self._sweep()
        if self._is_idle and self.cells > max(_LARGE, 4 * cells):
            self._give_up()

    def empty(self) -> TokenSequence:
        """A sequence without tokens."""
        self.prepare(0, 1)
        return TokenSequence(self, heapq.heappop(self._free), (), Held())

    def copy(self, sequence: TokenSequence) -> TokenSequence:
        """A sequence of the same tokens, of this session or of another of the same model.

        Raises:
            ModelError: llama.cpp fails.
        """
        sequence.session._mend(sequence)
        if sequence.session is not self:
            self.prepare(len(sequence.ids), 1)
            copy = self.restored(sequence.session.save(sequence), sequence.ids)
            if copy is None:
                raise ModelError(f"llama.cpp cannot copy rows of {self._weights.name!r}.")
            return copy
        copy = self.empty()
        self._ready.copy(sequence.number, copy.number)
        copy.ids, copy.held = list(sequence.ids), sequence.held.copied()
        return copy

    def restored(self, state: Tensor, ids: Sequence[int]) -> TokenSequence | None:
        """A sequence of these tokens by a state that `save` gave; None if the state is not theirs."""
        self.prepare(len(ids), 1)
        sequence = self.empty()
        sequence.in_doubt = True
        if not self._ready.restore(sequence.number, state, len(ids)):
            return None
        self._used += sequence.held.grow(len(ids))
        sequence.ids = list(ids)
        sequence.in_doubt = False
        return sequence

    def save(self, sequence: TokenSequence) -> Tensor:
        """A sequence's state, [bytes] uint8."""
        self._mend(sequence)
        return self._ready.save(sequence.number)

    def state_bytes(self, sequence: TokenSequence, *, partial: bool = False) -> int:
        """As `Context.state_bytes`."""
        return self._ready.state_bytes(sequence.number, partial=partial)

    def cut(self, sequence: TokenSequence, tokens: int) -> None:
        """Take the last tokens of a sequence back; where there is no other way, by reading it anew."""
        self.forget(sequence, tokens)
        self._mend(sequence)

    def forget(self, sequence: TokenSequence, tokens: int) -> None:
        """The same, but its cells are put right only when the sequence is used again."""
        sequence.in_doubt = True
        del sequence.ids[len(sequence.ids) - tokens :]
        self._used += sequence.held.cut(tokens)

    def read(self, parts: Sequence[Part], tokens: int) -> Iterator[tuple[int, Tensor]]:
        """Append tokens to sequences, in as few passes as there have to be.

        Args:
            parts: what is appended to which sequence.
            tokens: the most of one pass; what is longer goes alone.

        Yields:
            (index of a part, [N, V] logits at its next outputs, float32), in order; a long part may come in
            several pieces. The logits are llama.cpp's own, and written over by what comes next.

        Raises:
            ModelError: llama.cpp fails, or the model was closed.
        """
        for part in parts:
            self._mend(part.sequence)
        self.prepare(sum(len(part.ids) for part in parts), 0)
        context = self._ready
        for pieces in _passes(parts, tokens, context.outputs):
            check_deadline()
            chosen = [(index, parts[index].sequence, ids, outputs) for index, ids, outputs in pieces]
            for _, sequence, _, _ in chosen:
                sequence.in_doubt = True
            logits = context.decode([(s.number, len(s.ids), ids, outputs) for _, s, ids, outputs in chosen])
            for _, sequence, ids, _ in chosen:
                self._used += sequence.held.grow(len(ids))
                sequence.ids += ids
                sequence.in_doubt = False
            at = 0
            for index, _, _, outputs in chosen:
                if outputs and logits is not None:
                    yield index, logits[at : at + len(outputs)]
                    at += len(outputs)

    def _mend(self, sequence: TokenSequence) -> None:
        """See to it that the cells of a sequence hold its tokens and no others."""
        if not sequence.in_doubt:
            return
        context = self._ready
        if not context.cut(sequence.number, len(sequence.ids)):
            context.clear(sequence.number)
            self._used += sequence.held.clear()
            ids, sequence.ids = sequence.ids, []
            sequence.in_doubt = False
            try:
                for _ in self.read([Part(sequence, ids)], PASS_TOKENS):
                    pass
            except BaseException:  # another try finds the tokens again
                sequence.ids, sequence.in_doubt = ids, True
                raise
        sequence.in_doubt = False

    @property
    def _open_context(self) -> Context | None:
        context = self._context
        if self._weights.closed or (context is not None and context.closed):
            raise ModelError(f"The model {self._weights.name!r} was closed; load it again.")
        return context

    @property
    def _ready(self) -> Context:
        context = self._open_context
        if context is None:
            raise ModelError(f"The model {self._weights.name!r} has no context; load it again.")
        return context

    @property
    def _is_idle(self) -> bool:
        context = self._context
        return not self._used and context is not None and len(self._free) == context.sequences

    def _give_up(self) -> None:
        self.close()
        self._context, self._free = None, []

    def _made(self, cells: int, sequences: int) -> Context:
        # States of recurrent layers take room for every sequence that there may be; keys and values do not.
        spare = 8 if self._weights.is_recurrent else 128
        most = min(MOST_SEQUENCES, -(-sequences // spare) * spare)
        return Context(self._weights, self._settings, cells, most)

    def _sweep(self) -> None:
        """Forget the sequences that were let go of."""
        while self.left:
            number, held = self.left.popleft()
            self._used += held.clear()
            if self._context is not None and not self._context.closed:
                self._context.clear(number)
                heapq.heappush(self._free, number)


def _passes(
    parts: Sequence[Part], tokens: int, outputs: int
) -> Iterator[list[tuple[int, Sequence[int], Sequence[int]]]]:
    """Pieces of parts: (index of the part, tokens, outputs among them), a list for each pass."""
    tokens = min(tokens, PASS_TOKENS)
    pieces: list[tuple[int, Sequence[int], Sequence[int]]] = []
    free_tokens, free_outputs = tokens, outputs
    for index, part in enumerate(parts):
        if pieces and (len(part.ids) > free_tokens or len(part.outputs) > free_outputs):
            yield pieces
            pieces, free_tokens, free_outputs = [], tokens, outputs
        if len(part.ids) <= free_tokens and len(part.outputs) <= free_outputs:
            pieces.append((index, part.ids, part.outputs))
            free_tokens -= len(part.ids)
            free_outputs -= len(part.outputs)
            continue
        for ids, places in _alone(part, outputs):
            yield [(index, ids, places)]
    if pieces:
        yield pieces


def _alone(part: Part, outputs: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """A part in pieces that each fit into a pass of their own."""
    start = 0
    while start < len(part.ids):
        rest = [place for place in part.outputs if place >= start]
        stop = min(
            len(part.ids), start + PASS_TOKENS, rest[outputs] if len(rest) > outputs else len(part.ids)
        )
        yield part.ids[start:stop], [place - start for place in rest if place < stop]
        start = stop
