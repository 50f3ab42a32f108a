"""A thought before the answer, told from it token by token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..prompts.thought_format import Head, ThoughtFormat
from ..prompts.tokenizer import Tokenizer
from .detokenizer import TextBuilder

__all__ = ["HEAD_TOKENS", "Share", "ThoughtReader"]

HEAD_TOKENS = 8
"""Tokens before it has to be known what a turn begins with, beside those of a mark."""
_UNFINISHED = "\ufffd"


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
        self._head_tokens = HEAD_TOKENS + mark_tokens
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


@lru_cache(maxsize=16)
def _pattern(specials: frozenset[str]) -> re.Pattern[str] | None:
    """What special tokens look like in a text that has them."""
    return re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True)))) if specials else None
