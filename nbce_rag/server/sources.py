"""Where a passage comes from, as the server may show it: what stands around it, and its source as a whole.

Files are opened only where the index recorded that a passage was read from them. What a passage's `source`
says is text that anybody may have written, and never a path that is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..documents.document import read_bytes
from ..documents.pdf.views import PageView, page_picture, page_views
from ..documents.readers import holds_records, read_document
from ..errors import NbceError
from ..index import PassageIndex
from ..index.filters.conditions import FieldTest
from ..passages import Passage

__all__ = ["Around", "around", "is_pdf", "picture", "source_bytes", "source_file", "source_text", "views"]

_CHARACTERS = 1500
_GAP = "\n\n"


class Around(NamedTuple):
    """What stands before and behind a passage in its source, as far as the index has it; "" for nothing."""

    before: str
    after: str


class _Span(NamedTuple):
    start: int
    end: int
    text: str


def around(index: PassageIndex, passage: Passage, characters: int = _CHARACTERS) -> Around:
    """What stands around a passage: the text of its neighbours in the index.

    Args:
        index: where it is.
        passage: one of it.
        characters: how much on each side, at most, but for the sign that says that there is more.
    """
    if passage.start is None or passage.end is None:
        return Around("", "")
    spans = _spans(index, passage)
    low, high = passage.start - characters, passage.end + characters
    before = _stitched(spans, max(low, 0), passage.start)
    after = _stitched(spans, passage.end, high)
    if any(span.start < low for span in spans):
        before = "… " + before.partition(" ")[2]
    if any(span.end > high for span in spans):
        after = after.rpartition(" ")[0] + " …"
    return Around(before, after)


def source_text(index: PassageIndex, passage: Passage) -> str:
    """The text of a passage's source: its file's where that can be read, else what the index has of it."""
    path = source_file(index, passage)
    if path is not None and not holds_records(path):
        try:
            return read_document(path).text
        except NbceError:  # it has changed, or what read it is not installed here
            pass
    spans = _spans(index, passage)
    if not spans:
        return passage.text
    return _stitched(spans, min(span.start for span in spans), max(span.end for span in spans))


def source_file(index: PassageIndex, passage: Passage) -> Path | None:
    """The file that a passage was read from, if it is still there, and no link to another by now."""
    path = index.file_of(passage.id)
    return path if path is not None and path.is_file() and path.resolve() == path else None


def is_pdf(path: Path | None) -> bool:
    """Whether a file is shown as pages."""
    return path is not None and path.suffix.lower() == ".pdf"


def source_bytes(path: Path) -> bytes:
    """What is in a file.

    Raises:
        ReadError: it is gone, or over the limits of what is read.
    """
    return read_bytes(path)


def views(path: Path, passage: Passage, marks: Iterable[tuple[int, int]]) -> tuple[PageView, ...]:
    """The pages of a PDF on which a passage stands; none where the file says something else by now.

    Raises:
        ReadError: as `page_views`.
    """
    start, end = passage.start, passage.end
    if start is None or end is None:
        return ()
    return _views(path, _stamp(path), start, end, _own_text(passage, start, end), tuple(marks))


def picture(path: Path, number: int) -> bytes:
    """A page of a PDF as PNG.

    Raises:
        ReadError: as `page_picture`.
    """
    return _picture(path, _stamp(path), number)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does, so that what was made of it is made anew."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=128)
def _views(
    path: Path, stamp: tuple[int, int], start: int, end: int, text: str, marks: tuple[tuple[int, int], ...]
) -> tuple[PageView, ...]:
    return page_views(path, start, end, text, marks)


@lru_cache(maxsize=32)
def _picture(path: Path, stamp: tuple[int, int], number: int) -> bytes:
    return page_picture(path, number)


def _spans(index: PassageIndex, passage: Passage) -> list[_Span]:
    """What the index has of a passage's source, by its places there."""
    if passage.source is None:
        return []
    others = index.find(where=FieldTest("source", "eq", passage.source))
    placed = [
        (other.start, other.end, other)
        for other in others
        if other.source == passage.source and other.start is not None and other.end is not None
    ]
    return sorted(_Span(start, end, _own_text(other, start, end)) for start, end, other in placed)


def _own_text(passage: Passage, start: int, end: int) -> str:
    """A passage's text without the head of a table that goes before it."""
    return passage.text[max(0, len(passage.text) - (end - start)) :]


def _stitched(spans: Iterable[_Span], low: int, high: int) -> str:
    """The text from `low` to `high`, from spans in their order. Between them stood white space alone."""
    parts: list[str] = []
    at = low
    for span in spans:
        if span.start >= high:
            break
        if span.end <= at:
            continue
        if span.start > at and (parts or low > 0):
            parts.append(" " if span.start == at + 1 else _GAP)
        at = max(at, span.start)
        parts.append(span.text[at - span.start : high - span.start])
        at = min(span.end, high)
    if parts and at < high and any(span.start >= high for span in spans):
        parts.append(" " if at + 1 == high else _GAP)
    return "".join(parts)
