"""Heads and feet that run through the pages of a file, and would stand within its sentences."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from .pages import Line, Page, whole_text

__all__ = ["body_lines"]

_MARGIN = 0.1
"""Share of a page's height, at its top and at its foot, in which they stand."""
_SAME_HEIGHT = 3.0  # points
_NEAR = 3.0  # heights of a line
_GAP = " | "  # between the cells of a line
_NUMBER = re.compile(r"\d+")
_PAGE_NUMBER = re.compile(
    r"[\W_]*(?:(?:page|p|pg|seite|s|página|pagina|стр)\.?\s*)?\d+(?:\s*(?:/|of|von|de|di|из|-)\s*\d+)?[\W_]*",
    re.I,
)
_NUMBER_APART = re.compile(r"(?:^\d+\s*[|·•–—]|[|·•–—]\s*\d+$)")
_SENTENCE_END = re.compile(r"[.!?:\u3002\uff01\uff1f][\"'\u2019\u201d)\]]*$")


class _Edge(NamedTuple):
    page: int
    line: Line
    text: str


def body_lines(pages: Sequence[Page]) -> list[list[Line]]:
    """The lines of each page, without heads and feet that several pages have.

    Each of them stays once, where no sentence goes over it: a head above the first page that begins with a
    new sentence, a foot below the first that ends with one. Numbers of pages go.
    """
    running = [*_running(pages, is_head=True), *_running(pages, is_head=False)]
    if not running:
        return [page.lines for page in pages]
    gone = {id(edge.line) for edges, _ in running for edge in edges}
    bodies = [[line for line in page.lines if id(line) not in gone] for page in pages]
    # What is all that a page has is no head.
    bodies = [body or [*page.lines] for body, page in zip(bodies, pages, strict=True)]
    ends = [
        not body or bool(_SENTENCE_END.search(page.line_text(body[-1])))
        for body, page in zip(bodies, pages, strict=True)
    ]
    for edges, is_head in reversed(running):
        if _PAGE_NUMBER.fullmatch(edges[0].text):
            continue
        for edge in edges:
            number = edge.page
            fits = number == 0 or ends[number - 1] if is_head else ends[number] or number == len(pages) - 1
            if fits and all(line is not edge.line for line in bodies[number]):
                bodies[number].insert(0 if is_head else len(bodies[number]), edge.line)
                break
    return bodies


def _running(pages: Sequence[Page], is_head: bool) -> list[tuple[list[_Edge], bool]]:
    """Groups of lines that are one head, or one foot, on several pages; from the outermost in."""
    groups: defaultdict[str, list[_Edge]] = defaultdict(list)
    for number, page in enumerate(pages):
        for place, line in enumerate(page.lines):
            is_edge = (
                line.bottom > (1 - _MARGIN) * page.height if is_head else line.top < _MARGIN * page.height
            )
            if is_edge and not _is_row(page.lines, place):
                text = _GAP.join(whole_text(page.parts(cell)) for cell in line.cells)
                groups[_NUMBER.sub("#", text)].append(_Edge(number, line, text))
    many = [edges for edges in groups.values() if _is_running(edges)]
    return [
        (edges, is_head)
        for edges in sorted(many, key=lambda edges: edges[0].line.top * (1 if is_head else -1))
    ]


def _is_row(lines: Sequence[Line], place: int) -> bool:
    """Whether a line is a row of a table, whose head may stand on each of its pages."""
    line = lines[place]
    if len(line.cells) < 2:
        return False
    neighbours = (lines[i] for i in (place - 1, place + 1) if 0 <= i < len(lines))
    near = _NEAR * (line.top - line.bottom)
    return any(len(other.cells) > 1 and abs(other.bottom - line.bottom) < near for other in neighbours)


def _is_running(edges: Sequence[_Edge]) -> bool:
    """Whether lines that differ by numbers alone are one, with nothing but the page's number in it."""
    if len({edge.page for edge in edges}) < 2:
        return False
    if len({edge.text for edge in edges}) == 1:
        return max(e.line.bottom for e in edges) - min(e.line.bottom for e in edges) <= _SAME_HEIGHT
    if not all(_PAGE_NUMBER.fullmatch(edge.text) or _NUMBER_APART.search(edge.text) for edge in edges):
        return False
    numbers = [[int(number[:18]) for number in _NUMBER.findall(edge.text)] for edge in edges]
    offsets = zip(
        *([n - edge.page for n in row] for row, edge in zip(numbers, edges, strict=True)), strict=True
    )
    return all(
        len(set(column)) == 1 or len(set(offset)) == 1
        for column, offset in zip(zip(*numbers, strict=True), offsets, strict=True)
    )
