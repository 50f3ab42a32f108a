"""Requests, and what comes back, as JSON and back again: what a client and a server of nbce-rag say.

`report` says of an answer what people want to see. This says all of it, so that objects made anew on the
other side are equal to these: each dataclass is an object with its fields by their names, those at their
defaults left out; numbers that JSON lacks are "inf", "-inf" and "nan". A fusion rule is its name with its
numbers, so that nothing that comes in is ever executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ..errors import InputError, UnsupportedError
from ..fusion import resolve_rule, rule_fields
from ..options import Options
from ..request import Request
from ..values import DEEPEST, NotPlainError, plain, shown

__all__ = ["VERSION", "from_wire", "to_wire"]

VERSION = 1
"""Of this form. It changes when a field changes its meaning or goes."""

_T = TypeVar("_T")
_WHOLE = (Options,)
"""Written with their defaults, which may be others on the other side."""
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_wire(value: Any) -> Any:
    """A request, answer, piece or part of one in types of JSON.

    Raises:
        UnsupportedError: it holds a fusion rule of the user's own.
        InputError: metadata, a schema, tools or messages hold what JSON does not have.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _field(value, field.name)
            for field in fields(value)
            if field.init and (isinstance(value, _WHOLE) or not _is_default(field, value))
        }
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, list | tuple):
        return [to_wire(one) for one in value]
    if isinstance(value, Mapping) and any(map(is_dataclass, value.values())):
        return {name: to_wire(one) for name, one in value.items()}
    try:
        return plain(value)
    except NotPlainError as error:
        raise InputError(f"{shown(value)} cannot be sent: {error}; leave that out.") from error


def from_wire(kind: type[_T], value: Any) -> _T:
    """The object that `to_wire` was given.

    Args:
        kind: its class.
        value: what JSON holds; from anywhere, and checked.

    Raises:
        InputError: it is none, with the place in it.
    """
    return cast(_T, _read(kind, value, kind.__name__, 0))


def _read(kind: Any, value: Any, where: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise InputError(f"{where} is nested deeper than {DEEPEST} levels; send less.")
    if is_dataclass(kind):
        return _read_object(cast(type, kind), value, where, depth)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read_either(arguments, value, where, depth)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _wrong(where, value, f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple and arguments[-1] is not Ellipsis:
        if not isinstance(value, list) or len(value) != len(arguments):
            raise _wrong(where, value, f"a list of {len(arguments)}")
        pairs = zip(arguments, value, strict=True)
        return tuple(_read(one, v, f"{where}[{i}]", depth + 1) for i, (one, v) in enumerate(pairs))
    if origin in (tuple, Sequence):
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        return tuple(_read(arguments[0], one, f"{where}[{i}]", depth + 1) for i, one in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {name: _read(arguments[1], one, f"{where}.{name}", depth + 1) for name, one in value.items()}
    if kind is float:
        return _read_number(value, where)
    if kind is Any:
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(where, value, {str: "a text", int: "a whole number", bool: "true or false"}[kind])
    return value


def _read_object(kind: type, value: Any, where: str, depth: int) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    hints = _hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise InputError(f"{where} has no {', '.join(unknown)}; it has {', '.join(hints)}.")
    if missing := sorted(_required(kind) - set(value)):
        raise InputError(f"{where} lacks {', '.join(missing)}.")
    arguments = {
        name: _read_rule(one, f"{where}.{name}")
        if kind is Options and name == "fusion"
        else _read(hints[name], one, f"{where}.{name}", depth + 1)
        for name, one in value.items()
    }
    return kind(**arguments)


def _read_either(kinds: Sequence[Any], value: Any, where: str, depth: int) -> Any:
    """A value of the first of several types that it fits; one that may be None is mostly of one type."""
    if value is None and NoneType in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not NoneType]
    for kind in kinds[:-1]:
        try:
            return _read(kind, value, where, depth)
        except InputError:
            continue
    return _read(kinds[-1], value, where, depth)


def _read_number(value: Any, where: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, value, 'a number, "inf", "-inf" or "nan"')
    return float(value)


def _rule(rule: Any) -> dict[str, Any]:
    known = rule_fields(rule)
    if known is None:
        raise UnsupportedError(
            f"fusion={shown(rule)} is a rule of your own, which cannot be sent; name one of nbce_rag.fusion."
        )
    return known


def _read_rule(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return resolve_rule(value)
    if not isinstance(value, dict) or not isinstance(value.get("rule"), str):
        raise _wrong(where, value, "the name of a rule, or an object with it as rule")
    return resolve_rule(**value)


def _field(value: Any, name: str) -> Any:
    one = getattr(value, name)
    return _rule(one) if isinstance(value, Options) and name == "fusion" else to_wire(one)


def _is_default(field: Field[Any], value: Any) -> bool:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return default is not MISSING and getattr(value, field.name) == default


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Types of the fields that a class is made with, by their names."""
    hints = get_type_hints(kind, localns={"Request": Request})
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


@cache
def _required(kind: type) -> frozenset[str]:
    return frozenset(
        field.name
        for field in fields(kind)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    )


def _wrong(where: str, value: Any, right: str) -> InputError:
    return InputError(f"{where} is {shown(value)}; it must be {right}.")
