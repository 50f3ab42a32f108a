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


def _read_pptx(path: Path, data: bytes, limits: ReadLimits) -> Document:
    import pptx

    archive = Archive(path, data, limits, _KIND)
    archive.check_markup()
    deadline = Deadline(path, limits)
    parts: list[tuple[str, dict[str, Any]]] = []
    hidden: list[str] = []
    with readable(path, _KIND):
        presentation = pptx.Presentation(io.BytesIO(data))
        limits.check_pages(path, len(presentation.slides))
        for number, slide in enumerate(presentation.slides, start=1):
            deadline.check()
            if slide._element.get("show") in ("0", "false"):
                hidden.append(str(number))
            else:
                parts.append(("\n\n".join(_slide(slide)), {"slide": number}))
        title = presentation.core_properties.title
    gaps = [f"hidden slides are left out: {', '.join(hidden)}."] if hidden else []
    # python-pptx's own template calls every presentation so.
    return document_of(parts, None if title == "PowerPoint Presentation" else title, gaps)


def _slide(slide: Any) -> Iterator[str]:
    """The title as a heading, the shapes in their order, the notes."""
    title = slide.shapes.title
    if title is not None and (heading := " ".join(title.text_frame.text.split())):
        yield f"## {heading}"
    for shape in slide.shapes:
        if title is None or shape.shape_id != title.shape_id:
            yield from _shape(shape)
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None:
        notes = _lines(frame.text)
        if notes:
            yield f"Notes: {notes}"


def _shape(shape: Any) -> Iterator[str]:
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
            yield from _shape(child)
    elif getattr(shape, "has_table", False):
        if table := pipe_table(_rows(shape.table)):
            yield table
    elif getattr(shape, "has_chart", False):
        if table := pipe_table(_chart(shape.chart)):
            yield table
    elif shape.has_text_frame and (text := _text(shape)):
        yield text


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


def _chart(chart: Any) -> list[list[str]]:
    """Categories down, series across."""
    plot = chart.plots[0]
    rows = [["", *(series.name or "" for series in plot.series)]]
    columns = [list(series.values) for series in plot.series]
    for number, category in enumerate(plot.categories):
        values = (column[number] if number < len(column) else None for column in columns)
        rows.append([str(category), *("" if value is None else f"{value:.15g}" for value in values)])
    return rows


DOCUMENTS = {".pptx": _read_pptx}
