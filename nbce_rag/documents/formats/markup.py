"""Markup that is read as it stands, for its titles: AsciiDoc, Org, LaTeX, and Markdown under other names."""

from __future__ import annotations

import re
from pathlib import Path

from ..document import Document, clean_title
from ..limits import ReadLimits
from . import text

__all__ = ["DOCUMENTS"]

_LONGEST_TITLE = 500
_TITLES = {
    ".adoc": re.compile(r"^=[ \t]+(.+)$", re.MULTILINE),
    ".org": re.compile(r"^#\+title:[ \t]*(.+)$|^\*[ \t]+(.+)$", re.MULTILINE | re.IGNORECASE),
    ".tex": re.compile(
        rf"\\title\{{([^{{}}]{{1,{_LONGEST_TITLE}}})\}}|\\(?:chapter|section)\*?\{{([^{{}}]{{1,{_LONGEST_TITLE}}})\}}"
    ),
}


def _read_markup(path: Path, data: bytes, limits: ReadLimits) -> Document:
    content = text.text_of(path, data)
    match = _TITLES[path.suffix.lower()].search(content)
    title = next(filter(None, match.groups()), None) if match else None
    return Document(content, clean_title(title))


_MARKDOWN = dict.fromkeys((".markdown", ".mdx"), text.DOCUMENTS[".md"])

DOCUMENTS = {**dict.fromkeys(_TITLES, _read_markup), **_MARKDOWN}
