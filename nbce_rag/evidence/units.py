"""What of an answer is cited as one: a sentence, a clause of a long sentence, a list item, a line of code."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

from .blocks import Kind, blocks
from .words import sized_words, word_count

__all__ = ["LONG", "Unit", "is_short", "units"]

LONG = 12
"""Words from which on an answer is no short fact. See method.md for what it was set by."""

_LONG_SENTENCE = 25  # words; a longer one is parted into clauses
_SHORT_CLAUSE = 8  # words; no clause has fewer

# No blank follows the ends of Chinese and Japanese sentences. What must follow the others is looked at
# afterwards, so that a long row of dots is passed over once and not once for every dot.
_WIDE_ENDS = "\u3002\uff01\uff1f\uff61"
_CLOSERS = "\"'`*)\\]\u2019\u201d\u00bb\u203a\uff09\u300d\u300f\u3011\u300b"
_END = re.compile(f"([.!?\u2026\u061f\u06d4\u0964\u0965{_WIDE_ENDS}]++)[{_CLOSERS}]*+")
_ABBREVIATED = re.compile(
    r"(?<![\w'\u2019])(?:[^\W\d_a-z]|e\.g|i\.e|z\.B|d\.h|etc|vs|cf|ca|bzw|Dr|Mr|Mrs|Ms|Prof|St|No|Nr|Fig|approx)\.\Z"
)
_CLAUSE = re.compile(
    "[,;:\u060c\u061b](?=\\s)|[\uff0c\uff1b\uff1a\u3001](?!\\s)|[\uff0c\uff1b\uff1a\u3001](?=\\s)"
    "|\\s(?=[\u2013\u2014-]\\s)"
)
_DASH = re.compile("\\s*(?:[\u2013\u2014-]\\s+)?")


class Unit(NamedTuple):
    """A part of an answer that is cited as a whole or not at all.

    Attributes:
        start, end: In characters of the answer, without outer white space. Neither is inside a word.
        kind: The kind of the block that it is in.
        group: Equal for the units of one paragraph, list item, table or code block.
        size: Its words, a Chinese or Japanese character counting half.
    """

    start: int
    end: int
    kind: Kind
    group: int
    size: float


def is_short(text: str) -> bool:
    """Whether an answer is a short fact: one line of fewer than `LONG` words."""
    return len(text.splitlines()) <= 1 and word_count(text) < LONG


def units(text: str) -> list[Unit]:
    """The units of an answer, ordered and disjoint; each has at least one word.

    A paragraph and a list item are parted into sentences, and a sentence of more than 25 words into
    clauses of 8 words or more, never between backticks or within brackets. A heading and a line of a
    table are one unit, and so is a line of code with those behind it that hold no words, such as a
    bracket alone.
    """
    spans = sized_words(text)
    starts = [start for start, _, _ in spans]
    before = list(accumulate((size for _, _, size in spans), initial=0.0))

    def size(start: int, end: int) -> float:
        return before[bisect_left(starts, end)] - before[bisect_left(starts, start)]

    def clauses(start: int, end: int) -> Iterator[tuple[int, int]]:
        if size(start, end) > _LONG_SENTENCE:
            for match in _CLAUSE.finditer(text, start, end):
                if min(size(start, match.end()), size(match.end(), end)) < _SHORT_CLAUSE:
                    continue
                if _is_whole(text[start : match.end()]):
                    yield start, match.end()
                    start = _DASH.match(text, match.end(), end).end()  # type: ignore[union-attr]
        yield start, end

    result: list[Unit] = []
    for block in blocks(text):
        parts: Iterator[tuple[int, int]] = iter([(block.start, block.end)])
        if block.kind in ("prose", "item"):
            parts = (
                part for sentence in _sentences(text, block.start, block.end) for part in clauses(*sentence)
            )
        for start, end in parts:
            end = start + len(text[start:end].rstrip())
            words = size(start, end)
            if words:
                result.append(Unit(start, end, block.kind, block.group, words))
            elif block.kind == "code" and result and result[-1].group == block.group:
                result[-1] = result[-1]._replace(end=end)
    return result


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The sentences of text[start:end], each from its first character to the next one's."""
    cuts = [start]
    for match in _END.finditer(text, start, end):
        at = match.end()
        is_wide = match.group(1)[-1] in _WIDE_ENDS
        if at == end or not (is_wide or text[at].isspace()):
            continue
        is_short = match.group(1) == "." and _ABBREVIATED.search(
            text, max(cuts[-1], match.end(1) - 8), match.end(1)
        )
        if is_short or text.count("`", cuts[-1], at) % 2:
            continue
        cuts.append(at + len(text[at:end]) - len(text[at:end].lstrip()))
    return pairwise([*cuts, end])


def _is_whole(part: str) -> bool:
    """Whether a part of a sentence leaves no backtick and no bracket open."""
    return (
        part.count("`") % 2 == 0
        and part.count("(") == part.count(")")
        and part.count("[") == part.count("]")
        and part.count("\uff08") == part.count("\uff09")
    )
