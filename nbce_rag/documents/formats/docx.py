"""Word documents, by python-docx."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...noncharacters import strip_marks
from ..archives import Archive, readable
from ..blocks import join_blocks
from ..document import Document, clean_title
from ..limits import Deadline, ReadLimits, Room
from ..numerals import EXPONENT
from ..tables import flat_table, pipe_table
from ..word.numbering import Numbering
from ..word.styles import Styles

__all__ = ["DOCUMENTS", "PACKAGES", "VERSION"]

VERSION = 1

PACKAGES = ("docx", "lxml")

_KIND = "a Word document (.docx)"
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATHS = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
# What has been put in while changes were tracked, and what merely wraps others.
_WRAPPER_NAMES = """
    ins moveTo hyperlink smartTag customXml sdt sdtContent fldSimple dir bdo ruby rubyBase txbxContent
"""
_WRAPPERS = {f"{_WORD}{name}" for name in _WRAPPER_NAMES.split()}
_LETTERS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011", "ptab": "\t"}


def _read_docx(path: Path, data: bytes, limits: ReadLimits) -> Document:
    import docx

    archive = Archive(path, data, limits, _KIND)
    archive.check_markup()
    with readable(path, _KIND):
        document = docx.Document(io.BytesIO(archive.whole()))
        body = _Body(document.part, archive, Deadline(path, limits), Room(path, limits))
        text = body.text(document.element.body)
        title = clean_title(document.core_properties.title) or clean_title(body.title)
    return Document(strip_marks(text), title)


class _Body:
    """Walks a body and writes it as Markdown.

    Headings, lists with the numbers that Word shows, tables, footnotes at the end, text boxes behind the
    paragraph that they hang on. Text that was inserted while changes were tracked stays, deleted text, hidden
    text, comments, running heads and tables of contents are left out.
    """

    def __init__(self, part: Any, archive: Archive, deadline: Deadline, room: Room) -> None:
        self._deadline = deadline
        self._room = room
        related = {relation.reltype.rsplit("/", 1)[1]: relation for relation in part.rels.values()}
        self._styles = Styles(part.document.styles.element)
        numbering = related.get("numbering")
        self._numbering = Numbering(numbering.target_part.element if numbering else None)
        self._note_elements = {
            (kind, note.get(f"{_WORD}id")): note
            for kind in ("footnote", "endnote")
            if f"{kind}s" in related
            for note in archive.parse(f"{kind}s", related[f"{kind}s"].target_part.blob)
        }
        self._notes: list[tuple[str, str]] = []  # kind and id, in the order of their marks
        self._is_in_notes = False  # where marks of notes lead nowhere
        self._depth = 0  # tables around what is being written
        self.title: str | None = None
        self._heading: str | None = None

    def text(self, body: Any) -> str:
        blocks = list(self._blocks(body))
        notes = []
        self._is_in_notes = True
        for number, (kind, name) in enumerate(self._notes, start=1):
            if (note := self._note_elements.get((kind, name))) is not None:
                words = " ".join(text for _, text in self._blocks(note)).strip()
                self._room.take(len(words))  # one note may have many marks
                notes.append(f"[^{number}]: {words}")
        self.title = self.title or self._heading
        return join_blocks([*blocks, *((False, note) for note in notes)])

    def _blocks(self, container: Any) -> Iterator[tuple[bool, str]]:
        """Blocks of text, and whether each is an item of a list."""
        for child in container:
            if child.tag == f"{_WORD}p":
                yield from self._paragraph(child)
            elif child.tag == f"{_WORD}tbl":
                yield from self._table(child)
            elif child.tag in _WRAPPERS:
                yield from self._blocks(child)
            elif child.tag == f"{_COMPATIBILITY}AlternateContent":
                yield from self._blocks(child[0] if len(child) else child)

    def _paragraph(self, paragraph: Any) -> Iterator[tuple[bool, str]]:
        self._deadline.check()
        style = self._styles.of(paragraph)
        boxes: list[Any] = []
        text = "".join(self._inline(paragraph, boxes)).strip("\n").rstrip()
        if text.strip() and not style.is_contents:
            label, level = self._numbering.label(style)
            if style.is_title or style.heading:
                text = " ".join(text.split())
                if style.is_title:
                    self.title = self.title or text
                self._heading = self._heading or text
                yield False, f"{'#' * max(1, style.heading)} {f'{label} {text}'.strip()}"
            elif label:
                yield True, f"{'  ' * level}{label} {text.strip()}"
            else:
                yield False, text
        for box in boxes:
            yield from self._blocks(box)

    def _inline(self, parent: Any, boxes: list[Any]) -> Iterator[str]:
        for child in parent:
            if child.tag == f"{_WORD}r":
                yield from self._run(child, boxes)
            elif child.tag in _WRAPPERS:
                yield from self._inline(child, boxes)
            elif child.tag.startswith(_MATHS):
                yield "".join(child.itertext(f"{_MATHS}t"))
            elif child.tag == f"{_COMPATIBILITY}AlternateContent" and len(child):
                yield from self._inline(child[0], boxes)

    def _run(self, run: Any, boxes: list[Any]) -> Iterator[str]:
        properties = run.find(f"{_WORD}rPr")
        if _is_on(properties, "vanish"):
            return
        align = None if properties is None else properties.find(f"{_WORD}vertAlign")
        is_raised = align is not None and align.get(f"{_WORD}val") == "superscript"
        for child in run:
            name = child.tag.removeprefix(_WORD)
            if name == "t":
                text = child.text or ""
                yield f"^{text}" if is_raised and EXPONENT.fullmatch(text) else text
            elif name in _LETTERS:
                yield _LETTERS[name]
            elif name in ("footnoteReference", "endnoteReference") and not self._is_in_notes:
                self._notes.append((name.removesuffix("Reference"), child.get(f"{_WORD}id") or ""))
                yield f"[^{len(self._notes)}]"
            elif name in ("drawing", "pict", "object"):
                boxes += _boxes(child)
            elif child.tag == f"{_COMPATIBILITY}AlternateContent" and len(child):
                boxes += _boxes(child[0])
            elif name == "ruby":
                yield from self._inline(child, boxes)

    def _table(self, table: Any) -> Iterator[tuple[bool, str]]:
        rows = [row for row in _children(table, "tr") if not _is_on(row.find(f"{_WORD}trPr"), "del")]
        if all(len(list(_children(row, "tc"))) < 2 for row in rows):  # a frame around paragraphs
            for row in rows:
                for cell in _children(row, "tc"):
                    yield from self._blocks(cell)
            return
        self._depth += 1
        grid: list[list[str]] = []
        for row in rows:
            properties = row.find(f"{_WORD}trPr")
            line = [""] * _number(properties, "gridBefore", 0)
            for cell in _children(row, "tc"):
                properties = cell.find(f"{_WORD}tcPr")
                merged = None if properties is None else properties.find(f"{_WORD}vMerge")
                if merged is not None and merged.get(f"{_WORD}val") != "restart":
                    # So that each row can be read alone.
                    line.append(grid[-1][len(line)] if grid and len(line) < len(grid[-1]) else "")
                    self._room.take(len(line[-1]))
                else:
                    line.append("\n".join(text for _, text in self._blocks(cell)))
                line += [""] * (_number(properties, "gridSpan", 1) - 1)
            grid.append(line)
        self._depth -= 1
        if text := flat_table(grid) if self._depth else pipe_table(grid):
            yield False, text


def _boxes(element: Any) -> Iterator[Any]:
    """The text boxes in a drawing. Those within them are found when they are read."""
    for child in element:
        if child.tag == f"{_WORD}txbxContent":
            yield child
        elif child.tag == f"{_COMPATIBILITY}AlternateContent":
            yield from _boxes(child[0] if len(child) else child)
        else:
            yield from _boxes(child)


def _children(element: Any, name: str) -> Iterator[Any]:
    """Children of a name, also within what wraps them."""
    for child in element:
        if child.tag == _WORD + name:
            yield child
        elif child.tag in _WRAPPERS:
            yield from _children(child, name)


def _is_on(properties: Any, name: str) -> bool:
    """Whether a property that is true or false is there and true."""
    found = None if properties is None else properties.find(_WORD + name)
    return found is not None and found.get(f"{_WORD}val", "1") not in ("0", "false", "off")


def _number(properties: Any, name: str, default: int) -> int:
    found = None if properties is None else properties.find(_WORD + name)
    # A table of Word has 63 columns at most.
    return default if found is None else min(max(int(found.get(f"{_WORD}val", default)), 0), 100)


DOCUMENTS = {".docx": _read_docx}
