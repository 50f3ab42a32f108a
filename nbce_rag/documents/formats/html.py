"""HTML as its reader sees it."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ..charsets import decode_declared
from ..document import Document, decode_text
from ..html.page import read_markup
from ..limits import ReadLimits

__all__ = ["DOCUMENTS", "VERSION"]

VERSION = 1

_DECLARATION = re.compile(
    rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+) | <meta\s[^>]*?charset\s*=\s*["']?\s*([\w.:-]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_DECLARED_WITHIN = 4096


def _read_html(path: Path, data: bytes, limits: ReadLimits) -> Document:
    return read_markup(str(path), _decode_html(path, data), limits)


def _decode_html(path: Path, data: bytes) -> str:
    """Markup by its byte order mark, else by the encoding that it declares, else as UTF-8."""
    declaration = _DECLARATION.search(data, 0, _DECLARED_WITHIN)
    has_mark = data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if declaration is not None and not has_mark:
        declared = (declaration[1] or declaration[2]).decode("ascii", "replace").lower()
        # A declaration that could be read byte by byte is no UTF-16, whatever it says.
        if not declared.startswith("utf"):
            text = decode_declared(data, declared)
            if text is not None:  # a false declaration is common, and then the page is mostly UTF-8
                return text
    return decode_text(path, data)


DOCUMENTS = {".html": _read_html, ".htm": _read_html, ".xhtml": _read_html}
