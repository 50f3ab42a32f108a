"""Workbooks of Excel, by openpyxl: sheet after sheet as tables."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from ..archives import Archive, readable
from ..document import Document, document_of
from ..limits import Deadline, ReadLimits, Room
from ..tables import pipe_table

__all__ = ["DOCUMENTS", "PACKAGES", "VERSION"]

VERSION = 1

PACKAGES = ("openpyxl", "lxml")

_KIND = "a workbook (.xlsx)"
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\b[^>]*\bref=\"([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})\"")
_NO_RESULT = re.compile(rb"(?:</f>|<f(?:\s[^<>]*)?/>)\s*(?:<v\s*/>|<v></v>)?\s*</c>")
_MOST_EMPTY = 20
"""Cells of a table for each that is filled; what is thinner is written as lines."""

_Row = dict[int, str]  # filled cells by their column


def _read_xlsx(path: Path, data: bytes, limits: ReadLimits) -> Document:
    import openpyxl

    archive = Archive(path, data, limits, _KIND)
    archive.check_markup()
    deadline, room = Deadline(path, limits), Room(path, limits)
    parts: list[tuple[str, dict[str, Any]]] = []
    hidden: list[str] = []
    unsolved = 0
    with readable(path, _KIND), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extensions that openpyxl would not write again
        book = openpyxl.load_workbook(io.BytesIO(archive.whole()), read_only=True, data_only=True)
        limits.check_pages(path, len(book.worksheets))
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                hidden.append(sheet.title)
                continue
            # What a sheet says of its size is often all of the rows that there can be.
            sheet.reset_dimensions()
            markup = archive.read(sheet._worksheet_path)
            unsolved += sum(1 for _ in _NO_RESULT.finditer(markup))
            merged = _merged(markup)
            blocks = list(_blocks(sheet, merged, deadline, room))
            if blocks:
                heading = f"## {' '.join(sheet.title.split())}"
                parts.append(("\n\n".join([heading, *blocks]), {"sheet": sheet.title}))
        title = book.properties.title
    gaps = [f"hidden sheets are left out: {', '.join(hidden)}."] if hidden else []
    if unsolved:
        gaps.append(
            f"formulas without a saved result are left out: {unsolved}; open the file and save it once."
        )
    return document_of(parts, title, gaps)


def _blocks(
    sheet: Any, merged: Mapping[tuple[int, int], int], deadline: Deadline, room: Room
) -> Iterator[str]:
    """Runs of rows without an empty row between them, each as a table."""
    block: list[_Row] = []
    for row in _rows(sheet, merged, deadline, room):
        if row:
            block.append(row)
        elif block:
            yield _block(block)
            block = []
    if block:
        yield _block(block)


def _rows(
    sheet: Any, merged: Mapping[tuple[int, int], int], deadline: Deadline, room: Room
) -> Iterator[_Row]:
    below: dict[int, tuple[int, str]] = {}  # by column: to which row a merged cell reaches, and its text
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        if not number % 1000:
            deadline.check()
        row: _Row = {}
        for column, cell in enumerate(cells, start=1):
            if cell.value is None:
                continue
            if text := _text(cell):
                row[column] = text
                if last := merged.get((number, column)):
                    below[column] = last, text
        if row and below:
            # What is merged downwards is repeated, so that each row can be read alone.
            below = {column: (last, text) for column, (last, text) in below.items() if last >= number}
            row = {**{column: text for column, (_, text) in below.items()}, **row}
        room.take(sum(map(len, row.values())))
        yield row


def _block(rows: list[_Row]) -> str:
    """A table of the columns that are not empty; rows of one cell that stand above it are text."""
    first = next((number for number, row in enumerate(rows) if len(row) > 1), len(rows))
    captions = [text for row in rows[:first] for text in row.values()]
    table = _table(rows[first:]) if first < len(rows) else ""
    return "\n\n".join(filter(None, ["\n".join(captions), table]))


def _table(rows: list[_Row]) -> str:
    columns = sorted({column for row in rows for column in row})
    filled = sum(map(len, rows))
    if len(rows) * len(columns) > _MOST_EMPTY * filled + 1000:
        return "\n".join("; ".join(row[column] for column in sorted(row)) for row in rows)
    return pipe_table([[row.get(column, "") for column in columns] for row in rows])


def _text(cell: Any) -> str:
    """A value as the sheet shows it, as far as its kind goes: dates by ISO 8601, shares in percent."""
    value = cell.value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "seconds")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, int | float):
        if "%" in (cell.number_format or ""):
            return f"{100 * value:.12g}%"
        return str(value) if isinstance(value, int) else f"{value:.15g}"
    return str(value).strip()


def _merged(markup: bytes) -> dict[tuple[int, int], int]:
    """Cells that are merged downwards, by row and column: the last row."""
    from openpyxl.utils import column_index_from_string

    return {
        (int(top), column_index_from_string(left.decode())): int(bottom)
        for left, top, _, bottom in _MERGED.findall(markup)
        if int(bottom) > int(top)
    }


DOCUMENTS = {".xlsx": _read_xlsx, ".xlsm": _read_xlsx}
