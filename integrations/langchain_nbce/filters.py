"""LangChain's metadata filters as conditions of our index."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from nbce_rag.errors import InputError
from nbce_rag.index.filters import Where, matches

__all__ = ["Filter", "as_where"]

Filter = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_SINGLE = {"$eq", "$ne", "$neq", "$in", "$nin", "$exists", *_ORDER}
_JOINED = {"$and", "$or", "$not"}


def as_where(given: Filter) -> Where:
    """A filter as `PassageIndex.search` takes it.

    A document without the key meets only `$ne`, `$nin` and `$exists: False`. Values that cannot be compared
    (a number with a text) are neither above nor below each other.

    Raises:
        InputError: an unknown operator, or something that is no filter.
    """
    if callable(given):
        return lambda fields: bool(given(_own(fields)))
    if not isinstance(given, Mapping):
        raise InputError(f"filter must be a mapping or a callable, got {given!r}.")
    condition = _all(given)
    return lambda fields: condition(_own(fields))


def _own(fields: Mapping[str, Any]) -> dict[str, Any]:
    # The index says None of passages that have no title or source; their documents do not have the key.
    return {
        key: value for key, value in fields.items() if value is not None or key not in ("title", "source")
    }


def _all(given: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
    conditions = [_condition(name, wanted) for name, wanted in given.items()]
    return lambda fields: all(condition(fields) for condition in conditions)


def _condition(name: str, wanted: Any) -> Callable[[Mapping[str, Any]], bool]:
    if name in _JOINED:
        return _joined(name, wanted)
    if name.startswith("$"):
        raise InputError(f"The filter has {name!r} in place of a key; {sorted(_JOINED)} join filters.")
    if not isinstance(wanted, Mapping) or not any(str(key).startswith("$") for key in wanted):
        return lambda fields: matches(fields, {name: wanted})
    if unknown := sorted(set(wanted) - _SINGLE):
        raise InputError(f"The filter on {name!r} has {unknown}; known are {sorted(_SINGLE)}.")
    tests = [_operator(name, key, value) for key, value in wanted.items()]
    return lambda fields: all(test(fields) for test in tests)


def _joined(name: str, wanted: Any) -> Callable[[Mapping[str, Any]], bool]:
    parts = [wanted] if isinstance(wanted, Mapping) else wanted
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Mapping) for part in parts):
        raise InputError(f"{name} takes filters, got {wanted!r}.")
    conditions = [_all(part) for part in parts]
    if name == "$or":
        return lambda fields: any(condition(fields) for condition in conditions)
    if name == "$and":
        return lambda fields: all(condition(fields) for condition in conditions)
    return lambda fields: not any(condition(fields) for condition in conditions)


def _operator(name: str, key: str, value: Any) -> Callable[[Mapping[str, Any]], bool]:
    if key in ("$in", "$nin") and not isinstance(value, (list, tuple, set, frozenset)):
        raise InputError(f"{key} on {name!r} takes a list, got {value!r}.")
    if key == "$exists":
        return lambda fields: (name in fields) == bool(value)
    if key in ("$eq", "$in"):
        wanted = [value] if key == "$eq" else list(value)
        return lambda fields: matches(fields, {name: wanted})
    if key in ("$ne", "$neq", "$nin"):
        unwanted = list(value) if key == "$nin" else [value]
        return lambda fields: not matches(fields, {name: unwanted})
    compare = _ORDER[key]

    def test(fields: Mapping[str, Any]) -> bool:
        try:
            return name in fields and bool(compare(fields[name], value))
        except TypeError:
            return False

    return test
