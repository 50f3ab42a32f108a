"""Numbers of more than one word: three hundred and five, nineteen eighty, 2.5 million, 20万."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from .numerals import SCALES, number_keys, plain_number

__all__ = ["Quantity", "quantities"]

_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = (
    "(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|one|two|three|"
    "four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million|billion|trillion"
)
_FIGURES = r"\d{1,15}(?:[.,]\d{1,15}){0,5}"
_QUANTITY = re.compile(
    rf"(?<![\w.,])(?:{_FIGURES}|{_WORD})(?:(?:[ \u00a0-]|[ \u00a0]and[ \u00a0])(?:{_WORD})(?!\w))+"
    rf"|(?<![\d.,]){_FIGURES}[{''.join(SCALES)}]",
    re.IGNORECASE,
)
_PART = re.compile(rf"{_FIGURES}|[{''.join(SCALES)}]|{_WORD}", re.IGNORECASE)


class Quantity(NamedTuple):
    """A number of several words in a text.

    Attributes:
        start, end: In characters of the text.
        keys: What it says in figures, as `number_keys` writes them.
    """

    start: int
    end: int
    keys: frozenset[str]


def quantities(text: str) -> list[Quantity]:
    """The numbers of more than one word in a text, ordered and disjoint; words that make none are left out.

    >>> [sorted(one.keys) for one in quantities("two thousand and five, nineteen eighty; 2.5 million; 20万")]
    [['2005'], ['1980'], ['2500000'], ['200000']]
    """
    result = []
    for match in _QUANTITY.finditer(text):
        parts = [part.casefold() for part in _PART.findall(match.group())]
        if parts[0] == "hundred" or parts[0] in _LARGE:
            parts.insert(0, "one")
        totals = (_total(Decimal(key), parts[1:]) for key in number_keys(parts[0]))
        keys = frozenset(plain_number(f"{total:f}") for total in totals if total is not None)
        if keys:
            result.append(Quantity(*match.span(), keys))
    return result


def _total(current: Decimal, parts: Sequence[str]) -> Decimal | None:
    """What a number and the words behind it come to; None where they are several numbers."""
    total, least = Decimal(0), Decimal(10**15)
    for part in parts:
        if part in SCALES:
            current *= SCALES[part]
        elif part == "hundred":
            if not 0 < current < 100:
                return None
            current *= 100
        elif part in _LARGE:
            if not 0 < current < least or _LARGE[part] >= least:
                return None
            least = Decimal(_LARGE[part])
            total, current = total + current * least, Decimal(0)
        else:
            (key,) = number_keys(part)
            value = Decimal(key)
            if current % 100 == 0 or (current % 10 == 0 and current % 100 >= 20 and 0 < value < 10):
                current += value
            elif 10 <= current < 100 and value >= 10:  # of a year
                current = current * 100 + value
            else:
                return None
    return total + current
