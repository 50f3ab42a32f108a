"""Numbers with a range: options, fusion rules and searches are all checked by the same few lines."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeGuard

from .errors import InputError
from .values import mended, plain_text, shown

__all__ = ["COUNT", "Range", "check_argument", "check_count", "check_text", "check_texts"]


@dataclass(frozen=True)
class Range:
    """Which numbers will do. NaN and infinity never do, nor does True, which nobody means by 1.

    Attributes:
        least, most: the ends; infinite for none.
        above: whether `least` itself will not do.
        whole: whether only whole numbers will do, and no floats that equal one.
        note: what one of them stands for, such as "0 for off"; part of the message.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    whole: bool = False
    note: str = ""

    def __contains__(self, value: object) -> bool:
        if not _is_number(value) or (self.whole and not isinstance(value, int)):
            return False
        return self.least <= value <= self.most and not (self.above and value == self.least)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        words = f"{kind} {self.bounds}" if self.bounds else kind
        return f"{words}, {self.note}" if self.note else words

    @property
    def bounds(self) -> str:
        """The ends in words; "" for none."""
        if math.isfinite(self.most):
            return f"in {'(' if self.above else '['}{self.least:g}, {self.most:g}]"
        if math.isfinite(self.least):
            return f"above {self.least:g}" if self.above else f">= {self.least:g}"
        return ""

    def check(self, name: str, value: object, owner: str = "") -> None:
        """Says what is wrong with a number, if anything is.

        Args:
            name: of the number.
            value: the number, or what was given for it.
            owner: what it is a number of, where the name alone does not say.

        Raises:
            InputError: naming the number, its value and the range.
        """
        if value in self:
            return
        what = f"{owner}: {name}={value!r}" if owner else f"{name}={value!r}"
        if not _is_number(value):
            raise InputError(f"{what} must be a number: {self}.")
        raise InputError(f"{what} is out of range; use {self}.")


COUNT = Range(1, whole=True)
"""How many of something."""


def check_argument(name: str, value: object, numbers: Range, advice: str = "") -> None:
    """Says what is wrong with an argument of a call, if anything is: "mmr must be in [0, 1], got 2."

    Args:
        name: of the argument.
        value: what was given for it.
        numbers: what will do.
        advice: what it is, or what would be better, for the message.

    Raises:
        InputError: it is not in the range.
    """
    if value not in numbers:
        advice = f": {advice}" if advice else ""
        raise InputError(f"{name} must be {numbers.bounds or numbers}, got {value!r}{advice}.")


def check_count(name: str, value: Any, advice: str = "") -> int:
    """How many of something: a whole number, at least 1, also one of NumPy's.

    Args:
        name: of the number.
        value: the number.
        advice: as in `check_argument`.

    Raises:
        InputError: it is no whole number, or below 1.
    """
    advice = f": {advice}" if advice else ""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} must be a whole number, got {value!r}{advice}.") from error
    if number < 1 or isinstance(value, bool):
        raise InputError(f"{name} must be at least 1, got {value!r}{advice}.")
    return number


def check_text(name: str, value: object) -> str:
    """A text as Python's own `str`, with U+FFFD for half surrogate pairs.

    Args:
        name: of the text.
        value: what was given for it.

    Raises:
        InputError: it is no text.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, got {shown(value)} of type {type(value).__name__}.")
    return mended(plain_text(value))


def check_texts(name: str, values: object) -> list[str]:
    """Several texts, as `check_text` gives each; one alone is a list of one, not of its characters.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(values, str):
        return [check_text(name, values)]
    if not isinstance(values, Iterable):
        raise InputError(f"{name} must be a text or several, got {shown(values)}.")
    return [check_text(f"Each of {name}", value) for value in values]


def _is_number(value: object) -> TypeGuard[float]:
    # NumPy's floats are real numbers too, whatever their width.
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
