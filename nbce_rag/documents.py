"""Reading one file into text and title: plain text, Markdown, reStructuredText, HTML and PDF.

The text of a `Document` is what spans of passages count in. It is the file's text as it stands for
text formats (line ends included), and the extracted text for HTML and PDF.
"""

from __future__ import annotations

import codecs
import io
import logging
import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbce_rag.errors import ReadError

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

__all__ = ["Document", "read_document"]

# In prompts that travel as plain text, passages stand between the Unicode noncharacters U+FDD0 to
# U+FDD3. Text that was read from outside must not hold them, or a document could close its passage
# and speak in the voice of the prompt, or open another and be cited under a false name. Unicode
# reserves them for a program's own use, so no honest text loses anything.
_PASSAGE_MARKS = dict.fromkeys(range(0xFDD0, 0xFDD4))


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says.

    Attributes:
        text: Its text, without passage marks (U+FDD0 to U+FDD3).
        title: Its title, when it names one.
        page_starts: Where in `text` each page starts, for formats that have pages; else empty.
    """

    text: str
    title: str | None = None
    page_starts: tuple[int, ...] = ()

    def page(self, position: int) -> int | None:
        """The page, counted from 1, that holds the character at `position`; None without pages."""
        return bisect_right(self.page_starts, position) or None


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
        raise ReadError(f"{path}: holds no text." + (_NO_TEXT_IN_PDF if document.page_starts else ""))
    return document


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        ReadError: It is missing, not a regular file, or not readable.
    """
    try:
        # Opening a pipe or a device could wait for ever.
        if path.exists() and not path.is_file():
            raise ReadError(f"{path}: is not a regular file.")
        return path.read_bytes()
    except FileNotFoundError:
        raise ReadError(f"{path}: does not exist; check the path.") from None
    except ReadError:
        raise
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decode_text(path: str | Path, data: bytes) -> str:
    """Text of a file in UTF-8 or, by its byte order mark, UTF-16. Line ends stay as they are.

    Raises:
        ReadError: It is in neither. `path` (or any name of the place) goes into the message.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-16" if is_utf16 else "UTF-8"
        raise ReadError(f"{path}: is not {name} at byte {error.start}; save it as UTF-8.") from None
    # UTF-16 without a byte order mark, and many binary formats, are valid UTF-8 with zeros in it.
    if "\0" in text:
        raise ReadError(f"{path}: holds NUL characters, so it is not UTF-8 text; save it as UTF-8.")
    return text


def strip_marks(text: str) -> str:
    """The text without the passage marks U+FDD0 to U+FDD3."""
    return (
        text.translate(_PASSAGE_MARKS) if any(mark in text for mark in "\ufdd0\ufdd1\ufdd2\ufdd3") else text
    )


def _clean_title(title: str | None) -> str | None:
    """A title on one line, or None when nothing is left of it."""
    return " ".join(strip_marks(title).split()) or None if title else None


def _read_plain(path: Path, data: bytes) -> Document:
    return Document(strip_marks(decode_text(path, data)))


def _read_markdown(path: Path, data: bytes) -> Document:
    text = strip_marks(decode_text(path, data))
    return Document(text, _clean_title(_markdown_title(text.splitlines())))


def _markdown_title(lines: list[str]) -> str | None:
    """The title in the front matter, or the first heading that is not in a code block."""
    body = 0
    if lines and lines[0].rstrip() == "---" and "---" in (tail := [line.rstrip() for line in lines[1:]]):
        body = tail.index("---") + 2
        for line in lines[1 : body - 1]:
            if line.startswith("title:"):
                return line.removeprefix("title:").strip().strip("\"'")
    fence, previous = "", ""
    for line in lines[body:]:
        stripped = line.strip()
        if fence:
            fence = "" if stripped.startswith(fence) else fence
        elif stripped.startswith(("```", "~~~")):
            fence = stripped[:3]
        elif heading := re.match(r" {0,3}#{1,6}[ \t]+(?=\S)", line):
            return line[heading.end() :].rstrip().rstrip("#")
        elif previous and previous[0] not in "-+*>|#" and re.fullmatch("={2,}|-{2,}", stripped):
            return previous
        previous = stripped
    return None


def _read_rst(path: Path, data: bytes) -> Document:
    text = strip_marks(decode_text(path, data))
    previous = ""
    for line in map(str.rstrip, text.splitlines()):
        # Section titles are underlined by one repeated punctuation mark, at least as long as they are.
        is_rule = len(line) > 1 and len(set(line)) == 1 and not line[0].isalnum() and not line[0].isspace()
        if is_rule and previous and len(line) >= len(previous):
            return Document(text, _clean_title(previous))
        previous = "" if is_rule else line.strip()
    return Document(text)


def _read_html(path: Path, data: bytes) -> Document:
    # bs4 and pypdf are imported where they are used: reading text files should not wait for them.
    from bs4 import BeautifulSoup

    markup = _decode_html(path, data)
    with warnings.catch_warnings():
        # Guesses that the markup is XML or a file name: neither concerns the reader of a folder.
        warnings.simplefilter("ignore")
        try:
            soup = BeautifulSoup(markup, "html.parser")
        except Exception as error:  # ParserRejectedMarkup, which moved between releases of bs4
            raise ReadError(f"{path}: is not HTML that can be read ({error}).") from error
    titles = (tag for tag in soup.find_all("title") if tag.find_parent("svg") is None)
    title = next(titles, None) or soup.find("h1")
    return Document(strip_marks(_html_text(soup)), _clean_title(title.get_text() if title else None))


def _decode_html(path: Path, data: bytes) -> str:
    """Markup by its byte order mark, else by the encoding that it declares, else as UTF-8."""
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    has_mark = data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    # A declaration that could be read byte by byte is no UTF-16, whatever it says.
    if declared and not has_mark and not declared.lower().startswith("utf"):
        # As browsers do: pages that say Latin-1 are in Windows-1252.
        is_latin = declared.lower() in ("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii")
        try:
            return data.decode("windows-1252" if is_latin else declared)
        except (LookupError, UnicodeError):
            pass  # a false declaration is common, and then the page is mostly UTF-8
    return decode_text(path, data)


_DROPPED_TAGS = """
    head title script style noscript template nav footer svg math iframe object canvas audio video button
    select textarea datalist
"""
_BLOCK_TAGS = """
    address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption
    figure form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu ol p pre section summary table ul
"""


def _html_text(root: Tag) -> str:
    """Text that a reader of the page sees: block tags make paragraphs, table rows and <br> make lines."""
    from bs4.element import NavigableString, PreformattedString, Tag

    dropped, blocks = set(_DROPPED_TAGS.split()), set(_BLOCK_TAGS.split())
    paragraphs: list[str] = []
    line: list[str] = []

    def end_paragraph() -> None:
        paragraph = (
            "\n".join(part.rstrip().lstrip(" ") for part in "".join(line).split("\n"))
            if not preformatted
            else "".join(line)
        )
        paragraph = paragraph.strip("\n") if preformatted else paragraph.strip()
        if paragraph.strip():
            paragraphs.append(paragraph)
        line.clear()

    # A stack of our own: pages nest deeper than Python's recursion goes.
    stack: list[tuple[Tag, Iterator[PageElement]]] = [(root, iter(root.contents))]
    preformatted = 0
    while stack:
        tag, children = stack[-1]
        child = next(children, None)
        if child is None:
            if tag.name in blocks:
                end_paragraph()
            elif tag.name == "tr":
                line.append("\n")
            elif tag.name in ("td", "th"):
                line.append("\t")
            preformatted -= tag.name == "pre"
            stack.pop()
        elif isinstance(child, Tag):
            if child.name in dropped or child.has_attr("hidden"):
                continue
            if child.name in blocks:
                end_paragraph()
            elif child.name == "br":
                line.append("\n")
            preformatted += child.name == "pre"
            stack.append((child, iter(child.contents)))
        # Comments, doctypes and the like are preformatted strings.
        elif isinstance(child, NavigableString) and not isinstance(child, PreformattedString):
            words = str(child) if preformatted else re.sub(r"\s+", " ", child)
            is_spaced = not line or line[-1].endswith((" ", "\n", "\t"))
            line.append(words.lstrip(" ") if is_spaced and not preformatted else words)
    end_paragraph()
    return "\n\n".join(paragraphs)


_NO_TEXT_IN_PDF = " Its pages are images: run text recognition on it first, with ocrmypdf for example."


def _read_pdf(path: Path, data: bytes) -> Document:
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import DependencyError

    # What is wrong with a file is said once, in the error; pypdf would also log each attempt to mend it.
    logging.getLogger("pypdf").setLevel(logging.ERROR)

    try:
        pdf = PdfReader(io.BytesIO(data))
        # Many files are encrypted with an empty password only to forbid printing.
        if pdf.is_encrypted and pdf.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise ReadError(f"{path}: is encrypted; remove its password, with qpdf --decrypt for example.")
        pages = [strip_marks(page.extract_text()) for page in pdf.pages]
        title = pdf.metadata.title if pdf.metadata else None
    except ReadError:
        raise
    except DependencyError as error:
        raise ReadError(f"{path}: is encrypted, and {error}; pip install cryptography.") from error
    except Exception as error:  # damaged files make pypdf raise nearly every kind
        raise ReadError(
            f"{path}: is not a PDF that can be read ({type(error).__name__}: {error})."
        ) from error
    starts = [0]
    for page_text in pages:
        starts.append(starts[-1] + len(page_text) + 1)
    return Document("\f".join(pages), _clean_title(title), tuple(starts[:-1]))


DOCUMENT_READERS: dict[str, Callable[[Path, bytes], Document]] = {
    ".txt": _read_plain,
    ".md": _read_markdown,
    ".rst": _read_rst,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}
