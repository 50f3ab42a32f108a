"""Encodings by the names that pages and mails call them."""

from __future__ import annotations

import re

__all__ = ["decode_declared"]

# As browsers do: what is called by these names is in larger sets of characters.
_LARGER = {
    "ascii": "windows-1252",
    "us-ascii": "windows-1252",
    "latin1": "windows-1252",
    "latin-1": "windows-1252",
    "iso-8859-1": "windows-1252",
    "iso-8859-9": "windows-1254",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
}
_ONE_BYTE = re.compile(r"us-ascii|ascii|latin|iso-8859|windows-125|cp125|koi8|mac")
# Python's own, in which nobody writes texts.
_NO_TEXT = frozenset(["idna", "mbcs", "oem", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"])


def decode_declared(data: bytes, name: str, errors: str = "strict") -> str | None:
    """A text by the encoding that it declares; None where that is unknown, or not its encoding.

    Encodings of one byte a character make a text of any bytes. What is UTF-8 is read as such though it
    declares one of these: no text in them looks so by chance.

    Args:
        data: The text.
        name: What it declares.
        errors: As in `bytes.decode`.

    >>> decode_declared("5 €".encode("cp1252"), "ISO-8859-1"), decode_declared("café".encode(), "latin1")
    ('5 €', 'café')
    """
    name = name.strip().lower()
    if _ONE_BYTE.match(name) and not data.isascii():
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    try:
        return None if name.replace("-", "_") in _NO_TEXT else data.decode(_LARGER.get(name, name), errors)
    except (LookupError, UnicodeError, ValueError):
        return None
