"""What of an answer is cited as one: a sentence, a clause of a long sentence, a list item, a line of code."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from .blocks import Block, BlockReader, Kind, lines
from .words import sized_words, word_count

__all__ = ["LONG", "Unit", "UnitReader", "is_short", "units"]

LONG = 12
"""Words from which on an answer is no short fact. See method.md for what it was set by."""

_LONG_SENTENCE = 25  # words; a longer one is parted into clauses
_SHORT_CLAUSE = 8  # words; no clause has fewer
_BEGINNING = 100  # characters of a line that tell what it is, if anything does before its end

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
_RULE = re.compile(r"[ \t]*\|[ \t:|-]+")  # below the head of a table


class Unit(NamedTuple):
    """A part of an answer that is cited as a whole or not at all.

    Attributes:
        start, end: In characters of the answer, without outer white space. Neither is inside a word.
        kind: The kind of the block that it is in.
        group: Equal for the units of one paragraph, list item, table or code block.
        size: Its words, a Chinese or Japanese character counting half.
        is_head: Whether it is the head of a table.
    """

    start: int
    end: int
    kind: Kind
    group: int
    size: float
    is_head: bool = False


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
    reader = UnitReader()
    return [*reader.push(text), *reader.finish()]


class UnitReader:
    """The units of an answer that grows, each as soon as nothing that follows can change it.

    A sentence is known with the character behind its end, a heading with its line's end, a line of a table or
    of code with the next one.

    Attributes:
        text: The answer so far.
    """

    def __init__(self) -> None:
        self.text = ""
        self._blocks = BlockReader()
        self._line = 0  # where the first line begins that is not whole
        self._searched = 0  # up to where it has no end
        self._is_text = False  # whether it is read already, as far as it goes
        self._block: Block | None = None  # a paragraph or an item that may go on
        self._sentence = 0  # where its first sentence begins that is not whole
        self._scanned = 0  # up to where it has no end
        self._ticks = (0, 0)  # backticks in it, up to where they are counted
        self._row: Unit | None = None  # of code or a table, which the next line may belong to

    @property
    def group(self) -> int:
        """The least group of the units that are not known yet."""
        return self._blocks.group

    def push(self, text: str) -> list[Unit]:
        """Take in more of the answer: the units that are now known."""
        self.text += text
        return list(self._read())

    def finish(self) -> list[Unit]:
        """Nothing follows: the rest of the units."""
        return [*self._read(is_whole=True), *self._close()]

    def _read(self, *, is_whole: bool = False) -> Iterator[Unit]:
        for start, end, after in lines(self.text, self._line, self._searched, is_whole=is_whole):
            if self._is_text:
                yield from self._sentences(self._blocks.extend(self.text, end))
            else:
                yield from self._take(start, end)
            self._line, self._is_text = after, False
        # Of a line end of two characters there may be the first.
        self._searched = max(self._line, len(self.text) - 1)
        if self._is_text:
            yield from self._sentences(self._blocks.extend(self.text, len(self.text)))
        elif self._blocks.is_text(self.text[self._line : self._line + _BEGINNING]):
            yield from self._take(self._line, len(self.text))
            self._is_text = True

    def _take(self, start: int, end: int) -> Iterator[Unit]:
        """The units that are known with the next line, which is whole, or known to be of a paragraph."""
        row, block = self._row, self._blocks.read(self.text, start, end)
        if block is None:
            if row is None or row.kind != "code" or not self._blocks.fence:  # a blank line parts no code
                yield from self._close(is_head=_RULE.fullmatch(self.text, start, end) is not None)
            return
        if self._block is not None and block.start == self._block.start:
            yield from self._sentences(block)
            return
        size = word_count(self.text[block.start : block.end])
        if block.kind == "code" and not size:
            if row is not None and row.group == block.group:
                self._row = row._replace(end=block.end)
            return
        yield from self._close(is_head=_RULE.fullmatch(self.text, start, end) is not None)
        if block.kind in ("prose", "item"):
            self._sentence = self._scanned = block.start
            self._ticks = (0, block.start)
            yield from self._sentences(block)
        elif size:
            unit = Unit(block.start, block.end, block.kind, block.group, size)
            if block.kind == "heading":
                yield unit
            else:
                self._row = unit

    def _close(self, *, is_head: bool = False) -> Iterator[Unit]:
        """The end of the block that is open: what is left of it."""
        row, block = self._row, self._block
        self._row = self._block = None
        if row is not None:
            yield row._replace(is_head=is_head and row.kind == "row")
        if block is not None:
            yield from self._parts(block, block.end)

    def _sentences(self, block: Block) -> Iterator[Unit]:
        """The units of the sentences of a paragraph or an item that are known by now."""
        self._block, text = block, self.text
        for match in _END.finditer(text, self._scanned, block.end):
            at = match.end()
            if at == len(text):
                self._scanned = match.start()
                return
            is_wide = match.group(1)[-1] in _WIDE_ENDS
            if not (is_wide or text[at].isspace()):
                continue
            is_short = match.group(1) == "." and _ABBREVIATED.search(
                text, max(self._sentence, match.end(1) - 8), match.end(1)
            )
            ticks, counted = self._ticks
            self._ticks = (ticks + text.count("`", counted, at), at)
            if is_short or self._ticks[0] % 2:
                continue
            yield from self._parts(block, at)
            self._sentence = at
            self._ticks = (0, at)
        self._scanned = block.end

    def _parts(self, block: Block, end: int) -> Iterator[Unit]:
        """The units of the sentence that ends at a place: clauses, where it is long."""
        sentence = self.text[self._sentence : end]
        begin = self._sentence + len(sentence) - len(sentence.lstrip())
        text = sentence.strip()
        for start, stop, size in _clauses(text):
            if size:
                yield Unit(begin + start, begin + stop, block.kind, block.group, size)


def _clauses(sentence: str) -> Iterator[tuple[int, int, float]]:
    """(start, end, size) of the clauses of a long sentence, without outer white space; all of a short one."""
    spans = sized_words(sentence)
    starts = [start for start, _, _ in spans]
    before = list(accumulate((size for _, _, size in spans), initial=0.0))

    def size(start: int, end: int) -> float:
        return before[bisect_left(starts, end)] - before[bisect_left(starts, start)]

    start, end = 0, len(sentence)
    if size(start, end) > _LONG_SENTENCE:
        for match in _CLAUSE.finditer(sentence):
            if min(size(start, match.end()), size(match.end(), end)) < _SHORT_CLAUSE:
                continue
            if _is_whole(sentence[start : match.end()]):
                yield start, start + len(sentence[start : match.end()].rstrip()), size(start, match.end())
                start = _DASH.match(sentence, match.end()).end()  # type: ignore[union-attr]
    yield start, end, size(start, end)


def _is_whole(part: str) -> bool:
    """Whether a part of a sentence leaves no backtick and no bracket open."""
    return (
        part.count("`") % 2 == 0
        and part.count("(") == part.count(")")
        and part.count("[") == part.count("]")
        and part.count("\uff08") == part.count("\uff09")
    )
