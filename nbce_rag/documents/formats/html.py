"""HTML as its reader sees it."""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ReadError
from ...noncharacters import strip_marks
from ..document import Document, clean_title, decode_text
from ..limits import ReadLimits

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

__all__ = ["DOCUMENTS"]


def _read_html(path: Path, data: bytes, limits: ReadLimits) -> Document:
    # bs4 and pypdf are imported where they are used: reading text files should not wait for them.
    from bs4 import BeautifulSoup

    markup = _decode_html(path, data)
    with warnings.catch_warnings():
        # Guesses that the markup is XML or a file name: neither concerns the reader of a folder.
        warnings.simplefilter("ignore")
        try:
            soup = BeautifulSoup(_with_ends(markup), "html.parser")
        except Exception as error:  # ParserRejectedMarkup, which moved between releases of bs4
            raise ReadError(f"{path}: is not HTML that can be read ({error}).") from error
    titles = (tag for tag in soup.find_all("title") if tag.find_parent("svg") is None)
    title = next(titles, None) or soup.find("h1")
    return Document(strip_marks(_html_text(soup)), clean_title(title.get_text() if title else None))


def _with_ends(markup: str) -> str:
    """Markup in which what never ends does not begin: the parser looks for each end in all of the rest."""
    for begin, end in (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<", ">")):
        last = markup.rfind(end) + len(end) if end in markup else 0
        markup = markup[:last] + markup[last:].replace(begin, begin.replace("<", "&lt;"))
    return markup


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


DOCUMENTS = {".html": _read_html, ".htm": _read_html}
