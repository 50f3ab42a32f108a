"""A thought before the answer: told from it token by token, and closed when its budget is spent."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from ..options import Options
from ..prompts.encoder import PromptEncoder
from ..prompts.thinking import Head, ThoughtFormat
from ..prompts.tokenizer import Tokenizer
from .detokenizer import TextBuilder
from .sampling import Sampler

if TYPE_CHECKING:
    from .grammar import Constraint

__all__ = ["Share", "ThoughtReader", "TurnSampler", "thought_budget", "thought_room", "turn_sampler"]

_MOST = 1024  # tokens of a thought, where nothing else is said
_WINDOW_SHARE = 4  # of the window, one part in so many at most
_UNASKED = 32  # tokens of a thought that comes although thinking is off
_HEAD = 8  # tokens before it has to be known what a turn begins with, beside those of a mark
_UNFINISHED = "\ufffd"


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
    return thought_budget(encoder, options, window) + 2 * _HEAD + 3 * marks


@dataclass(frozen=True, slots=True)
class Share:
    """What one more token tells.

    Attributes:
        thought: text of the thought that is now certain.
        tokens: how many of the last tokens turn out to be the answer's.
        skip: characters of the first of these that belong to what stood before.
    """

    thought: str = ""
    tokens: int = 0
    skip: int = 0


_OF_ANSWER = Share(tokens=1)


class ThoughtReader:
    """Tells thought and answer of one turn apart, token by token.

    Marks may be special tokens or text, in whatever tokens they are spelled, and several thoughts may stand
    before the answer. The pieces of a thought join to `thought`.

    Args:
        tokenizer: the model's.
        form: the marks; None expects no thought.
        is_open: whether the prompt has begun a thought.
        budget: most tokens of thoughts.
        mark_tokens: tokens of opening and closing, at most.
        is_strict: whether nothing but what `begin_answer` is called after begins the answer, as a grammar
            needs it.

    Attributes:
        part: where the next token stands: in the "head" of the turn, in a "thought", in the "lead" between
            a thought and the answer (only if strict), or in the "answer".
        thought: the thoughts so far, several with a blank line between them.
        tokens: how many stood outside the answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        form: ThoughtFormat | None = None,
        *,
        is_open: bool = False,
        budget: int = 0,
        mark_tokens: int = 0,
        is_strict: bool = False,
    ) -> None:
        self.part: Literal["head", "thought", "lead", "answer"] = "answer"
        self.thought = ""
        self.tokens = 0
        self._tokenizer = tokenizer
        self._form = form
        self._budget = budget
        self._head_tokens = _HEAD + mark_tokens
        self._is_strict = is_strict
        self._thought_tokens = 0
        self._waiting: list[int] = []  # tokens of which it is not known what they begin
        self._skip = 0  # characters of the first of them that stood before
        self._text: TextBuilder | None = None  # of the thought
        self._is_shown = False  # whether something of it was shown
        self._has_thought = False
        self._specials = _pattern(tokenizer.specials) if form is not None else None
        if form is not None:
            self.part = "head"
            if is_open:
                self._open()

    @property
    def is_spent(self) -> bool:
        """Whether a thought is open that has to be closed."""
        most = self._budget + self._head_tokens
        return self.part == "thought" and (self._thought_tokens >= self._budget or self.tokens >= most)

    def push(self, token: int) -> Share:
        """Take a token in."""
        if self.part == "answer":
            return _OF_ANSWER
        self.tokens += 1
        if self.part == "thought":
            self._thought_tokens += 1
            return self._think(token, 0)
        return Share() if self.part == "lead" else self._begin(token, 0)

    def begin_answer(self) -> Share:
        """From here on all is answer; what a thought held back is known now."""
        share = Share(self._close()) if self.part == "thought" else Share()
        self._waiting.clear()
        self.part = "answer"
        return share

    def finish(self) -> Share:
        """No more tokens: what was held back."""
        if self.part == "thought":
            return Share(self._close())
        return self._answer() if self._waiting else Share()

    def _begin(self, token: int, skip: int) -> Share:
        """A token at the head of the turn, or behind a thought."""
        assert self._form is not None
        if not self._waiting:
            self._skip = skip
        self._waiting.append(token)
        text = self._decode(self._waiting)[self._skip :]
        known = text.rstrip(_UNFINISHED)
        head: Head | None = self._form.head(known) if known or not text else None
        if head is None and len(self._waiting) < self._head_tokens:
            return Share()
        if head is None or not head.length:
            return self._answer()
        self._waiting.clear()
        rest = len(text) - head.length
        skip = max(0, len(self._decode([token])) - rest)
        if head.is_thought:
            self._open()
            return self._think(token, skip) if rest else Share()
        self.part = "answer"
        return self._last(skip) if rest else Share()

    def _answer(self) -> Share:
        """What waited is the answer, but for blanks between it and a thought."""
        tokens, skip = list(self._waiting), self._skip
        while self._has_thought and len(tokens) > 1 and not self._decode(tokens[:1])[skip:].strip():
            tokens, skip = tokens[1:], 0
        self._waiting.clear()
        self.tokens -= len(tokens)
        self.part = "answer"
        return Share(tokens=len(tokens), skip=skip)

    def _last(self, skip: int) -> Share:
        """The last token has the end of a mark and the beginning of the answer."""
        self.tokens -= 1
        return Share(tokens=1, skip=skip)

    def _open(self) -> None:
        assert self._form is not None
        # With special tokens, since marks may be some.
        self._text = TextBuilder(self._tokenizer, (self._form.closer,), skip_specials=False)
        self._is_shown = False
        self._has_thought = True
        self.part = "thought"

    def _think(self, token: int, skip: int) -> Share:
        assert self._text is not None
        shown = self._shown(self._text.push(token, skip))
        if not self._text.stopped:
            return Share(shown)
        rest = self._text.rest
        self._text = None
        self.part = "lead" if self._is_strict else "head"
        if self._is_strict or not rest:
            return Share(shown)
        share = self._begin(token, max(0, len(self._decode([token])) - len(rest)))
        return Share(shown + share.thought, share.tokens, share.skip)

    def _close(self) -> str:
        assert self._text is not None
        shown = self._shown(self._text.finish())
        self._text = None
        self.part = "head"
        return shown

    def _shown(self, text: str) -> str:
        """New text of the thought, without special tokens."""
        if self._specials is not None:
            text = self._specials.sub("", text)
        if text and self.thought and not self._is_shown:
            text = f"\n\n{text}"
        self._is_shown = self._is_shown or bool(text)
        self.thought += text
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)


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


@lru_cache(maxsize=16)
def _pattern(specials: frozenset[str]) -> re.Pattern[str] | None:
    """What special tokens look like in a text that has them."""
    return re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True)))) if specials else None
