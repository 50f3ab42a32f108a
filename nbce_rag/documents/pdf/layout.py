"""The lines of a page as text: paragraphs, tables as pipe tables, columns one after the other."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import mean, median

from .pages import Cell, Line, Page, Part, whole_text

__all__ = ["page_parts"]

_PARAGRAPH_GAP = 1.4
"""Distance of lines, in the usual ones of the page, that parts paragraphs."""
_WIDE_GAP = 2.5
"""The same, in heights of the line; lines of a text with double spacing have 2."""
_PROSE_SHARE = 0.3
"""Share of the cells of each column that begin in lower case, from which on they are lines of prose."""
_FILLED = 0.7
"""Share of cells that are not empty, in columns of prose."""
_NEAR = 3.5
"""Most distance of the rows of a table, in heights of a line."""
_WRAPPED = 1.3
"""Most distance of the lines of a cell, in their heights."""
_LOOKED_AT = 50  # rows of a table, for its columns
_MOST_COLUMNS = 100
_MOST_SPACES = 80  # between the words of code
_LIKE_WIDTH = 0.6
"""The shortest column, in the lengths of the longest, that is still one of prose."""
_FULL_LINE = 16  # characters of a line of a column, in scripts without lower case

Joint = Callable[[str, str], str]
"""What stands between the two halves of a word that a line's end has broken: a hyphen, or nothing."""


def page_parts(page: Page, lines: Sequence[Line], joint: Joint) -> list[Part]:
    """The text of lines of a page, in the order in which it is read."""
    parts: list[Part] = []
    usual = _usual_distance(lines)
    before: Line | None = None  # none after a table
    for block in _blocks(page, lines):
        if not isinstance(block, Line):
            words = _table(page, block)
            gap = "\n\n"
        else:
            words = _words(page, block)
            if before is None:
                gap = "\n\n"
            elif before.is_broken:
                gap = joint(parts[-1].text, words[0].text)
            else:
                gap = "\n\n" if _parts_paragraphs(before, block, usual) else "\n"
        if parts and gap:
            parts.append(Part(gap, -1))
        parts += words
        before = block if isinstance(block, Line) else None
    return parts


def _words(page: Page, line: Line) -> list[Part]:
    parts = page.parts(line.cells[0])
    for before, cell in pairwise(line.cells):
        width = round((cell.left - before.right) / line.pitch) if line.pitch else 1
        parts += [Part(" " * min(max(width, 1), _MOST_SPACES), -1), *page.parts(cell)]
    return parts


def _usual_distance(lines: Sequence[Line]) -> float:
    distances = [a.bottom - b.bottom for a, b in pairwise(lines)]
    return median([distance for distance in distances if distance > 0] or [0.0])


def _parts_paragraphs(before: Line, line: Line, usual: float) -> bool:
    distance, height = before.bottom - line.bottom, line.top - line.bottom
    return distance > max(_PARAGRAPH_GAP * usual, height) or distance > _WIDE_GAP * height


_Row = list[list[Cell]]
"""The cells in each column: none for an empty one, several where they stand close."""


def _blocks(page: Page, lines: Sequence[Line]) -> Iterator[Line | list[_Row]]:
    """Lines in their order, and tables where several lines have the same gaps."""
    start = 0
    while start < len(lines):
        stop = _region_end(lines, start)
        region = lines[start:stop]
        rows = _rows(region) if sum(map(_has_columns, region)) > 1 else []
        if not rows:
            stop = start + 1
            yield lines[start]
        elif _is_prose(page, rows):
            for column in zip(*rows, strict=True):
                yield from (Line(cells) for cells in column if cells)
        else:
            yield _without_wraps(rows)
        start = stop


def _has_columns(line: Line) -> bool:
    return len(line.cells) > 1 and not (line.is_broken or line.pitch or line.is_mixed)


def _region_end(lines: Sequence[Line], start: int) -> int:
    """Where lines with gaps end that follow each other, among them lines of one cell that fit a column."""
    stop = start
    at = start
    while at < len(lines):
        line = lines[at]
        if _has_columns(line):
            stop = at + 1
        elif (
            at == start
            or len(line.cells) > 1
            or line.is_broken
            or not _fits(lines[max(start, at - _LOOKED_AT) : at], line)
        ):
            break
        elif (
            stop == at
            and _is_tight(lines[at - 1], line)
            and line.cells[0].left > lines[at - 1].cells[0].right
        ):
            stop = at + 1  # the last cell of the table goes on
        at += 1
    return stop


def _fits(lines: Sequence[Line], line: Line) -> bool:
    """Whether a line of one cell stands near below others, within one of their columns."""
    cell = line.cells[0]
    if not 0 <= lines[-1].bottom - cell.bottom <= _NEAR * (cell.top - cell.bottom):
        return False
    return not any(
        before.right > cell.left and after.left < cell.right
        for other in lines
        for before, after in pairwise(other.cells)
    )


def _is_tight(before: Line, line: Line) -> bool:
    return before.bottom - line.bottom <= _WRAPPED * (line.top - line.bottom)


def _without_wraps(rows: list[_Row]) -> list[_Row]:
    """Rows in which the lines of a cell are together, where these are closer than rows are."""
    bottoms = [min(cell.bottom for cells in row for cell in cells) for row in rows]
    height = max(cell.top - cell.bottom for cells in rows[0] for cell in cells)
    is_close = [a - b <= _WRAPPED * height for a, b in pairwise(bottoms)]
    if 2 * is_close.count(False) < is_close.count(True):  # rows without room between them
        return rows
    whole = [rows[0]]
    for before, row, close in zip(rows, rows[1:], is_close, strict=False):
        if close and not (_is_whole(before) and _is_whole(row)):
            whole[-1] = [above + below for above, below in zip(whole[-1], row, strict=True)]
        else:
            whole.append(row)
    return whole


def _is_whole(row: _Row) -> bool:
    return bool(row[0]) and sum(map(bool, row)) > 1


def _rows(lines: Sequence[Line]) -> list[_Row]:
    """Cells in columns: those that stand above each other. None when these are not two at least."""
    spans = sorted((cell.left, cell.right) for line in lines for cell in line.cells)
    columns: list[list[float]] = []
    for left, right in spans:
        if columns and left < columns[-1][1]:
            columns[-1][1] = max(columns[-1][1], right)
        else:
            columns.append([left, right])
    if not 2 <= len(columns) <= _MOST_COLUMNS:
        return []
    lefts = [column[0] for column in columns]
    rows: list[_Row] = []
    for line in lines:
        row: _Row = [[] for _ in columns]
        for cell in line.cells:
            row[bisect_right(lefts, cell.left) - 1].append(cell)
        rows.append(row)
    _join_columns(rows)
    return rows if len(rows[0]) > 1 else []


def _join_columns(rows: list[_Row]) -> None:
    """Makes one column of a head and of cells beside it that no other head stands above.

    Heads may stand left and numbers right in a column, so that none is above another.
    """
    at = 1
    while at < len(rows[0]):
        has_head = bool(rows[0][at - 1]), bool(rows[0][at])
        is_apart = not any(row[at - 1] and row[at] for row in rows)
        is_late = has_head == (False, True) and not any(row[at] for row in rows[1:])
        if is_apart and (has_head == (True, False) or is_late):
            for row in rows:
                row[at - 1 : at + 1] = [row[at - 1] + row[at]]
        else:
            at += 1


def _texts(page: Page, row: _Row) -> list[str]:
    return [" ".join(whole_text(page.parts(cell)) for cell in cells) for cells in row]


def _is_prose(page: Page, rows: Sequence[_Row]) -> bool:
    """Whether these are lines of columns, read one column after the other."""
    columns = [
        [text for text in column if text] for column in zip(*(_texts(page, row) for row in rows), strict=True)
    ]
    later = [column[1:] for column in columns]
    if not all(later) or sum(map(len, columns)) < _FILLED * len(rows) * len(columns):
        return False
    lengths = [mean(map(len, column)) for column in columns]
    if min(lengths) < _LIKE_WIDTH * max(lengths):
        return False
    texts = [text for column in later for text in column]
    if any(text[0].lower() != text[0].upper() for text in texts):
        return all(
            sum(text[0].islower() for text in column) >= _PROSE_SHARE * len(column)
            and sum(len(text.split()) for text in column) >= 2 * len(column)
            for column in later
        )
    return not any(re.search(r"\d", text) for text in texts) and min(lengths) >= _FULL_LINE


def _table(page: Page, rows: Sequence[_Row]) -> list[Part]:
    """Pipe rows, as `nbce_rag.documents.tables` writes them, of parts that know their place."""
    first = _texts(page, rows[0])
    has_head = any(first) and not any(re.fullmatch(r"\W*\d[\d\W]*", text) for text in first)
    lines = [_row(page, row) for row in rows]
    rule = Part(f"|{' --- |' * len(rows[0])}", -1)
    if has_head:
        lines.insert(1, [rule])
    else:
        lines[:0] = [[Part(f"|{'  |' * len(rows[0])}", -1)], [rule]]
    parts: list[Part] = []
    for line in lines:
        parts += [Part("\n", -1), *line] if parts else line
    return parts


def _row(page: Page, row: _Row) -> list[Part]:
    parts = [Part("| ", -1)]
    for number, cells in enumerate(row):
        if number:
            parts.append(Part(" | ", -1))
        for part in _words(page, Line(cells)) if cells else ():
            parts += _escaped(part)
    return [*parts, Part(" |", -1)]


def _escaped(part: Part) -> Iterator[Part]:
    """A part with backslashes before its pipes, as parts."""
    start = 0
    for pipe in re.finditer(r"\|", part.text) if part.first >= 0 else ():
        yield Part(part.text[start : pipe.start()], part.first + start)
        yield Part("\\", -1)
        start = pipe.start()
    yield Part(part.text[start:], part.first + start if part.first >= 0 else -1)
