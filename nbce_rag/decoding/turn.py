"""The tokens of one turn, thought and answer: who chooses them, and for how many there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..options import Options
from ..prompts.encoder import PromptEncoder
from ..prompts.tokenizer import Tokenizer
from .sampling import Sampler
from .thought import HEAD_TOKENS, Share, ThoughtReader

if TYPE_CHECKING:
    from .grammar import Constraint

__all__ = ["TurnSampler", "thought_budget", "thought_room", "turn_sampler"]

_MOST = 1024  # tokens of a thought, where nothing else is said
_WINDOW_SHARE = 4  # of the window, one part in so many at most
_UNASKED = 32  # tokens of a thought that comes although thinking is off


def thought_budget(encoder: PromptEncoder, options: Options, window: int) -> int:
    """Most tokens of a thought before the answer.

    Args:
        encoder: the prompt.
        options: `thinking` and `max_thought_tokens` are used.
        window: most tokens of a row.
    """
    if encoder.thought is None or encoder.thought.is_barred:
        return 0
    if options.max_thought_tokens is not None:
        return options.max_thought_tokens
    return min(_UNASKED if encoder.thought.is_off else _MOST, window // _WINDOW_SHARE)


def thought_room(encoder: PromptEncoder, options: Options, window: int) -> int:
    """Tokens of a row that a thought and its marks may take, beside those of the answer."""
    if encoder.thought is None:
        return 0
    marks = encoder.count(encoder.thought.format.opening) + encoder.count(encoder.thought.format.closing)
    return thought_budget(encoder, options, window) + 2 * HEAD_TOKENS + 3 * marks


class TurnSampler:
    """Chooses the tokens of thoughts and of the answer; a `nbce_rag.decoding.sampling.TokenChooser`.

    Penalties, bans and grammar of the answer do not see the thought. Where the thought's budget is spent, or
    the model would end its turn in it, the closing mark is written in its place.

    Args:
        reader: tells what is what; it is strict where the answer has a grammar.
        answer: chooses the answer's tokens.
        thought: chooses those of thoughts.
        eos_ids: the tokens that end a turn.
        opening: tokens that are written before anything else, where a grammar must not meet a thought.
        closing: tokens that end a thought and lead to the answer.
        lead: tokens between an ended thought and the answer.

    Attributes:
        shares: what each chosen token tells, to be taken in their order.
        ids: all chosen tokens, thought and answer.
        was_cut: whether a thought was closed because its budget was spent.
    """

    def __init__(
        self,
        reader: ThoughtReader,
        answer: Sampler,
        thought: Sampler,
        eos_ids: frozenset[int],
        *,
        opening: Sequence[int] = (),
        closing: Sequence[int] = (),
        lead: Sequence[int] = (),
    ) -> None:
        self.reader = reader
        self.shares: deque[Share] = deque()
        self.ids: list[int] = []
        self.was_cut = False
        self._answer, self._thought = answer, thought
        self._eos_ids = eos_ids
        self._closing, self._lead = tuple(closing), tuple(lead)
        self._due: deque[int] = deque(opening)  # tokens to be written, whatever the model says
        self._is_ending = False  # whether the answer begins behind them
        self._close_if_spent()

    @property
    def finished(self) -> bool:
        """Whether a grammar leaves nothing to add to the answer."""
        return self._is_answering and self._answer.finished

    def allowed(self) -> Tensor | None:
        return self._answer.allowed() if self._is_answering else None

    def process(self, log_probs: Tensor) -> Tensor:
        if self._due:
            return log_probs
        chooser = self._thought if self.reader.part == "thought" else self._answer
        return chooser.process(log_probs)

    def sure(self, low: Tensor, scores: Tensor, high: Tensor) -> int | None:
        if self._due:
            return self._due[0]
        if self.reader.part != "thought":
            return self._answer.sure(low, scores, high)
        token = self._thought.sure(low, scores, high)
        return self._closing[0] if token in self._eos_ids and self._closing else token

    def choose(self, scores: Tensor) -> int:
        before = self.reader.part
        if self._due:
            token = self._due.popleft()
        elif before == "thought":
            token = self._thought.choose(scores)
            if token in self._eos_ids and self._closing:  # an end in the middle of a thought ends that alone
                self._thought.ids.pop()
                self._close()
                token = self._due.popleft()
        else:
            token = self._answer.choose(scores)
        self.ids.append(token)
        share = Share() if token in self._eos_ids else self.reader.push(token)
        if before == "head" and self.reader.part == "thought":
            self._answer.ids.clear()
        if self._is_ending:  # what is written here is no answer
            share = Share(share.thought)
        if self.reader.part == "lead" and not self._is_ending:
            self._due.extend(self._lead)
            self._is_ending = True
        if self._is_ending and not self._due:
            share = Share(share.thought + self.reader.begin_answer().thought)
            self._is_ending = False
        self._close_if_spent()
        self.shares.append(share)
        return token

    def follow(self, token: int) -> Share:
        """Take in a token that a decoder has chosen by itself; what it tells."""
        if self._is_answering:
            self._answer.follow(token)
        self.ids.append(token)
        return Share() if token in self._eos_ids else self.reader.push(token)

    @property
    def _is_answering(self) -> bool:
        return not self._due and self.reader.part == "answer"

    def _close_if_spent(self) -> None:
        if not self._due and self.reader.is_spent:
            self.was_cut = True
            self._close()

    def _close(self) -> None:
        self._due.extend(self._closing)
        self._is_ending = True


def turn_sampler(
    encoder: PromptEncoder,
    options: Options,
    window: int,
    tokenizer: Tokenizer,
    eos_ids: frozenset[int],
    constraint: Constraint | None = None,
) -> TurnSampler:
    """What chooses the tokens of one request.

    Args:
        encoder: the prompt.
        options: of the request.
        window: most tokens of a row.
        tokenizer: the model's.
        eos_ids: the tokens that end a turn.
        constraint: the answer's grammar, or None. It begins behind the thought, so a thought that may come
            is begun before anything else; where none is asked for, none can come.
    """
    answer = Sampler(options, tokenizer, eos_ids, constraint)
    thought, is_open = encoder.thought, encoder.thought_is_open
    if thought is None:
        return TurnSampler(ThoughtReader(tokenizer), answer, answer, eos_ids)
    budget = thought_budget(encoder, options, window)
    opening, closing, lead = map(
        tokenizer.encode, (thought.format.opening, thought.format.closing, thought.format.lead)
    )
    is_strict = constraint is not None
    thinks = is_open or (budget > 0 and not thought.is_off)
    reader = ThoughtReader(
        tokenizer,
        thought.format if thinks or not is_strict else None,
        is_open=is_open,
        budget=budget,
        mark_tokens=len(opening) + len(closing),
        is_strict=is_strict,
    )
    free = options.updated(bad_words=(), json_schema=None, regex=None)
    return TurnSampler(
        reader,
        answer,
        Sampler(free, tokenizer, eos_ids),
        eos_ids,
        opening=opening if is_strict and thinks and not is_open else (),
        closing=closing,
        lead=lead,
    )
