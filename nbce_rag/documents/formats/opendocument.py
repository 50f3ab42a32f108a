"""OpenDocument texts, sheets and presentations, as LibreOffice writes them: their markup is read by lxml."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...noncharacters import strip_marks
from ..archives import Archive, readable
from ..blocks import join_blocks
from ..document import Document, clean_title, document_of
from ..limits import Deadline, ReadLimits, Room
from ..numerals import EXPONENT
from ..opendocument.styles import ListNumbers, Styles
from ..tables import flat_table, pipe_table

__all__ = ["DOCUMENTS", "PACKAGES", "VERSION"]

VERSION = 1

PACKAGES = ("lxml",)

_KIND = "an OpenDocument file"
_OASIS = "urn:oasis:names:tc:opendocument:xmlns:"
_TEXT, _TABLE, _DRAW, _OFFICE = (f"{{{_OASIS}{name}:1.0}}" for name in ("text", "table", "drawing", "office"))
_PAGES = f"{{{_OASIS}presentation:1.0}}"
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_LEFT_OUT = {
    *(f"{_TEXT}{name}" for name in ("tracked-changes", "table-of-content", "ruby-text", "sequence-decls")),
    f"{_OFFICE}annotation",
    f"{_OFFICE}forms",
    f"{_TABLE}calculation-settings",
    f"{_TABLE}shapes",
}
_FAMILIES = {f"{_TEXT}p": "paragraph", f"{_TEXT}h": "paragraph", f"{_TEXT}span": "text"}
"""Of styles, by the element that has one."""
_MOST_REPEATED = 1_000
"""Times that a row or a cell with text in it is repeated; empty ones are not."""


def _read_text(path: Path, data: bytes, limits: ReadLimits) -> Document:
    body, title, styles = _opened(path, data, limits, "text")
    with readable(path, _KIND):
        writer = _Writer(styles, Room(path, limits), Deadline(path, limits))
        text = join_blocks([*writer.blocks(body), *((False, note) for note in writer.notes)])
        return Document(strip_marks(text), clean_title(title) or clean_title(writer.heading))


def _read_sheets(path: Path, data: bytes, limits: ReadLimits) -> Document:
    body, title, styles = _opened(path, data, limits, "spreadsheet")
    parts, hidden, room, deadline = [], [], Room(path, limits), Deadline(path, limits)
    with readable(path, _KIND):
        sheets = body.findall(f"{_TABLE}table")
        limits.check_pages(path, len(sheets))
        for sheet in sheets:
            name = sheet.get(f"{_TABLE}name") or ""
            if styles.is_hidden(sheet.get(f"{_TABLE}style-name")):
                hidden.append(name)
            elif table := pipe_table(_without_empty(_grid(sheet, _Writer(styles, room, deadline)))):
                parts.append((f"## {' '.join(name.split())}\n\n{table}", {"sheet": name}))
    return document_of(parts, title, [f"hidden sheets are left out: {', '.join(hidden)}."] if hidden else [])


def _read_slides(path: Path, data: bytes, limits: ReadLimits) -> Document:
    body, title, styles = _opened(path, data, limits, "presentation")
    parts, hidden, room, deadline = [], [], Room(path, limits), Deadline(path, limits)
    with readable(path, _KIND):
        slides = body.findall(f"{_DRAW}page")
        limits.check_pages(path, len(slides))
        for number, slide in enumerate(slides, start=1):
            if styles.is_hidden(slide.get(f"{_DRAW}style-name")):
                hidden.append(str(number))
            else:
                parts.append((join_blocks(_Writer(styles, room, deadline).slide(slide)), {"slide": number}))
    return document_of(parts, title, [f"hidden slides are left out: {', '.join(hidden)}."] if hidden else [])


def _opened(path: Path, data: bytes, limits: ReadLimits, kind: str) -> tuple[Any, str | None, Styles]:
    """The element with what a file says, its title, its styles."""
    archive = Archive(path, data, limits, _KIND)
    if "META-INF/manifest.xml" in archive and b"encryption-data" in archive.read("META-INF/manifest.xml"):
        raise archive.encrypted()
    root = archive.markup("content.xml")
    body = root.find(f"{_OFFICE}body/{_OFFICE}{kind}")
    if body is None:
        raise archive.damaged(f"it has no {kind}")
    title = archive.markup("meta.xml").find(f".//{_TITLE}") if "meta.xml" in archive else None
    with readable(path, _KIND):
        styles = Styles([root, *([archive.markup("styles.xml")] if "styles.xml" in archive else [])])
    return body, None if title is None else title.text, styles


class _Writer:
    """Walks elements and writes them as Markdown.

    Attributes:
        notes: Footnotes and endnotes that were met.
        heading: The first heading.
        room: For what is repeated.
        depth: How many tables are around what is being written.
    """

    def __init__(self, styles: Styles, room: Room, deadline: Deadline) -> None:
        self.room = room
        self._deadline = deadline
        self.depth = 0
        self.notes: list[str] = []
        self.heading: str | None = None
        self._styles = styles
        self._numbers = ListNumbers(styles)

    def blocks(self, container: Any) -> Iterator[tuple[bool, str]]:
        """Blocks of text, and whether each is an item of a list."""
        self._deadline.check()
        for child in container:
            name = child.tag
            if name in _LEFT_OUT or self._is_hidden(child):
                continue
            if name == f"{_TEXT}h":
                if text := " ".join(self._inline(child).split()):
                    self.heading = self.heading or text
                    depth = child.get(f"{_TEXT}outline-level") or "1"
                    yield False, f"{'#' * min(int(depth), 6)} {text}"
            elif name == f"{_TEXT}p":
                boxes: list[Any] = []
                if text := self._inline(child, boxes).strip():
                    yield False, text
                for box in boxes:
                    yield from self.blocks(box)
            elif name == f"{_TEXT}list":
                yield from self._list(child, "", 0)
            elif name == f"{_TABLE}table":
                self.depth += 1
                rows = _without_empty(_grid(child, self))
                self.depth -= 1
                if text := flat_table(rows) if self.depth else pipe_table(rows):
                    yield False, text
            else:
                yield from self.blocks(child)

    def _list(self, element: Any, style: str, level: int) -> Iterator[tuple[bool, str]]:
        style = element.get(f"{_TEXT}style-name") or style
        goes_on = element.get(f"{_TEXT}continue-numbering") == "true"
        self._numbers.begin(style, level, goes_on or bool(element.get(f"{_TEXT}continue-list")))
        for item in element:
            label = ""
            if item.tag == f"{_TEXT}list-item":
                first = next(iter(item), None)
                if first is not None and first.tag != f"{_TEXT}list":  # else it is there for its level only
                    label = self._numbers.next(style, level, item.get(f"{_TEXT}start-value"))
            for child in item:
                if child.tag == f"{_TEXT}list":
                    yield from self._list(child, style, level + 1)
                    continue
                for is_item, text in self.blocks([child]):
                    is_text = child.tag == f"{_TEXT}p"
                    yield is_item or is_text, f"{'  ' * level}{label} {text}" if is_text and label else text
                    label = ""

    def slide(self, slide: Any) -> Iterator[tuple[bool, str]]:
        """Its title as a heading, its frames in their order, its notes."""
        frames = [child for child in slide if child.tag != f"{_PAGES}notes"]
        frames.sort(key=lambda frame: frame.get(f"{_PAGES}class") != "title")
        for frame in frames:
            blocks = list(self.blocks([frame]))
            if frame.get(f"{_PAGES}class") == "title":
                heading = " ".join(" ".join(text for _, text in blocks).split())
                blocks = [(False, f"## {heading}")] if heading else []
            yield from blocks
        for notes in slide.iterfind(f"{_PAGES}notes/{_DRAW}frame[@{_PAGES}class='notes']"):
            if text := "\n".join(text for _, text in self.blocks(notes)):
                yield False, f"Notes: {text}"

    def _inline(self, element: Any, boxes: list[Any] | None = None) -> str:
        """The text of a paragraph. Frames in it go to `boxes`, notes in it to `notes`."""
        parts = [_spaces(element.text)]
        for child in element:
            name = child.tag
            if name == f"{_TEXT}s":
                parts.append(" " * min(int(child.get(f"{_TEXT}c") or 1), 100))
            elif name == f"{_TEXT}tab":
                parts.append("\t")
            elif name == f"{_TEXT}line-break":
                parts.append("\n")
            elif name == f"{_TEXT}note":
                place = len(self.notes)
                self.notes.append("")
                parts.append(f"[^{place + 1}]")
                body = child.find(f"{_TEXT}note-body")
                words = " ".join(text for _, text in self.blocks(body if body is not None else ()))
                self.notes[place] = f"[^{place + 1}]: {words}"
            elif name.startswith(_DRAW):
                if boxes is not None:
                    boxes.append(child)
            elif name not in _LEFT_OUT and not self._is_hidden(child):
                text = self._inline(child, boxes)
                is_raised = self._styles.is_raised(child.get(f"{_TEXT}style-name"))
                parts.append(f"^{text}" if is_raised and EXPONENT.fullmatch(text) else text)
            parts.append(_spaces(child.tail))
        return "".join(parts)

    def _is_hidden(self, element: Any) -> bool:
        if element.get(f"{_TEXT}display") == "none":  # a section
            return True
        family = _FAMILIES.get(element.tag)
        return family is not None and self._styles.is_invisible(family, element.get(f"{_TEXT}style-name"))


def _grid(table: Any, writer: _Writer) -> list[list[str]]:
    rows: list[list[str]] = []
    below: dict[int, tuple[int, str]] = {}  # by column: for how many rows more, and which text
    for row in table.iter(f"{_TABLE}table-row"):
        if next(row.iterancestors(f"{_TABLE}table")) is not table:
            continue
        line: list[str] = []
        for cell in row:
            if cell.tag not in (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
                continue
            times = int(cell.get(f"{_TABLE}number-columns-repeated") or 1)
            text = "\n".join(text for _, text in writer.blocks(cell))
            if not text and len(line) in below and cell.tag.endswith("covered-table-cell"):
                rest, text = below.pop(len(line))  # so that each row can be read alone
                if rest > 1:
                    below[len(line)] = rest - 1, text
            elif (spanned := int(cell.get(f"{_TABLE}number-rows-spanned") or 1)) > 1 and text:
                below[len(line)] = spanned - 1, text
            times = min(times, _MOST_REPEATED)
            writer.room.take((len(text) + 1) * times)
            line += [text] * times
        if any(line):
            times = min(int(row.get(f"{_TABLE}number-rows-repeated") or 1), _MOST_REPEATED)
            writer.room.take((times - 1) * sum(map(len, line)) + len(line))
            rows += [line] * times
    return rows


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    """Rows without the columns that are empty in all of them."""
    columns = sorted({column for row in rows for column, text in enumerate(row) if text})
    return [[row[column] for column in columns[: bisect_left(columns, len(row))]] for row in rows]


def _spaces(text: str | None) -> str:
    """Line ends and runs of spaces in markup are one space."""
    if not text:
        return ""
    words = " ".join(text.split())
    return f"{' ' * text[0].isspace()}{words}{' ' * (text[-1].isspace() and bool(words))}"


DOCUMENTS = {".odt": _read_text, ".ods": _read_sheets, ".odp": _read_slides}
