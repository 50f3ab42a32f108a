"""Limits of reading as people type them: `max_pages=2000`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from ..documents.limits import ReadLimits
from ..errors import InputError
from ..values import shown
from .kv import parse_bytes

__all__ = ["LIMITS", "parse_limits"]

LIMITS = tuple(field.name for field in fields(ReadLimits))
"""The names that can be typed."""


def parse_limits(expressions: Iterable[str]) -> ReadLimits:
    """The limits of `NAME=NUMBER` expressions, and defaults for the others. Bytes may be sizes such as 200MB.

    Raises:
        InputError: It is none of these, the name is no limit or comes twice, or the number is out of range.
    """
    limits: dict[str, int | float] = {}
    for expression in expressions:
        name, sign, text = (part.strip() for part in expression.partition("="))
        if name not in LIMITS or not sign:
            raise InputError(
                f"--limit {shown(expression)} sets no limit; write it like max_pages=2000, with one of "
                f"{', '.join(LIMITS)}."
            )
        if name in limits:
            raise InputError(f"--limit {name} is given twice; leave one out.")
        limits[name] = _number(name, text)
    return ReadLimits(**limits)  # type: ignore[arg-type]  # which it checks itself


def _number(name: str, text: str) -> int | float:
    if name.endswith("_bytes"):
        return parse_bytes(text)
    try:
        return float(text) if name.endswith("_seconds") else int(text)
    except ValueError as error:
        kind = "a number" if name.endswith("_seconds") else "a whole number"
        raise InputError(f"--limit {name}={shown(text)} must be {kind}.") from error
