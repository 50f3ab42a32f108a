"""Pipe tables within a text, and the heads that passages cut out of them take along."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["TableHeads"]

# The line of dashes between a table's head and its rows.
_RULE = re.compile(
    r"^[ \t]*+\|?+[ \t]*+:?+-++:?+[ \t]*+(?:\|[ \t]*+:?+-++:?+[ \t]*+)*+\|?+[ \t]*+(?=\r?\n)", re.MULTILINE
)
_LINE = re.compile(r"[^\r\n]+")


class _Table(NamedTuple):
    start: int
    rows: int  # where its first row begins
    end: int
    head: str  # "" where it names no column


class TableHeads:
    """The pipe tables of a text.

    Args:
        text: Any text.
        max_tokens: The most tokens of a passage. Heads of more than half of that stay behind.
        count: Counts the tokens of a string.
    """

    def __init__(self, text: str, max_tokens: int, count: Callable[[str], int]) -> None:
        self._text = text
        self._max_tokens = max_tokens
        self._count = count
        self._tables = list(_tables(text))
        self._starts = [table.start for table in self._tables]
        self._tokens: dict[int, int] = {}

    def head_at(self, position: int) -> str:
        """What a passage that begins at `position` takes along: a head with its rule and line end, or ""."""
        table = self._at(position)
        return table.head if table is not None and position >= table.rows and self._size(table) else ""

    def tokens_at(self, position: int) -> int:
        """The tokens of that."""
        table = self._at(position)
        return self._size(table) if table is not None and position >= table.rows else 0

    def units(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """A span in parts: each head, each row, and all that is no table; the latter with False."""
        place = max(bisect_right(self._starts, start) - 1, 0)
        for table in self._tables[place : bisect_right(self._starts, end)]:
            low, high = max(table.start, start), min(table.end, end)
            if low >= high:
                continue
            if start < low:
                yield start, low, False
            rows = max(low, min(table.rows, high))
            if low < rows:
                yield low, rows, True
            for row in _LINE.finditer(self._text, rows, high):
                yield row.start(), row.end(), True
            start = high
        if start < end:
            yield start, end, False

    def _at(self, position: int) -> _Table | None:
        place = bisect_right(self._starts, position) - 1
        if place < 0 or position >= self._tables[place].end:
            return None
        return self._tables[place]

    def _size(self, table: _Table) -> int:
        """The tokens of its head; 0 for one that stays behind."""
        if not table.head:
            return 0
        if table.start not in self._tokens:
            tokens = self._count(table.head)
            self._tokens[table.start] = tokens if 2 * tokens <= self._max_tokens else 0
        return self._tokens[table.start]


def _tables(text: str) -> Iterator[_Table]:
    end = 0
    for rule in _RULE.finditer(text):
        if "|" not in rule.group() or rule.start() <= end:
            continue
        start = max(text.rfind("\n", end, rule.start() - 1) + 1, end)
        names = text[start : rule.start()]
        if "|" not in names:
            continue
        rows = stop = _next_line(text, rule.end())
        while (line := _LINE.match(text, stop)) is not None and "|" in line.group():
            end = line.end()
            stop = _next_line(text, end)
        if stop > rows:
            yield _Table(start, rows, end, text[start:rows] if names.replace("|", "").strip() else "")


def _next_line(text: str, position: int) -> int:
    return position + (2 if text.startswith("\r\n", position) else 1)
