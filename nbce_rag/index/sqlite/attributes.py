"""Metadata as rows of SQLite, one for each value, so that a condition on one of them is a range of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

__all__ = ["PATH", "AttributeRow", "attribute_name", "attribute_rows", "scalar"]

PATH = "\x1f"
"""Stands between the two names of a path into nested mappings."""

_LONGEST = 200  # characters of a text that is stored in a row
_INTEGERS = range(-(2**63), 2**63)

AttributeRow: TypeAlias = tuple[str, str, Any]
"""Name, kind and value. The kinds are n (number), b (boolean), s (text), z (none) of a value that stands in
its row; l (a long text or a huge number), a (a list) and d (a mapping) of one that has to be looked up;
and the same letters as capitals for the elements of a list."""


def attribute_rows(metadata: Mapping[str, Any]) -> Iterator[AttributeRow]:
    """The rows of metadata, each only once."""
    seen: set[tuple[str, str, Any]] = set()
    for key, value in metadata.items():
        for name, kind, stored in _rows(attribute_name(key), value):
            row = (name, kind, stored)
            if row not in seen:
                seen.add(row)
                yield row


def attribute_name(key: str | tuple[str, str]) -> str:
    """The name of the rows of a key, or of a path of two."""
    if isinstance(key, tuple):
        return PATH.join(attribute_name(part) for part in key)
    return key.replace(PATH, PATH + " ")


def scalar(value: Any) -> tuple[str, Any] | None:
    """Kind and stored form of a value that stands in its row; None for one that has to be looked up."""
    if value is None:
        return "z", 0
    if isinstance(value, bool):
        return "b", int(value)
    if isinstance(value, int):
        return ("n", value) if value in _INTEGERS else None
    if isinstance(value, float):
        return "n", value
    if isinstance(value, str) and len(value) <= _LONGEST and "\0" not in value:
        return "s", value
    return None


def _rows(name: str, value: Any) -> Iterator[AttributeRow]:
    if (simple := scalar(value)) is not None:
        yield name, *simple
    elif isinstance(value, list | tuple):
        yield name, "a", 0
        for element in value:
            kind, stored = scalar(element) or ("l", 0)
            yield name, kind.upper(), stored
    elif isinstance(value, Mapping):
        yield name, "d", 0
        if PATH not in name:
            for inner, element in value.items():
                kind, stored = scalar(element) or (_kind(element), 0)
                yield attribute_name((name, str(inner))), kind, stored
    else:
        yield name, "l", 0


def _kind(value: Any) -> str:
    return "a" if isinstance(value, list | tuple) else "d" if isinstance(value, Mapping) else "l"
