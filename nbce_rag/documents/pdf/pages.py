"""What PDFium finds on a page: lines, parted into cells where their gaps are wide, and their boxes."""

from __future__ import annotations

import ctypes
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .fields import page_fields

if TYPE_CHECKING:
    from pypdfium2 import PdfPage, PdfTextPage

__all__ = ["Cell", "Line", "Page", "Part", "read_page", "whole_text"]

_GUTTER = 1.3
"""Gap between cells or columns, in heights of the line."""
_SAME_LINE = 0.3
"""Most difference of the ends of one line, in its heights."""
_SMALLER, _RAISED = 0.85, 0.2
"""Most height of a raised number, and least height of its lower end, in heights of the character before."""
_HYPHEN = "\x1e"
"""Stands in a page's text for a hyphen that ends a line within a word."""
_JOINT = "\x1f"
"""Stands there for a space that PDFium made of a gap between letters that are set apart."""
# Bullets as the fonts Symbol and Wingdings have them.
_SYMBOLS = str.maketrans("\uf0b7\uf0a7\uf0d8\uf0fc\uf0a8\uf076", "•▪➢✓□❖")
_BULLETS = frozenset("•▪◦‣⁃●○■□➢✓❖")
_HYPHEN_CODE = 2  # PDFium's own
# Controls and noncharacters are no text; NULs stand where a font has no letter.
_NO_TEXT = "\x00-\x1f\x7f\ufdd0-\ufdef\ufffe\uffff"
_RUN = re.compile(f"[^\\s{_NO_TEXT}]+(?: [^\\s{_NO_TEXT}]+)*")
_LETTERSPACED = re.compile(r"(?<!\S)[^\W\d_](?: [^\W\d_]){3,}(?!\S)")
_LINE = re.compile(f"[^\r\n{_HYPHEN}]+{_HYPHEN}?")
_SPACE = re.compile("[ \t\xa0\u2000-\u200a\u3000]+")
_BREAK = re.compile(f"[\r\n]|{_SPACE.pattern}")
"""Parts words, also where PDFium began another line within one."""
_POWER = re.compile(r"(?<=[\w)\]%])[-+\u2212\u2013]?\d")
_FIXED_FONT = re.compile(rb"Mono|Courier|Consol|Typewriter|CMTT", re.IGNORECASE)
_WORD = re.compile(f"[^\\s{_NO_TEXT}]+")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc]")
_ANY_TEXT = re.compile(f"[^\\s{_NO_TEXT}]")


class Part(NamedTuple):
    """Text, and the number on its page of its first character; -1 for text that the page does not hold."""

    text: str
    first: int


class Cell(NamedTuple):
    """A part of a line without wide gaps: where it stands in the page's text, and its box in points."""

    start: int
    end: int
    left: float
    bottom: float
    right: float
    top: float


@dataclass(slots=True)
class Line:
    """A line.

    Attributes:
        cells: At least one.
        is_broken: Whether its last word goes on in the next line, after a hyphen.
        pitch: The width of its characters in points, where it has several cells in type of one width, as
            code has; else 0.
        is_mixed: Whether it holds text from right to left. Its cells are words then, in the order of reading.
    """

    cells: list[Cell]
    is_broken: bool = False
    pitch: float = 0.0
    is_mixed: bool = False

    @property
    def bottom(self) -> float:
        return min(cell.bottom for cell in self.cells)

    @property
    def top(self) -> float:
        return max(cell.top for cell in self.cells)


@dataclass(slots=True)
class Page:
    """A page.

    Attributes:
        height: In points.
        text: One character for each that PDFium counts.
        lines: In the order in which they were drawn.
        powers: The numbers of characters, ascending, with which raised numbers begin.
        fields: What is filled in, a line each.
    """

    height: float = 0.0
    text: str = ""
    lines: list[Line] = field(default_factory=list)
    powers: Sequence[int] = ()
    fields: list[str] = field(default_factory=list)

    def parts(self, cell: Cell) -> list[Part]:
        """The words of a cell, with one space between them."""
        parts: list[Part] = []
        end = cell.start
        for run in _RUN.finditer(self.text, cell.start, cell.end):
            if parts and _BREAK.search(self.text, end, run.start()):
                parts.append(Part(" ", -1))
            end = run.start()
            for power in self.powers[bisect_right(self.powers, end) : bisect_left(self.powers, run.end())]:
                parts += [Part(self.text[end:power], end), Part("^", -1)]
                end = power
            parts.append(Part(self.text[end : run.end()], end))
            end = run.end()
        return parts

    def line_text(self, line: Line) -> str:
        return " ".join(whole_text(self.parts(cell)) for cell in line.cells)


def whole_text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts)


def read_page(page: PdfPage) -> Page:
    """Takes in a page. PDFium must not be used by another thread meanwhile."""
    text_page = page.get_textpage()
    try:
        boxes = _Boxes(text_page)
        text = _characters(text_page, boxes)
        lines: list[Line] = []
        for match in _LINE.finditer(text):
            is_mixed = _RIGHT_TO_LEFT.search(match.group()) is not None
            cells = list((_mixed_words if is_mixed else _cells)(text, match.start(), match.end(), boxes))
            if not cells:
                continue
            line = Line(cells, match.group()[-1] == _HYPHEN, is_mixed=is_mixed)
            if lines and not is_mixed and not lines[-1].is_mixed and _goes_on(lines[-1], line):
                line.cells = _joined(lines.pop().cells, line.cells)
            if len(line.cells) > 1 and not is_mixed and _is_fixed(text_page, line.cells[0].start):
                left, _, right, _ = boxes[line.cells[0].start]
                line.pitch = right - left
            lines.append(line)
        return Page(page.get_height(), text, lines, _powers(text, boxes), page_fields(page))
    finally:
        text_page.close()


class _Boxes:
    """Boxes of the characters of a page."""

    def __init__(self, page: PdfTextPage) -> None:
        import pypdfium2.raw as pdfium

        self._page = page.raw
        self._function = pdfium.FPDFText_GetLooseCharBox
        self._box = pdfium.FS_RECTF()
        self._reference = ctypes.byref(self._box)

    def __getitem__(self, index: int) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of a character."""
        self._function(self._page, index, self._reference)
        box = self._box
        return box.left, box.bottom, box.right, box.top


def _characters(page: PdfTextPage, boxes: _Boxes) -> str:
    """The page's text, exactly one character for each that PDFium counts."""
    import pypdfium2.raw as pdfium

    count = page.count_chars()
    try:
        text = page.get_text_range().translate(_SYMBOLS) if count else ""
    except UnicodeDecodeError:  # half of a surrogate pair
        text = ""
    if len(text) != count:
        text = _by_code([pdfium.FPDFText_GetUnicode(page, i) for i in range(count)])
    # Both stand for a hyphen that was taken out, and for a character that has no letter.
    odd = [match.start() for match in re.finditer("[\x02\ufffe]", text)]
    apart = list(_LETTERSPACED.finditer(text))
    if not odd and not apart:
        return text
    letters = list(text)
    for i in odd:
        letters[i] = _HYPHEN if pdfium.FPDFText_GetUnicode(page, i) == _HYPHEN_CODE else "\0"
    for match in apart:
        gaps = {
            i: boxes[i + 1][0] - boxes[i - 1][2]
            for i in range(match.start() + 1, match.end(), 2)
            if pdfium.FPDFText_IsGenerated(page, i) == 1
        }
        # A gap wider than those between letters parts two words.
        most = 1.5 * max(min(gaps.values(), default=0.0), 0.1)
        for i, gap in gaps.items():
            if gap <= most:
                letters[i] = _JOINT
    return "".join(letters)


def _powers(text: str, boxes: _Boxes) -> list[int]:
    """Where raised numbers begin: their first character is smaller and higher than the one before."""
    powers = []
    for match in _POWER.finditer(text):
        _, bottom, _, top = boxes[match.start()]
        _, floor, _, ceiling = boxes[match.start() - 1]
        height = ceiling - floor
        if top - bottom < _SMALLER * height and bottom - floor > _RAISED * height:
            powers.append(match.start())
    return powers


def _by_code(codes: list[int]) -> str:
    """Characters by their codes; a NUL after one that takes two of them."""
    text = "".join(chr(code) if code < 0x110000 else "\ufffd" for code in codes)
    pairs = re.sub(
        "[\ud800-\udbff][\udc00-\udfff]",
        lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16") + "\0",
        text,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", pairs)


def _cells(text: str, start: int, end: int, boxes: _Boxes) -> Iterator[Cell]:
    """The cells of a line, from left to right."""
    begin = _ANY_TEXT.search(text, start, end)
    if begin is None:
        return
    first = begin.start()
    while not _ANY_TEXT.match(text, end - 1):
        end -= 1
    left, bottom, right, top = boxes[first]
    width = _GUTTER * (top - bottom)
    cells: list[Cell] = []
    for space in _SPACE.finditer(text, first, end):
        before, after = boxes[space.start() - 1], boxes[space.end()]
        # The second is the gap where the line jumps back.
        if after[0] - before[2] > width or before[0] - after[2] > width:
            cells.append(_cell(first, space.start(), (left, bottom, right, top), before))
            first = space.end()
            left, bottom, right, top = after
    cells.append(_cell(first, end, (left, bottom, right, top), boxes[end - 1]))
    cells.sort(key=lambda cell: cell.left)
    if len(cells) > 1 and text[cells[0].start : cells[0].end] in _BULLETS and cells[0].end <= cells[1].start:
        cells[:2] = [_united(cells[0], cells[1])]  # an item of a list is no row of a table
    yield from cells


def _mixed_words(text: str, start: int, end: int, boxes: _Boxes) -> Iterator[Cell]:
    """The words of a line with text from right to left, such words in the order in which they are read."""
    run: list[Cell] = []
    is_from_right = False
    for match in _WORD.finditer(text, start, end):
        word = _cell(match.start(), match.end(), boxes[match.start()], boxes[match.end() - 1])
        if (_RIGHT_TO_LEFT.search(match.group()) is not None) != is_from_right:
            yield from _in_order(run, is_from_right)
            run, is_from_right = [], not is_from_right
        run.append(word)
    yield from _in_order(run, is_from_right)


def _in_order(words: list[Cell], is_from_right: bool) -> list[Cell]:
    """Words of one direction; PDFium gives those of a quotation in the direction of what is around it."""
    is_turned = len(words) > 1 and (words[0].left < words[-1].left) == is_from_right
    return words[::-1] if is_turned else words


def _is_fixed(page: PdfTextPage, index: int) -> bool:
    """Whether the character there is in type of one width."""
    import pypdfium2.raw as pdfium

    flags = ctypes.c_int()
    name = ctypes.create_string_buffer(64)
    pdfium.FPDFText_GetFontInfo(page, index, name, len(name), flags)
    return bool(flags.value & 1) or _FIXED_FONT.search(name.value) is not None


def _goes_on(before: Line, line: Line) -> bool:
    """Whether two lines are one, which PDFium has parted, as it does with single letters far apart."""
    most = _SAME_LINE * (line.top - line.bottom)
    return (
        not before.is_broken
        and abs(before.bottom - line.bottom) < most
        and abs(before.top - line.top) < most
        and before.cells[-1].right <= line.cells[0].left
    )


def _joined(before: list[Cell], after: list[Cell]) -> list[Cell]:
    """The cells of two lines that are one; those that meet are one where there is no wide gap."""
    (*others, last), (first, *more) = before, after
    gap, height = first.left - last.right, max(first.top - first.bottom, last.top - last.bottom)
    if gap > _GUTTER * height or first.start < last.end:
        return [*before, *after]
    return [*others, _united(last, first), *more]


def _united(before: Cell, after: Cell) -> Cell:
    bottom, top = min(before.bottom, after.bottom), max(before.top, after.top)
    return Cell(before.start, after.end, before.left, bottom, after.right, top)


def _cell(start: int, end: int, first: tuple[float, ...], last: tuple[float, ...]) -> Cell:
    return Cell(
        start,
        end,
        min(first[0], last[0]),
        min(first[1], last[1]),
        max(first[2], last[2]),
        max(first[3], last[3]),
    )
