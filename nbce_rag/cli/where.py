"""Conditions as people type them: `year>=1900`, `language=en,de`, or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ..errors import InputError

__all__ = ["parse_where"]

_EXPRESSION = re.compile(r"\s*([^=!<>~]+?)\s*(>=|<=|!=|=|>|<|~)(?![=!<>~])\s*(.*?)\s*", re.DOTALL)
_OPERATORS = {"!=": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte", "~": "$contains"}


def parse_where(expressions: Iterable[str]) -> dict[str, Any] | None:
    """What `PassageIndex.search` takes of expressions, all of which have to be met; None of none.

    An expression is `key=value`, `key=one,another`, `key!=value`, `key>value` (also `>=`, `<`, `<=`),
    `key~part` for a part of a text or an element of a list, or a JSON object. Values are JSON where they can
    be read so (`1900`, `true`, `"1900"`), else text.

    Raises:
        InputError: It is none of these.
    """
    parts: list[dict[str, Any]] = []
    for expression in expressions:
        if expression.lstrip().startswith("{"):
            try:
                parts.append(json.loads(expression))
            except ValueError as error:
                raise InputError(f"--where {expression!r} is not JSON ({error}).") from error
            continue
        match = _EXPRESSION.fullmatch(expression)
        if match is None:
            raise InputError(
                f"--where {expression!r} is no condition: write key=value, key>=value, key~part, or JSON."
            )
        key, sign, value = match.groups()
        if sign == "=":
            parts.append({key: [_value(one) for one in value.split(",")] if "," in value else _value(value)})
        else:
            parts.append({key: {_OPERATORS[sign]: _value(value)}})
    return {"$and": parts} if parts else None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
