"""Tables of a page: cells with their heads, or columns that only arrange a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..limits import Room
from ..tables import pipe_table
from .blocks import Block

__all__ = ["Cell", "Table"]

_LONGEST_CELL = 600
"""Characters of a cell in a table without heads; longer ones are columns of a page."""
_MOST_BLOCKS = 4
"""Paragraphs of such a cell."""
_MOST_HEADS = 3
"""Rows of a head, where nothing says which rows are."""
_PLACES, _MORE_PLACES = 20, 1000
"""The most places for each cell of a table, and beyond that."""


@dataclass(slots=True)
class Cell:
    """A cell: what it holds, and the columns and rows that it takes (0 rows: all that follow)."""

    blocks: list[Block] = field(default_factory=list)
    is_head: bool = False
    columns: int = 1
    rows: int = 1

    @property
    def text(self) -> str:
        return "\n".join(
            _flat(block.text) if block.kind == "table" else block.text.strip() for block in self.blocks
        )


@dataclass(slots=True)
class Table:
    """A table that is being read.

    Attributes:
        room: For the text of cells that stand in several places.
        rows: Its cells, as far as they have been read.
        head_rows: How many rows stand in its <thead>.
        is_layout: Whether it says that it only arranges the page.
    """

    room: Room
    is_layout: bool = False
    rows: list[list[Cell]] = field(default_factory=list)
    head_rows: int = 0

    def blocks(self) -> list[Block]:
        """The table as pipe rows; or what its cells hold, where it is no table of data."""
        rows = [row for row in self.rows if row]
        cells = [cell for row in rows for cell in row]
        if self.is_layout or _is_layout(rows, cells):
            return [block for cell in cells for block in cell.blocks]
        grid = _grid(rows, self.room)
        heads = 0
        while heads < len(rows) and (
            heads < self.head_rows or (heads < _MOST_HEADS and not self.head_rows and _is_head(rows[heads]))
        ):
            heads += 1
        if heads == len(rows) > 1 and not self.head_rows:
            heads = 1
        if heads:
            grid = [_merged(grid[:heads]), *grid[heads:]]
        return [Block(pipe_table(grid, has_head=bool(heads)), "table")] if any(map(any, grid)) else []


def _flat(table: str) -> str:
    """A table within a cell: a line for each of its rows."""
    head, _, *rows = table.split("\n")
    lines = (line.strip("| ").replace("\\|", "/").replace(" | ", ", ") for line in (head, *rows))
    return "\n".join(line for line in lines if line)


def _is_layout(rows: Sequence[Sequence[Cell]], cells: Sequence[Cell]) -> bool:
    if max(map(len, rows), default=0) < 2:
        return not any(cell.is_head for cell in cells) or len(rows) < 2
    if any(cell.is_head for cell in cells):
        return False
    return any(
        len(cell.text) > _LONGEST_CELL
        or sum(block.kind != "item" for block in cell.blocks) > _MOST_BLOCKS
        or any(block.kind in ("table", "code") for block in cell.blocks)
        for cell in cells
    )


def _is_head(row: Sequence[Cell]) -> bool:
    """All of its cells are heads, but for an empty corner."""
    corner = row[0].is_head or not row[0].blocks
    return corner and any(cell.is_head for cell in row) and all(cell.is_head for cell in row[1:])


def _grid(rows: Sequence[Sequence[Cell]], room: Room) -> list[list[str]]:
    """The text of each place. A cell of several columns or rows stands in each; one that is a row, once."""
    # Spans may claim far more places than there are cells: then they are left out.
    most = _PLACES * sum(map(len, rows)) + _MORE_PLACES
    grid: list[list[str]] = []
    below: dict[int, tuple[int, str]] = {}  # by column: rows that a cell from above still takes, its text
    for number, row in enumerate(rows):
        places: list[str] = []
        for cell in row:
            _take_from_above(places, below, room)
            text = cell.text
            rows_left = min(cell.rows or len(rows), len(rows) - number) - 1
            most -= cell.columns + len(below)
            if most < 0:
                return [[cell.text for cell in row] for row in rows]
            for column in range(cell.columns):
                is_repeated = not column or len(row) > 1 or cell.is_head
                if rows_left:
                    below[len(places)] = (rows_left, text if is_repeated else "")
                places.append(text if is_repeated else "")
                room.take(len(places[-1]))
        _take_from_above(places, below, room)
        grid.append(places)
    return grid


def _take_from_above(places: list[str], below: dict[int, tuple[int, str]], room: Room) -> None:
    while (column := len(places)) in below:
        left, text = below.pop(column)
        if left > 1:
            below[column] = (left - 1, text)
        places.append(text)
        room.take(len(text))


def _merged(heads: Sequence[Sequence[str]]) -> list[str]:
    """One head of several rows: the names of each column from top to bottom."""
    width = max(map(len, heads))
    columns = ([row[column] for row in heads if column < len(row)] for column in range(width))
    return [" ".join(dict.fromkeys(filter(None, names))) for names in columns]
