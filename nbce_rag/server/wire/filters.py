"""OpenAI's filters of file search as conditions of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import bad_field

__all__ = ["where_of"]

_COMPARISONS = {"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"}
_DEEPEST = 32


def where_of(filters: Any, param: str = "filters", depth: int = 0) -> dict[str, Any]:
    """A filter as `PassageIndex.search` takes it for `where`.

    Args:
        filters: `{"type": "eq" | "ne" | "gt" | "gte" | "lt" | "lte" | "in" | "nin", "key", "value"}`, or
            `{"type": "and" | "or", "filters": [...]}`, nested at will.
        param: the field it came in, for errors.
        depth: how deep it stands in others.

    Raises:
        ServerError: it is none.
    """
    if depth > _DEEPEST:
        raise bad_field(param, f"The filters are nested deeper than {_DEEPEST} levels: write them flatter.")
    if not isinstance(filters, Mapping):
        raise bad_field(param, f"{param} must be an object with 'type'.")
    kind = filters.get("type")
    if kind in ("and", "or"):
        parts = filters.get("filters")
        if not isinstance(parts, list) or not parts:
            raise bad_field(
                f"{param}.filters", f"{param} of type {kind!r} needs 'filters', a list of at least one."
            )
        conditions = [where_of(part, f"{param}.filters.{n}", depth + 1) for n, part in enumerate(parts)]
        return {f"${kind}": conditions}
    if not isinstance(kind, str) or kind not in _COMPARISONS:
        known = ", ".join(sorted(_COMPARISONS))
        raise bad_field(f"{param}.type", f"{param}.type {kind!r} is not known; there are and, or, {known}.")
    key, value = filters.get("key"), filters.get("value")
    if not isinstance(key, str) or not key or key.startswith("$"):
        raise bad_field(f"{param}.key", f"{param}.key {key!r} must be the name of an attribute.")
    if "value" not in filters:
        raise bad_field(f"{param}.value", f"{param} compares {key!r} with nothing; give 'value'.")
    if (kind in ("in", "nin")) != isinstance(value, list):
        wanted = "a list" if kind in ("in", "nin") else "a text, a number or a boolean"
        raise bad_field(f"{param}.value", f"{param}.value of type {kind!r} must be {wanted}.")
    return {key: {f"${kind}": value}}
