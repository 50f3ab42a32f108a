"""LangChain's metadata filters as conditions of our index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nbce_rag import Condition, InputError, Predicate, as_condition

__all__ = ["Filter", "as_where"]

Filter = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]


def as_where(filter: Filter) -> Condition:
    """A filter as `PassageIndex.search` takes it.

    A document without the key meets only `$ne`, `$nin` and `$exists: False`. Values that cannot be compared
    (a number with a text) are neither above nor below each other.

    Raises:
        InputError: an unknown operator, or something that is no filter.
    """
    if callable(filter):
        return Predicate(lambda fields: bool(filter(_document_fields(fields))))
    if not isinstance(filter, Mapping):
        raise InputError(f"filter must be a mapping or a callable, got {filter!r}.")
    # The index says None of passages that have no title or source; their documents do not have the key.
    return as_condition(filter, columns="set")


def _document_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in fields.items() if value is not None or key not in ("title", "source")
    }
