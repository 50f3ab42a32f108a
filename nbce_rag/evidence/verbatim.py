"""Whether a text stands in another one word for word."""

from __future__ import annotations

from .words import fold, words

__all__ = ["FoldedText"]


class FoldedText:
    """A text in which others are looked for word for word.

    Both are compared as `fold` leaves them: without width and compatibility forms, case, and the kind and
    number of blanks. A match begins and ends where no word is cut: "art" does not stand in "party".

    Args:
        text: The text to look in.
    """

    def __init__(self, text: str) -> None:
        self._text = fold(text)
        self._inside = frozenset(at for start, end in words(self._text) for at in range(start + 1, end))

    def holds(self, text: str) -> bool:
        """Whether `text` stands in it; what holds nothing but blanks stands nowhere."""
        part = fold(text)
        at = self._text.find(part) if part else -1
        while at >= 0:
            if at not in self._inside and at + len(part) not in self._inside:
                return True
            at = self._text.find(part, at + 1)
        return False
