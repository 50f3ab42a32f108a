"""Tokens into text as they come: no half characters, no white space at the ends, stop strings held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from ..prompts.tokenizer import Tokenizer

__all__ = ["TextBuilder"]

_UNFINISHED = "\ufffd"
# At most so many of these at the end of a text may still become a character: it has up to four bytes, and
# decoders of byte tokens take back the character before while the next one is unfinished. More are real.
_MOST_UNFINISHED = 8


class TextBuilder:
    """The text of one answer, token by token.

    Leading and trailing white space is not part of the text. Text that may turn out to be the beginning
    of a stop string, a trailing blank, or part of a character is held back until it is known, so that
    the pieces that `push` and `finish` return always join to the final text.

    Args:
        tokenizer: the model's.
        stop: strings that end the text and are not part of it.
        skip_specials: whether special tokens have no text.

    Attributes:
        stopped: whether a stop string was met.
        rest: what came behind it with the last token.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, skip_specials: bool = True) -> None:
        self.stopped = False
        self.rest = ""
        self._skip_specials = skip_specials
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._ids: list[int] = []
        self._window = 0  # where decoding starts: a few tokens back, since text depends on neighbours
        self._next_window = 0  # the latest token at which a character and a token begin together
        self._shown = 0  # characters of the window's text that are settled
        self._raw = ""  # settled text, with leading white space gone
        self._spans: list[tuple[int, int]] = []  # of each settled token, in self._raw
        self._released = 0
        self._end: int | None = None
        self._finished = False

    @classmethod
    def of_text(cls, tokenizer: Tokenizer, text: str, spans: Sequence[tuple[int, int]]) -> Self:
        """A text that is there already, with the span of each of its tokens; nothing is added to it."""
        builder = cls(tokenizer)
        builder._raw, builder._spans = text, list(spans)
        builder._released, builder._finished = len(text), True
        return builder

    @property
    def text(self) -> str:
        """What was released so far; after `finish`, the whole."""
        return self._raw[: self._released]

    def span(self, index: int) -> tuple[int, int]:
        """Character span of a token in the text; tokens that spell one character share its span.

        Spans are cut to the text released so far; a token that stands outside it has an empty span.
        """
        if index >= len(self._spans):
            return self._released, self._released
        start, end = self._spans[index]
        return min(start, self._released), min(end, self._released)

    def certain(self, index: int) -> bool:
        """Whether a token's span will not change any more."""
        return self._finished or (index < len(self._spans) and self._spans[index][1] <= self._released)

    def spelled(self, token: int, index: int) -> str:
        """A token as it would be spelled in the place of a settled one, special tokens and blanks included.

        Args:
            token: the token.
            index: the place.
        """
        before = self._ids[max(0, index - 1) : index]
        text = self._tokenizer.decode([*before, token])
        return text[len(self._tokenizer.decode(before)) :] if before else text

    def push(self, token: int, skip: int = 0) -> str:
        """Add a token; returns the text that is now certain.

        Args:
            token: the token.
            skip: characters of the first token that are not part of the text.
        """
        if not self._ids:
            self._shown = skip
        self._ids.append(token)
        text = self._decode(self._window)
        unfinished = min(len(text) - len(text.rstrip(_UNFINISHED)), _MOST_UNFINISHED)
        new = text[self._shown : len(text) - unfinished]
        self._shown += len(new)
        if new or not unfinished:
            self._settle(new)
        # A window must begin with a token that has text: a blank at the start of a text is often lost.
        if new and not unfinished:
            self._window, self._next_window = self._next_window, len(self._ids)
            self._shown = len(self._decode(self._window))
        released = self._release()
        if self.stopped:
            self.rest += _UNFINISHED * unfinished
        return released

    def finish(self) -> str:
        """No more tokens: returns what was held back and belongs to the text."""
        self._finished = True
        if self._end is None:
            self._end = len(self._raw)
        self._end = len(self._raw[: self._end].rstrip())
        return self._advance(self._end)

    def _decode(self, start: int) -> str:
        return self._tokenizer.decode(self._ids[start:], skip_specials=self._skip_specials)

    def _settle(self, new: str) -> None:
        if not self._raw:
            new = new.lstrip()
        start = len(self._raw)
        self._raw += new
        self._spans += [(start, len(self._raw))] * (len(self._ids) - len(self._spans))

    def _release(self) -> str:
        if self.stopped:
            return ""
        longest = max(map(len, self._stop), default=0)
        search = max(0, self._released - longest)
        hits = [(at + len(stop), at) for stop in self._stop if (at := self._raw.find(stop, search)) >= 0]
        if hits:
            # The one that was complete first, however the text came in tokens.
            self.stopped = True
            behind, self._end = min(hits)
            self.rest = self._raw[behind:]
            return self.finish()
        sure = len(self._raw)
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._raw)), 0, -1):
                if self._raw.endswith(stop[:length]):
                    sure = min(sure, len(self._raw) - length)
                    break
        return self._advance(len(self._raw[:sure].rstrip()))

    def _advance(self, to: int) -> str:
        new = self._raw[self._released : to]
        self._released = max(self._released, to)
        return new
