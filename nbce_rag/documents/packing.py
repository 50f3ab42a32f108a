"""Packing pieces of a text into passages that overlap."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .table_heads import TableHeads

__all__ = ["Piece", "pack"]


class Piece(NamedTuple):
    """A span without outer whitespace that is never cut, and its count of tokens."""

    start: int
    end: int
    tokens: int
    opens: bool  # it is the first of a paragraph


def pack(
    text: str,
    pieces: list[Piece],
    max_tokens: int,
    overlap: int,
    count: Callable[[str], int],
    heads: TableHeads,
) -> list[tuple[int, int]]:
    """Fills passages with pieces [low, high), of which those from `new` on are in no passage yet."""
    spans: list[tuple[int, int]] = []
    low = new = 0
    while new < len(pieces):
        # A passage repeats less than all of the one before, so that it is not contained in this one.
        low = _overlap_start(text, pieces, low + 1 if spans else 0, new, overlap, count)
        total = sum(piece.tokens for piece in pieces[low : new + 1])
        while low < new and total + heads.tokens_at(pieces[low].start) > max_tokens:
            total -= pieces[low].tokens
            low += 1
        high = new + 1
        total += heads.tokens_at(pieces[low].start)
        while high < len(pieces) and total + pieces[high].tokens <= max_tokens:
            total += pieces[high].tokens
            high += 1
        high = _paragraph_end(pieces, low, new, high, total, max_tokens)
        # The sum leaves out what stands between pieces, and tokens may differ across a seam: the
        # passage itself is what must not be over the limit.
        while count(_whole(text, pieces[low].start, pieces[high - 1].end, heads)) > max_tokens:
            if high > new + 1:
                high -= 1
            elif low < new:
                low += 1
            else:
                break
        spans.append((pieces[low].start, pieces[high - 1].end))
        new = high
    return spans


def _whole(text: str, start: int, end: int, heads: TableHeads) -> str:
    return heads.head_at(start) + text[start:end]


def _overlap_start(
    text: str, pieces: list[Piece], first: int, new: int, overlap: int, count: Callable[[str], int]
) -> int:
    """The first of the pieces before `new`, from `first` on, that may be repeated within `overlap` tokens."""
    low, total = new, 0
    while low > first and total + pieces[low - 1].tokens <= overlap:
        low -= 1
        total += pieces[low].tokens
    while low < new and count(text[pieces[low].start : pieces[new - 1].end]) > overlap:
        low += 1
    return low


def _paragraph_end(pieces: list[Piece], low: int, new: int, high: int, total: int, max_tokens: int) -> int:
    """`high`, or the last paragraph end before it when the passage is still at least half full there."""
    if high == len(pieces) or pieces[high].opens:
        return high
    for stop in range(high - 1, new, -1):
        total -= pieces[stop].tokens
        if 2 * total < max_tokens:
            break
        if pieces[stop].opens:
            return stop
    return high
