"""A stretch of an answer and the passages that stand behind it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Stretch"]


class Stretch(NamedTuple):
    """A stretch of an answer that one or more passages stand behind.

    Attributes:
        start: Where it begins in the answer, in characters.
        end: Where it ends; exclusive.
        shares: (place of the passage, its share of the evidence in (0, 1]), the largest share first; at
            least one.
    """

    start: int
    end: int
    shares: tuple[tuple[int, float], ...]
