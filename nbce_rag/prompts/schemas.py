"""JSON schemas that answers are held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

__all__ = ["closed_schema", "response_schema"]

_NAMED = ("$defs", "definitions", "patternProperties", "properties")
_SINGLE = ("additionalProperties", "items")
_LISTED = ("prefixItems",)
_ALTERNATIVES = ("anyOf", "oneOf")


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without room for members that it does not name, at all depths.

    JSON Schema allows any, and small models add some. A schema that says itself what further members may be
    (`additionalProperties`) is left alone, and so are schemas that hold beside others, as those in `allOf` or
    in the `anyOf` of one that has properties too: none of them names all.
    """
    named = isinstance(schema.get("properties"), Mapping)
    closed: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _NAMED and isinstance(value, Mapping):
            value = {key: _closed(one) for key, one in value.items()}
        elif name in _SINGLE:
            value = _closed(value)
        elif (name in _LISTED or (name in _ALTERNATIVES and not named)) and isinstance(value, list | tuple):
            value = [_closed(one) for one in value]
        closed[name] = value
    kind = closed.setdefault("type", "object") if named else None
    if kind == "object" or (isinstance(kind, list | tuple) and "object" in kind):
        closed.setdefault("additionalProperties", False)
    return closed


def response_schema(response_format: Any) -> Mapping[str, Any] | str:
    """The schema of an OpenAI-style `response_format`, as it stands in it.

    Raises:
        InputError: a format that is not known.
    """
    if isinstance(response_format, Mapping):
        kind, inner = response_format.get("type"), response_format.get("json_schema")
        if kind == "json_object":
            return {"type": "object"}
        if kind == "json_schema":
            schema = (
                inner.get("schema", inner) if isinstance(inner, Mapping) else response_format.get("schema")
            )
            if isinstance(schema, Mapping | str):
                return schema
    raise InputError(
        f"response_format={response_format!r} is not known; give {{'type': 'json_object'}} or "
        "{'type': 'json_schema', 'json_schema': {'schema': ...}}."
    )


def _closed(schema: Any) -> Any:
    # True and False are schemas too.
    return closed_schema(schema) if isinstance(schema, Mapping) else schema
