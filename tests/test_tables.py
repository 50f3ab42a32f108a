"""Pipe tables: whatever cells hold, rows stay rows and columns stay columns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.documents.tables import pipe_table


def cells_of(line: str) -> list[str]:
    """What a reader of Markdown sees in a row."""
    parts = re.split(r"(?<!\\)\|", line)
    assert parts[0] == parts[-1] == ""
    return [part[1:-1].replace("\\|", "|") for part in parts[1:-1]]


def test_a_table_has_a_head_a_rule_and_rows() -> None:
    assert pipe_table([["Boat", "Length"], ["Yawl", "48"]]).splitlines() == [
        "| Boat | Length |",
        "| --- | --- |",
        "| Yawl | 48 |",
    ]


def test_without_a_head_the_first_row_is_no_head() -> None:
    assert pipe_table([["Yawl", "48"]], has_head=False).splitlines() == [
        "|  |  |",
        "| --- | --- |",
        "| Yawl | 48 |",
    ]


def test_ragged_rows_are_filled_and_empty_cells_stay() -> None:
    assert pipe_table([["a", "", "c"], [], ["", "x"]]).splitlines() == [
        "| a |  | c |",
        "| --- | --- | --- |",
        "|  |  |  |",
        "|  | x |  |",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029"])
def test_pipes_and_line_ends_in_cells_are_escaped(end: str) -> None:
    assert pipe_table([[f" a|b{end}c\n"]]).splitlines() == ["| a\\|b<br>c |", "| --- |"]


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_no_cell_makes_no_table(rows: list[list[str]]) -> None:
    assert pipe_table(rows) == ""
    assert pipe_table(rows, has_head=False) == ""


@given(st.lists(st.lists(st.text(), max_size=4), min_size=1, max_size=5), st.booleans())
def test_every_cell_is_found_again_under_its_column(rows: list[list[str]], has_head: bool) -> None:
    width = max(map(len, rows))
    lines = pipe_table(rows, has_head=has_head).splitlines()
    if not width:
        assert not lines
        return
    head, rule, *body = map(cells_of, lines)
    assert rule == ["---"] * width
    shown = [head, *body] if has_head else body
    if not has_head:
        assert head == [""] * width
    assert shown == [
        ["<br>".join(cell.strip().splitlines()) for cell in row] + [""] * (width - len(row)) for row in rows
    ]


def test_one_long_row_among_many_short_ones_does_not_fill_them_all() -> None:
    rows = [["name", "note"], *[["a", "b"]] * 30_000, ["x"] * 30_000]
    lines = pipe_table(rows).splitlines()
    assert [len(cells_of(line)) for line in (lines[0], lines[2], lines[-1])] == [20, 20, 30_000]
    assert sum(map(len, lines)) < 5_000_000
