"""Reading one file into text and title: plain text, Markdown, reStructuredText, HTML and PDF.

The text of a `Document` is what spans of passages count in. It is the file's text as it stands for
text formats (line ends included), and the extracted text for HTML and PDF.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ReadError
from .document import Document, read_bytes
from .html import read_html
from .pdf import NO_TEXT_IN_PDF, read_pdf
from .text import read_markdown, read_plain, read_rst

__all__ = ["read_document"]


def read_document(path: str | Path) -> Document:
    """Reads one .txt, .md, .rst, .html, .htm or .pdf file.

    Text is UTF-8 (with or without a byte order mark) or UTF-16 with one; HTML may also declare
    another encoding.

    Raises:
        ReadError: The file cannot be read or decoded, is encrypted, holds no text, or has another suffix.
    """
    path = Path(path)
    reader = DOCUMENT_READERS.get(path.suffix.lower())
    if reader is None and not path.exists():
        raise ReadError(f"{path}: there is no such file; check the path.")
    if reader is None:
        raise ReadError(
            f"{path}: cannot read files of type {path.suffix or '(no suffix)'!r}; "
            f"convert it to one of {', '.join(DOCUMENT_READERS)}."
        )
    document = reader(path, read_bytes(path))
    if not document.text.strip():
        raise ReadError(f"{path}: holds no text." + (NO_TEXT_IN_PDF if document.page_starts else ""))
    return document


DOCUMENT_READERS: dict[str, Callable[[Path, bytes], Document]] = {
    ".txt": read_plain,
    ".md": read_markdown,
    ".rst": read_rst,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
}
