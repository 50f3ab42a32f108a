"""The numbers of a rule: each says beside its default what it may be, and which values are worth comparing.

What checks a rule, sweeps it or tests it reads that here, so that no other place lists a rule's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, field, fields, is_dataclass
from typing import TypeVar

from ..checks import Range

__all__ = [
    "CONTRAST",
    "FOCUS",
    "NUCLEUS",
    "SHARE",
    "WEIGHT",
    "changed",
    "check",
    "grid_of",
    "number",
    "ranges_of",
    "values_of",
]

# Ranges that several rules have.
CONTRAST = Range(-1, above=True, note="0 for no contrast")
NUCLEUS = Range(0, 1, above=True, note="1 for no truncation")
WEIGHT = Range(0)
SHARE = Range(0, 1)
FOCUS = Range(0, 1, note="0 to read no sentences")

_Number = TypeVar("_Number", float, "float | None")


def number(default: _Number, valid: Range, *, grid: Sequence[float] = ()) -> _Number:
    """A field of a rule's dataclass.

    Args:
        default: None where the rule finds its own; None then does beside what is in the range.
        valid: what the number may be.
        grid: the values that `nbce-rag study sweep` tries, the other numbers at their defaults.
    """
    # To a type checker a field is of the type of its default.
    return field(default=default, metadata={"range": valid, "grid": tuple(grid)})


def check(rule: object) -> None:
    """Checks the numbers of a rule.

    Raises:
        InputError: naming the rule, the number, its value and its range.
    """
    for one in _fields(type(rule)):
        value = getattr(rule, one.name)
        if value is not None or one.default is not None:
            one.metadata["range"].check(one.name, value, type(rule).__name__)


def ranges_of(rule: type) -> dict[str, Range]:
    """The range of each number of a rule."""
    return {one.name: one.metadata["range"] for one in _fields(rule)}


def values_of(rule: object) -> dict[str, float | None]:
    """The numbers of a rule."""
    return {one.name: getattr(rule, one.name) for one in _fields(type(rule))}


def changed(rule: object) -> dict[str, float]:
    """The numbers of a rule that are not at their defaults."""
    values = ((one, getattr(rule, one.name)) for one in _fields(type(rule)))
    return {one.name: value for one, value in values if value is not None and value != one.default}


def grid_of(rule: type) -> dict[str, tuple[float, ...]]:
    """The values of each number of a rule that are worth comparing; numbers without any are left out."""
    return {one.name: one.metadata["grid"] for one in _fields(rule) if one.metadata["grid"]}


def _fields(rule: type) -> list[Field[object]]:
    """Those that `number` has made; a rule of the user's may have others, or be no dataclass."""
    return [one for one in fields(rule) if "range" in one.metadata] if is_dataclass(rule) else []
