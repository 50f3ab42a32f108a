"""Tables as text: Markdown's pipe tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["flat_table", "pipe_table"]


_MOST_FILLED = 20
"""Places of a table for each cell that it has."""


def pipe_table(rows: Sequence[Sequence[str]], *, has_head: bool = True) -> str:
    """A Markdown pipe table, one row a line, without a line end after the last.

    Cells lose outer whitespace; pipes in them become `\\|`, line ends `<br>`. Empty cells stay, and rows that
    are shorter than the longest are filled with empty ones, unless most of the table would be such cells.

    Args:
        rows: Cells of each row.
        has_head: The first row holds the columns' names. Without it the head is empty: Markdown knows no
            table without one.

    Returns:
        The head, a row of dashes, the other rows; "" where there is no cell.

    >>> print(pipe_table([["Boat", "Length"], ["Yawl", "48"], ["A|B"]]))
    | Boat | Length |
    | --- | --- |
    | Yawl | 48 |
    | A\\|B |  |
    """
    width = max(map(len, rows), default=0)
    if not width:
        return ""
    if width * len(rows) > _MOST_FILLED * sum(map(len, rows)) + 1000:
        width = min(width, _MOST_FILLED)
    head, body = (rows[0], rows[1:]) if has_head else ((), rows)
    lines = [_row(head, width), _row(["---"] * width, width), *(_row(row, width) for row in body)]
    return "\n".join(lines)


def flat_table(rows: Sequence[Sequence[str]]) -> str:
    """A table within a cell of another one: a row a line, without empty cells.

    >>> print(flat_table([["Yawl", "", "48"], ["", "50"]]))
    Yawl; 48
    50
    """
    lines = ("; ".join(cell.strip() for cell in row if cell.strip()) for row in rows)
    return "\n".join(line for line in lines if line)


def _row(cells: Sequence[str], width: int) -> str:
    return f"| {' | '.join([*map(_cell, cells), *[''] * (width - len(cells))])} |"


def _cell(text: str) -> str:
    return "<br>".join(text.strip().splitlines()).replace("|", "\\|")
