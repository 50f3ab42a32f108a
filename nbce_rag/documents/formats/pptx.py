"""Presentations of PowerPoint, by python-pptx: slide after slide, with their notes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..archives import Archive, readable
from ..document import Document, document_of
from ..limits import Deadline, ReadLimits
from ..tables import pipe_table

__all__ = ["DOCUMENTS", "PACKAGES", "VERSION"]

VERSION = 1

PACKAGES = ("pptx", "lxml")

_KIND = "a presentation (.pptx)"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"


def _read_pptx(path: Path, data: bytes, limits: ReadLimits) -> Document:
    import pptx

    archive = Archive(path, data, limits, _KIND)
    archive.check_markup()
    deadline = Deadline(path, limits)
    parts: list[tuple[str, dict[str, Any]]] = []
    hidden: list[str] = []
    broken: list[str] = []
    with readable(path, _KIND):
        presentation = pptx.Presentation(io.BytesIO(archive.whole()))
        limits.check_pages(path, len(presentation.slides))
        for number, slide in enumerate(presentation.slides, start=1):
            deadline.check()
            if slide._element.get("show") in ("0", "false"):
                hidden.append(str(number))
            else:
                reader = _Slide(archive, slide)
                parts.append(("\n\n".join(reader.blocks()), {"slide": number}))
                broken += [str(number)] * reader.is_broken
        title = presentation.core_properties.title
    gaps = [f"hidden slides are left out: {', '.join(hidden)}."] if hidden else []
    if broken:
        gaps.append(f"charts and diagrams that cannot be read are left out, on slides {', '.join(broken)}.")
    # python-pptx's own template calls every presentation so.
    return document_of(parts, None if title == "PowerPoint Presentation" else title, gaps)


class _Slide:
    """Writes a slide: the title as a heading, the shapes in their order, the notes.

    Attributes:
        is_broken: Whether a chart or diagram of it is damaged, or of a kind that cannot be read.
    """

    def __init__(self, archive: Archive, slide: Any) -> None:
        self.is_broken = False
        self._archive = archive
        self._slide = slide

    def blocks(self) -> Iterator[str]:
        slide = self._slide
        title = slide.shapes.title
        if title is not None and (heading := " ".join(title.text_frame.text.split())):
            yield f"## {heading}"
        for shape in slide.shapes:
            if title is None or shape.shape_id != title.shape_id:
                yield from self._shape(shape)
        if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None:
            notes = _lines(frame.text)
            if notes:
                yield f"Notes: {notes}"

    def _shape(self, shape: Any) -> Iterator[str]:
        from pptx.enum.shapes import MSO_SHAPE_TYPE, PP_PLACEHOLDER

        if shape.is_placeholder and shape.placeholder_format.type in (
            PP_PLACEHOLDER.DATE,
            PP_PLACEHOLDER.FOOTER,
            PP_PLACEHOLDER.HEADER,
            PP_PLACEHOLDER.SLIDE_NUMBER,
        ):
            return
        if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
            for child in shape.shapes:
                yield from self._shape(child)
        elif getattr(shape, "has_table", False):
            if table := pipe_table(_rows(shape.table)):
                yield table
        elif shape.has_text_frame:
            if text := _text(shape):
                yield text
        else:
            yield from self._drawn(shape)

    def _drawn(self, shape: Any) -> list[str]:
        """What a chart or a diagram says. One that is damaged costs no more than itself."""
        try:
            if getattr(shape, "has_chart", False):
                return list(_chart(shape.chart))
            return ["\n".join(lines)] if (lines := list(self._diagram(shape))) else []
        except Exception:
            self.is_broken = True
            return []

    def _diagram(self, shape: Any) -> Iterator[str]:
        """The texts of the nodes of a diagram (SmartArt)."""
        for ids in shape._element.iter(f"{_DIAGRAM}relIds"):
            part = self._slide.part.related_part(ids.get(f"{_RELATION}dm"))
            for node in self._archive.parse(part.partname, part.blob).iter(f"{_DIAGRAM}pt"):
                if text := " ".join("".join(node.itertext(f"{_DRAWING}t")).split()):
                    yield f"- {text}"


def _text(shape: Any) -> str:
    """Paragraphs as lines; those of a placeholder's list as items, by their level."""
    lines = [(paragraph.level, _lines(paragraph.text)) for paragraph in shape.text_frame.paragraphs]
    lines = [(level, text) for level, text in lines if text]
    if not shape.is_placeholder or len(lines) < 2:
        return "\n".join(text for _, text in lines)
    return "\n".join(f"{'  ' * level}- {text}" for level, text in lines)


def _lines(text: str) -> str:
    """Text without blank lines; a vertical tab is a line end within a paragraph."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _rows(table: Any) -> list[list[str]]:
    grid: list[list[str]] = []
    for row in table.rows:
        line: list[str] = []
        for column, cell in enumerate(row.cells):
            # What is merged downwards is repeated, so that each row can be read alone.
            is_below = cell._tc.get("vMerge") in ("1", "true")
            line.append(grid[-1][column] if is_below and grid else "" if cell.is_spanned else cell.text)
        grid.append(line)
    return grid


def _chart(chart: Any) -> Iterator[str]:
    """The title and a table for each plot: categories down and series across, or points as pairs."""
    if chart.has_title and (title := _lines(chart.chart_title.text_frame.text)):
        yield title
    for plot in chart.plots:
        points = [_points(series) for series in plot.series]
        if any(points):
            for series, pairs in zip(plot.series, points, strict=True):
                yield pipe_table([["", series.name or ""], *pairs])
            continue
        rows = [["", *(series.name or "" for series in plot.series)]]
        columns = [list(series.values) for series in plot.series]
        for number, category in enumerate(plot.categories):
            values = (column[number] if number < len(column) else None for column in columns)
            rows.append([str(category), *("" if value is None else f"{value:.15g}" for value in values)])
        yield pipe_table(rows)


def _points(series: Any) -> list[list[str]]:
    """The points of a series that has numbers in both directions; of bubbles their size too."""
    directions = [
        {point.get("idx"): "".join(point.itertext()).strip() for point in series._element.xpath(path)}
        for path in ("./c:xVal//c:pt", "./c:yVal//c:pt", "./c:bubbleSize//c:pt")
    ]
    return [[direction.get(index, "") for direction in directions if direction] for index in directions[0]]


DOCUMENTS = {".pptx": _read_pptx}
