"""Conditions as people type them: `year>=1900`, `language=en,de`, or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ..errors import InputError
from ..values import shown

__all__ = ["parse_where"]

_LONGEST = 65_536  # characters
_SIGN = re.compile(r">=|<=|!=|=|>|<|~")
_SIGNS = "=!<>~"
_OPERATORS = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte", "~": "$contains"}
_QUOTED = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*', re.DOTALL)


def _no_number(name: str) -> float:
    """NaN and Infinity are texts here: JSON has no such numbers."""
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_constant=_no_number)


def parse_where(expressions: Iterable[str]) -> dict[str, Any] | None:
    """What `PassageIndex.search` takes of expressions, all of which have to be met; None of none.

    An expression is `key=value`, `key=one,another`, `key!=value`, `key>value` (also `>=`, `<`, `<=`),
    `key~part` for a part of a text or an element of a list, or a JSON object. A key with dots leads into
    nested mappings. What is typed is compared with a text as a text, and with a number, a boolean or null as
    what it is in JSON, if JSON would write it so: `1.10` is the text, `1.1` the text or the number. What
    stands in double quotes is a text, whole, with the commas in it; `["a", "b"]` is JSON.

    Raises:
        InputError: It is none of these, or longer than 65,536 characters.
    """
    parts: list[dict[str, Any]] = []
    for expression in expressions:
        if len(expression) > _LONGEST:
            raise InputError(
                f"--where {shown(expression)} has {len(expression):,} characters; {_LONGEST:,} are the most."
            )
        parts.append(_json(expression) if expression.lstrip().startswith("{") else _comparison(expression))
    return {"$and": parts} if parts else None


def _json(expression: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(expression)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--where {shown(expression)} is not JSON ({error}).") from error
    return value


def _comparison(expression: str) -> dict[str, Any]:
    quoted = _QUOTED.match(expression)
    start = quoted.end() if quoted else 0
    sign = _SIGN.search(expression, start)
    if sign is None or expression[sign.end() : sign.end() + 1] in tuple(_SIGNS):
        raise _no_condition(expression)
    between = expression[start : sign.start()].strip()
    try:
        key = json.loads(quoted[1], strict=False) if quoted else between
    except ValueError as error:  # a backslash that JSON does not know
        raise _no_condition(expression) from error
    if not key or (quoted and between) or "!" in between:
        raise _no_condition(expression)
    value = expression[sign.end() :].strip()
    if sign[0] in ("=", "!="):
        values = _values(expression, value)
        if sign[0] == "=" and len(values) == 1 and isinstance(values[0], list):
            return {key: {"$eq": values[0]}}
        if sign[0] == "=":
            return {key: values if len(values) > 1 else values[0]}
        return {key: {"$nin": values}}
    operator = _OPERATORS[sign[0]]
    tests = [{key: {operator: one}} for one in _readings(expression, value)]
    return tests[0] if len(tests) == 1 else {"$or": tests}


def _values(expression: str, text: str) -> list[Any]:
    """What a value may be equal to: each of those between commas, and what was typed as it stands."""
    if text.startswith(("[", "{")):
        try:
            value = json.loads(text)
        except ValueError:
            pass  # a text that begins so
        except RecursionError as error:
            raise InputError(f"--where {shown(expression)} is nested too deep.") from error
        else:
            return value if isinstance(value, list) and value else [value]
    pieces = _pieces(text)
    values = [value for piece in pieces for value in _readings(expression, piece)]
    if len(pieces) > 1 and '"' not in text:
        values.append(text)
    return values


def _pieces(text: str) -> list[str]:
    """The text cut at commas that do not stand in quotes."""
    pieces, place = [], 0
    while True:
        quoted = _QUOTED.match(text, place)
        is_whole = quoted is not None and (quoted.end() == len(text) or text[quoted.end()] == ",")
        end = quoted.end() if quoted and is_whole else text.find(",", place)
        pieces.append(text[place:end].strip() if end >= 0 else text[place:].strip())
        if not 0 <= end < len(text):
            return pieces
        place = end + 1


def _readings(expression: str, text: str) -> list[Any]:
    """What is meant: a text in quotes; else the text, and what JSON writes so."""
    quoted = _QUOTED.fullmatch(text)
    try:
        if quoted:
            return [json.loads(quoted[1], strict=False)]
        value, end = _decoder.raw_decode(text)
    except ValueError:
        return [text]
    except RecursionError as error:
        raise InputError(f"--where {shown(expression)} is nested too deep.") from error
    is_plain = end == len(text) and not isinstance(value, str | list | dict)
    return [text, value] if is_plain and json.dumps(value) == text else [text]


def _no_condition(expression: str) -> InputError:
    return InputError(
        f"--where {shown(expression)} is no condition: write key=value, key>=value, key~part, or JSON."
    )
