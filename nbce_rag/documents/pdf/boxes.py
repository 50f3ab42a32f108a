"""Where a span of a PDF's text stands on its pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...errors import InputError
from ..document import read_bytes
from ..limits import READ_LIMITS, ReadLimits
from .pages import Part
from .reading import pdf_file, read_pdf_text

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

__all__ = ["PageBox", "page_boxes", "span_boxes"]


class PageBox(NamedTuple):
    """A rectangle of a page.

    Attributes:
        page: The page's number, from 1.
        left, bottom, right, top: In points of 1/72 inch, as PDF counts them: from the lower left corner
            of an unturned page up and to the right.
    """

    page: int
    left: float
    bottom: float
    right: float
    top: float


def page_boxes(
    path: str | Path, start: int, end: int, *, limits: ReadLimits = READ_LIMITS
) -> tuple[PageBox, ...]:
    """Where a passage of a PDF stands: `page_boxes(passage.source, passage.start, passage.end)`.

    The file is read again, as it is now: boxes of all passages would be larger than an index.

    Args:
        path: The PDF.
        start: First character of the span in the text that the PDF was read into.
        end: One past the last character there.
        limits: The most that the file may take.

    Returns:
        Boxes in the order of the text, about one a line; none for a span of whitespace alone.

    Raises:
        InputError: The text has no such span.
        ReadError: The file cannot be read, or is no PDF.
    """
    path = Path(path)
    with pdf_file(str(path), read_bytes(path, limits), limits) as document:
        pages = read_pdf_text(str(path), document, limits).pages
        length = sum(len(part.text) for parts in pages for part in parts) + max(len(pages) - 1, 0)
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= length):
            raise InputError(
                f"{path}: its text has {length} characters, so there is no span from {start!r} to {end!r}; "
                "take start and end of a passage of it as it is now."
            )
        return tuple(span_boxes(document, pages, start, end))


def span_boxes(
    document: PdfDocument, pages: Sequence[Sequence[Part]], start: int, end: int
) -> Iterator[PageBox]:
    """The boxes of a span of an open PDF's text, which `pages` are the parts of."""
    offset = 0
    for number, parts in enumerate(pages):
        runs = list(_runs(parts, start - offset, end - offset))
        if runs:
            yield from _boxes(document, number, runs)
        offset += sum(len(part.text) for part in parts) + 1


def _runs(parts: Sequence[Part], start: int, end: int) -> Iterator[tuple[int, int]]:
    """First characters and counts on the page of what lies within a span of the page's text."""
    position = 0
    first = last = -1
    for text, index in parts:
        low, high = max(start - position, 0), min(end - position, len(text))
        position += len(text)
        if index < 0 or low >= high:
            continue
        if first >= 0 and 0 <= index + low - last <= 2:  # a space, or a line end of two characters
            last = index + high
            continue
        if first >= 0:
            yield first, last - first
        first, last = index + low, index + high
    if first >= 0:
        yield first, last - first


def _boxes(document: PdfDocument, number: int, runs: Sequence[tuple[int, int]]) -> Iterator[PageBox]:
    page = document[number]
    try:
        text_page = page.get_textpage()
        for first, count in runs:
            for i in range(text_page.count_rects(first, count)):
                yield PageBox(number + 1, *(round(value, 2) for value in text_page.get_rect(i)))
        text_page.close()
    finally:
        page.close()
