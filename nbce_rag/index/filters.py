"""Which passages a search may find: conditions on their metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..errors import InputError

__all__ = ["Where", "check_filter", "matches"]

Where: TypeAlias = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]


def check_filter(where: Any) -> None:
    """Raises InputError unless `where` is a callable or a mapping with strings as keys."""
    if callable(where):
        return
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise InputError(
            f"where must be a mapping such as {{'language': 'en'}} or a callable, got {where!r}."
        )


def matches(fields: Mapping[str, Any], where: Where) -> bool:
    """Whether fields meet every condition: equal a value, be one of a list, or satisfy a callable."""
    if callable(where):
        return bool(where(fields))
    return all(key in fields and _meets(fields[key], wanted) for key, wanted in where.items())


def _meets(value: Any, wanted: Any) -> bool:
    if callable(wanted):
        return bool(wanted(value))
    if isinstance(wanted, list | tuple | set | frozenset):
        return any(_equal(value, one) for one in wanted)
    return _equal(value, wanted)


def _equal(value: Any, wanted: Any) -> bool:
    # In Python True equals 1, in JSON it does not.
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)
