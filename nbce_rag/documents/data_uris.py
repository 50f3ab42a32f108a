"""Pictures and other files within a text, as data: URIs."""

from __future__ import annotations

import re

__all__ = ["without_data"]

_FEWEST = 48
"""Characters of data. Shorter ones are examples, in texts about such URIs."""

# Possessive throughout: what has been matched is never tried again.
_DATA = re.compile(
    # With a type or a parameter: "data:x,..." is code.
    r"(?P<kind>data:(?:[\w.+-]++/[\w.+-]++|(?=;)))(?:;[\w.+-]++(?:=[\w.+-]++)?)*+,"
    rf"(?:[A-Za-z0-9+/=_%~.!*;:@&$-]{{{_FEWEST},}}+(?:\s+[A-Za-z0-9+/=]{{40,}}+)*+)",
    re.IGNORECASE,
)


def without_data(text: str) -> str:
    """The text with data: URIs cut after the type of their data.

    >>> without_data(f"![dock](data:image/png;base64,{'iVBO' * 50}) at ten")
    '![dock](data:image/png) at ten'
    """
    return _DATA.sub(r"\g<kind>", text) if "data:" in text or "DATA:" in text else text
