"""Values as JSON has them: what NumPy, pandas, enums and dates give is the plain value that it stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

__all__ = ["DEEPEST", "NotPlainError", "mended", "plain", "plain_text", "shown"]

DEEPEST = 64
"""Levels of lists and mappings in one another."""

_MOST_BITS = 14_000  # about 4,200 digits: Python writes and reads no longer numbers in decimal
_LONGEST_SHOWN = 120

Path = tuple[str | int, ...]


class NotPlainError(ValueError):
    """A value that JSON does not have.

    Attributes:
        path: keys and places that lead to it, from the outermost.
    """

    def __init__(self, path: Path, reason: str) -> None:
        where = "".join(f"[{shown(key)}]" for key in path[:8])
        super().__init__(f"{where} {reason}" if where else reason)
        self.path = path


def plain(value: Any, *, infinite: bool = False) -> Any:
    """A value in types of JSON only.

    Texts, numbers and booleans of subclasses (also NumPy's, and members of enums, by their values) become
    Python's own. Decimals become whole numbers where they are, else the nearest float. Dates and times become
    text in ISO 8601, paths text with forward slashes, UUIDs text. Tuples, ranges and arrays become lists.
    Names in mappings become text where they are text or whole numbers.

    Args:
        value: Anything.
        infinite: Let infinite numbers pass.

    Raises:
        NotPlainError: It holds something else, NaN, half a surrogate pair, a number of more than 4,200
            digits, or more than 64 levels.
    """
    return _plain(value, infinite, ())


def plain_text(value: str) -> str:
    """A text as Python's own `str`, of whatever subclass it is."""
    return value if type(value) is str else str.__str__(value)


def mended(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, and whole pairs as the character they mean."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def shown(value: object) -> str:
    """A value for a message: its `repr`, cut where it is long, or its type where it has none."""
    if isinstance(value, str):
        value = value[: 2 * _LONGEST_SHOWN]
    try:
        text = repr(value)
    except Exception:  # a number too long for decimals, nesting too deep, or a class's own fault
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _plain(value: Any, infinite: bool, path: Path) -> Any:
    kind = type(value)
    if kind is str:
        return _whole(value, path)
    if value is None or kind is bool:
        return value
    if isinstance(value, Enum):
        return _plain(value.value, infinite, (*path, "value")) if len(path) <= DEEPEST else _deep(path)
    if isinstance(value, str):
        return _whole(plain_text(value), path)
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise NotPlainError(path, "is a number of too many digits")
        return int(value)
    if isinstance(value, float):
        return _number(float(value), infinite, path)
    if isinstance(value, Decimal):
        return _decimal(value, infinite, path)
    if isinstance(value, date | time):
        if value != value:
            raise NotPlainError(path, "is no time (NaT); leave it out, or use None")
        return value.isoformat()
    if isinstance(value, PurePath):
        return _whole(mended(value.as_posix()), path)
    if isinstance(value, UUID):
        return str(value)
    if len(path) > DEEPEST:
        return _deep(path)
    if isinstance(value, Mapping):
        return _mapping(value, infinite, path)
    if isinstance(value, list | tuple | range):
        return [_plain(one, infinite, (*path, place)) for place, one in enumerate(value)]
    return _foreign(value, infinite, path)


def _whole(text: str, path: Path) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NotPlainError(path, "holds half a surrogate pair, which is no text") from None
    return text


def _number(value: float, infinite: bool, path: Path) -> float:
    if math.isnan(value) or (not infinite and math.isinf(value)):
        raise NotPlainError(path, f"is {value}; leave it out, or use None")
    return value


def _decimal(value: Decimal, infinite: bool, path: Path) -> int | float:
    if not value.is_finite():
        return _number(float(value) if not value.is_snan() else math.nan, infinite, path)
    if value.adjusted() > _MOST_BITS // 4:
        raise NotPlainError(path, "is a number of too many digits")
    return int(value) if value == value.to_integral_value() else float(value)


def _mapping(value: Mapping[Any, Any], infinite: bool, path: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, one in value.items():
        if type(key) is str and key.isascii() and key not in result and _is_simple(one):
            result[key] = one
            continue
        name = key.value if isinstance(key, Enum) else key
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise NotPlainError(path, f"has the key {shown(key)}, which is no text")
        name = _whole(plain_text(name), path) if isinstance(name, str) else str(_plain(name, False, path))
        if name in result:
            raise NotPlainError(path, f"has the key {shown(name)} twice, as a text and as a number")
        result[name] = _plain(one, infinite, (*path, name))
    return result


def _is_simple(value: Any) -> bool:
    """Whether a value stays as it is, found out quickly for those that most are."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii())
    return value is None or kind is bool or (kind is int and -(2**63) <= value < 2**63)


def _foreign(value: Any, infinite: bool, path: Path) -> Any:
    """Scalars and arrays of NumPy, and what is like them."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not callable(getattr(value, "tolist", None)):
        raise NotPlainError(
            path, f"is {shown(value)} of type {type(value).__name__}, which JSON does not have"
        )
    if getattr(dtype, "kind", "") == "M":
        if getattr(value, "ndim", 0) == 0 and value != value:
            raise NotPlainError(path, "is no time (NaT); leave it out, or use None")
        value = value.astype("datetime64[us]") if "[ns]" in str(dtype) else value
    inner = value.tolist()
    if type(inner) is type(value):  # numbers wider than Python's
        return _number(float(inner), infinite, path)
    return _plain(inner, infinite, path)


def _deep(path: Path) -> Any:
    raise NotPlainError(path, f"is nested deeper than {DEEPEST} levels")
