"""Numbers of lists as letters and Roman numerals, and which raised numbers are powers."""

from __future__ import annotations

import re

__all__ = ["EXPONENT", "numeral"]

EXPONENT = re.compile(r"[-+\u2212\u2013]?\d+")
"""What is a power where it stands above the line."""

_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"))
_ROMAN_ONES = ((10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))
_LARGEST = 10_000


def numeral(kind: str, number: int) -> str:
    """A number as a list shows it.

    Args:
        kind: "a" and "A" for letters (z is followed by aa, bb, ...), "i" and "I" for Roman numerals, "01" for
            two digits, all others for digits.
        number: Numbers below 1 and above 10,000 are digits in all of them.

    >>> numeral("i", 14), numeral("A", 28), numeral("01", 7), numeral("1", 7)
    ('xiv', 'BB', '07', '7')
    """
    if not 0 < number <= _LARGEST or kind not in ("a", "A", "i", "I"):
        return f"{number:02}" if kind == "01" else str(number)
    if kind.lower() == "a":
        text = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
    else:
        text = ""
        for value, letters in (*_ROMAN, *_ROMAN_ONES):
            count, number = divmod(number, value)
            text += letters * count
    return text.upper() if kind.isupper() else text
