"""Whether and where a text stands in another one word for word."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cached_property

from ..folding import INVISIBLE
from .words import fold, words

__all__ = ["FoldedText"]


class FoldedText:
    """A text in which others are looked for word for word.

    Both are compared as `fold` leaves them: without width and compatibility forms, case, and the kind and
    number of blanks; and without what nobody sees, such as soft hyphens (`nbce_rag.folding`). A match begins
    and ends where no word is cut: "art" does not stand in "party".

    Args:
        text: The text to look in.
    """

    def __init__(self, text: str) -> None:
        self._original = text
        self._text = _folded(text)

    def holds(self, text: str) -> bool:
        """Whether `text` stands in it; what holds nothing but blanks stands nowhere."""
        return self._at(text) is not None

    def find(self, text: str) -> tuple[int, int] | None:
        """Where `text` stands the first time, as (start, end) in characters of the text as it was given.

        Where one character is compared as several, such as a ligature, the span has all of it.
        """
        at = self._at(text)
        if at is None:
            return None
        spans = self._spans
        return spans[at[0]][0], spans[at[1] - 1][1]

    def _at(self, text: str) -> tuple[int, int] | None:
        """(start, end) in the folded text."""
        part = _folded(text)
        at = self._text.find(part) if part else -1
        while at >= 0:
            if at not in self._inside and at + len(part) not in self._inside:
                return at, at + len(part)
            at = self._text.find(part, at + 1)
        return None

    @cached_property
    def _inside(self) -> frozenset[int]:
        """Places of the folded text at which a word would be cut."""
        return frozenset(at for start, end in words(self._text) for at in range(start + 1, end))

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """For each character of the folded text what it was made of, as (start, end) in the original."""
        spans: list[tuple[int, int]] = []
        blank: tuple[int, int] | None = None
        for start, end, folded in _pieces(self._original):
            for char in folded:
                if char.isspace():
                    blank = (blank[0] if blank else start, end)
                    continue
                if blank is not None and spans:
                    spans.append(blank)
                blank = None
                spans.append((start, end))
        return spans


def _folded(text: str) -> str:
    return fold(text.translate(INVISIBLE))


def _pieces(text: str) -> Iterator[tuple[int, int, str]]:
    """Pieces of a text, as short as may be, that are folded by themselves: (start, end, folded).

    Their folded texts joined are the folded text, but for the blanks.
    """
    start = 0
    for at in range(1, len(text) + 1):
        if at < len(text) and not _is_cut(text, start, at):
            continue
        yield start, at, unicodedata.normalize("NFKC", text[start:at].translate(INVISIBLE)).casefold()
        start = at


def _is_cut(text: str, start: int, at: int) -> bool:
    """Whether normalisation may be cut at a place: no mark stands there, and nothing that joins what is
    before it, from `start` on."""
    char = text[at]
    if char.isascii():
        return True
    if ord(char) in INVISIBLE:
        return False
    if unicodedata.combining(unicodedata.normalize("NFKD", char)[0]):
        return False
    before = text[start:at].translate(INVISIBLE)
    joined = unicodedata.normalize("NFKC", before + char)
    return joined == unicodedata.normalize("NFKC", before) + unicodedata.normalize("NFKC", char)
