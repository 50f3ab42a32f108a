"""Pages of a PDF as pictures, and where on them a passage stands: for those who show it."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import ReadError
from ..document import read_bytes
from ..limits import READ_LIMITS, ReadLimits
from .boxes import PageBox, span_boxes
from .pages import whole_text
from .reading import pdf_file, read_pdf_text

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

__all__ = ["Area", "PageView", "page_picture", "page_views"]

Area: TypeAlias = tuple[float, float, float, float]
"""Left, top, width and height, in shares of the page as it is shown."""

_LONGEST_SIDE = 1600  # pixels: an A4 page at some 137 dots an inch
_FINENESS = 100_000  # of places on a page, which PDFium gives in whole numbers


class PageView(NamedTuple):
    """A page on which a passage stands.

    Attributes:
        number: From 1.
        width, height: Of its picture, in pixels.
        boxes: Where the passage stands on it, about one a line.
        marks: Where the words stand that are to be marked.
    """

    number: int
    width: int
    height: int
    boxes: tuple[Area, ...]
    marks: tuple[Area, ...]


def page_views(
    path: str | Path,
    start: int,
    end: int,
    text: str,
    marks: Iterable[tuple[int, int]] = (),
    *,
    limits: ReadLimits = READ_LIMITS,
) -> tuple[PageView, ...]:
    """The pages on which a passage stands. None where the file says something else there by now.

    Args:
        path: The PDF.
        start: First character of the passage in the text that the PDF was read into.
        end: One past the last character there.
        text: What stands there: a PDF that has changed must not have other words marked.
        marks: Further spans, of words within the passage; what of them lies outside of it is left out.
        limits: The most that the file may take.

    Raises:
        ReadError: The file cannot be read, or is no PDF.
    """
    path = Path(path)
    with pdf_file(str(path), read_bytes(path, limits), limits) as document:
        pages = read_pdf_text(str(path), document, limits).pages
        if not 0 <= start < end or "\f".join(map(whole_text, pages))[start:end] != text:
            return ()
        boxes = list(span_boxes(document, pages, start, end))
        inside = [(max(low, start), min(high, end)) for low, high in marks]
        marked = [box for low, high in inside if low < high for box in span_boxes(document, pages, low, high)]
        return tuple(_view(document, number, boxes, marked) for number in sorted({box.page for box in boxes}))


def page_picture(path: str | Path, number: int, *, limits: ReadLimits = READ_LIMITS) -> bytes:
    """A page as a PNG picture, of at most 1,600 pixels in width and height.

    Args:
        path: The PDF.
        number: Of the page, from 1.
        limits: The most that the file may take.

    Raises:
        ReadError: The file cannot be read, is no PDF, or has no such page.
    """
    from pypdfium2 import PdfiumError

    path = Path(path)
    with pdf_file(str(path), read_bytes(path, limits), limits) as document:
        if not 1 <= number <= len(document):
            raise ReadError(f"{path}: has {len(document)} pages, so there is no page {number}.")
        try:
            page = document[number - 1]
            try:
                bitmap = page.render(scale=_scale(page), rev_byteorder=True)
                pixels: NDArray[np.uint8] = bitmap.to_numpy().copy()
                bitmap.close()
            finally:
                page.close()
        except PdfiumError as error:
            raise ReadError(f"{path}: page {number} cannot be drawn ({error}).") from error
    return _png(pixels)


def _scale(page: PdfPage) -> float:
    """Pixels a point."""
    return float(_LONGEST_SIDE / max(*page.get_size(), 1.0))


def _view(
    document: PdfDocument, number: int, boxes: Sequence[PageBox], marked: Sequence[PageBox]
) -> PageView:
    page = document[number - 1]
    try:
        width, height = (math.ceil(side * _scale(page)) for side in page.get_size())
        areas = tuple(_area(page, box) for box in boxes if box.page == number)
        marks = tuple(_area(page, box) for box in marked if box.page == number)
    finally:
        page.close()
    return PageView(number, width, height, areas, marks)


def _area(page: PdfPage, box: PageBox) -> Area:
    """A box on the page as it is shown: turned and cut as the file says."""
    corners = [_shown(page, x, y) for x in (box.left, box.right) for y in (box.bottom, box.top)]
    left, right = min(x for x, _ in corners), max(x for x, _ in corners)
    top, bottom = min(y for _, y in corners), max(y for _, y in corners)
    return (left, top, round(right - left, 5), round(bottom - top, 5))


def _shown(page: PdfPage, x: float, y: float) -> tuple[float, float]:
    import ctypes

    from pypdfium2 import raw

    across, down = ctypes.c_int(), ctypes.c_int()
    raw.FPDF_PageToDevice(page, 0, 0, _FINENESS, _FINENESS, 0, x, y, across, down)
    return across.value / _FINENESS, down.value / _FINENESS


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [height, width, channels] as PNG; grey where no pixel has a colour."""
    height, width = pixels.shape[:2]
    colours = pixels[..., :3] if pixels.ndim == 3 else pixels[..., None]
    if colours.shape[2] == 3 and (colours == colours[..., :1]).all():
        colours = colours[..., :1]
    rows = np.zeros((height, 1 + width * colours.shape[2]), np.uint8)  # the first byte: no filter
    rows[:, 1:] = colours.reshape(height, -1)
    kind = 2 if colours.shape[2] == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
