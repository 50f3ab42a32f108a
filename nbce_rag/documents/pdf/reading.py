"""A PDF as one text, page after page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ReadError
from ..document import clean_title
from ..limits import Deadline, ReadLimits
from .layout import page_parts
from .pages import Page, Part, read_page
from .running import body_lines
from .streams import check_streams

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

__all__ = ["PdfText", "pdf_file", "read_pdf_text"]

# PDFium is no more safe in several threads of a process than in one that calls it while it works.
_LOCK = threading.RLock()
_HYPHENATED = re.compile(r"\w+-\w+")
_LAST_WORD = re.compile(r"\w+$")
_FIRST_WORD = re.compile(r"\w+")
_ENCRYPTED = (4, 5)  # a password, or a security handler, that PDFium does not have


@dataclass(frozen=True, slots=True)
class PdfText:
    """What a PDF says.

    Attributes:
        title: Its title, if it names one.
        pages: The text of each page, in parts; none for pages without text.
        unread: Numbers of pages, from 1, that are damaged.
    """

    title: str | None
    pages: list[list[Part]]
    unread: list[int]


@contextmanager
def pdf_file(name: str, data: bytes, limits: ReadLimits) -> Iterator[PdfDocument]:
    """An open PDF. No other thread can open one meanwhile.

    Raises:
        ReadError: It is none, encrypted, or a bomb.
    """
    from pypdfium2 import PdfDocument, PdfiumError

    check_streams(name, data, limits)
    with _LOCK:
        try:
            document = PdfDocument(data)  # tries the empty password, which files have to forbid printing
        except PdfiumError as error:
            if error.err_code in _ENCRYPTED:
                raise ReadError(
                    f"{name}: is encrypted; remove its password, with qpdf --decrypt for example."
                ) from None
            raise ReadError(f"{name}: is not a PDF that can be read ({error}).") from error
        try:
            if document.get_formtype():
                document.init_forms()
            yield document
        finally:
            document.close()


def read_pdf_text(name: str, document: PdfDocument, limits: ReadLimits) -> PdfText:
    """The text of an open PDF.

    Raises:
        ReadError: It is over one of the limits, or none of its pages can be read.
    """
    from pypdfium2 import PdfiumError

    deadline = Deadline(name, limits)
    count = len(document)
    limits.check_pages(name, count)
    pages: list[Page] = []
    unread: list[int] = []
    size = 0
    for number in range(count):
        deadline.check()
        try:
            page = document[number]
            try:
                pages.append(read_page(page))
            finally:
                page.close()
        except PdfiumError:
            unread.append(number + 1)
            pages.append(Page())
        size += len(pages[-1].text) + sum(map(len, pages[-1].fields))
        if size > limits.max_unpacked_bytes:
            raise ReadError(
                f"{name}: unpacks to more than {limits.max_unpacked_bytes:,} characters; "
                "split it, or raise max_unpacked_bytes."
            )
    if len(unread) == count:
        raise ReadError(f"{name}: is not a PDF that can be read (none of its {count} pages).")
    return PdfText(clean_title(_title(document)), list(_texts(pages, deadline)), unread)


def _texts(pages: Sequence[Page], deadline: Deadline) -> Iterator[list[Part]]:
    hyphenated = {match.group().lower() for page in pages for match in _HYPHENATED.finditer(page.text)}

    def joint(before: str, after: str) -> str:
        """Only a hyphen between small letters is likely to be there for the line's end alone."""
        if not before[-1:].isalnum():
            return ""
        start, end = _LAST_WORD.search(before), _FIRST_WORD.match(after)
        if start is None or end is None or not before[-1].islower() or not after[0].islower():
            return "-"
        return "-" if f"{start.group()}-{end.group()}".lower() in hyphenated else ""

    for page, lines in zip(pages, body_lines(pages), strict=True):
        deadline.check()
        parts = page_parts(page, lines, joint)
        if page.fields:
            parts.append(Part("\n\n" * bool(parts) + "\n".join(page.fields), -1))
        yield parts


def _title(document: PdfDocument) -> str | None:
    try:
        title: str = document.get_metadata_value("Title")
    except UnicodeDecodeError:  # half of a surrogate pair
        return None
    return title.replace("\0", "") or None  # some writers end it with NULs
