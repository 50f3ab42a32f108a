"""PDF, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import ReadError
from ..document import Document
from ..limits import ReadLimits
from ..pdf.pages import whole_text
from ..pdf.reading import pdf_file, read_pdf_text

__all__ = ["DOCUMENTS", "VERSION"]

VERSION = 1

_MOST_NAMED = 20
_RECOGNITION = "run text recognition on it first, with ocrmypdf for example"


def _read_pdf(path: Path, data: bytes, limits: ReadLimits) -> Document:
    with pdf_file(str(path), data, limits) as file:
        content = read_pdf_text(str(path), file, limits)
    pages = [whole_text(parts) for parts in content.pages]
    if not any(pages):
        raise ReadError(f"{path}: holds no text. Its pages are images: {_RECOGNITION}.")
    empty = [n for n, text in enumerate(pages, 1) if not text and n not in content.unread]
    gaps = []
    if empty:
        gaps.append(f"{_numbers(empty, 'holds', 'hold')} no text. If it is an image, {_RECOGNITION}.")
    if content.unread:
        gaps.append(f"{_numbers(content.unread, 'is', 'are')} damaged and could not be read.")
    starts = [0]
    for text in pages:
        starts.append(starts[-1] + len(text) + 1)
    return Document("\f".join(pages), content.title, tuple(starts[:-1]), tuple(gaps))


def _numbers(pages: Sequence[int], verb: str, verb_of_many: str) -> str:
    """Pages as a list, neighbours as a range: "pages 2, 5-7 hold"."""
    ranges: list[list[int]] = []
    for page in pages:
        if ranges and ranges[-1][1] == page - 1:
            ranges[-1][1] = page
        else:
            ranges.append([page, page])
    names = [f"{first}" if first == last else f"{first}-{last}" for first, last in ranges]
    more = ", ..." if len(names) > _MOST_NAMED else ""
    noun, verb = ("page", verb) if len(pages) == 1 else ("pages", verb_of_many)
    return f"{noun} {', '.join(names[:_MOST_NAMED])}{more} {verb}"


DOCUMENTS = {".pdf": _read_pdf}
