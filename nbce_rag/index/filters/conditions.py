"""What a search may find: conditions on metadata, made of mappings or callables, and told of one passage."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from ...errors import InputError
from ...values import DEEPEST, NotPlainError, plain, plain_text, shown

__all__ = [
    "GENERATED",
    "IS_GENERATED",
    "AllOf",
    "AnyOf",
    "Condition",
    "FieldTest",
    "Fields",
    "Negation",
    "Predicate",
    "Where",
    "as_condition",
    "asks_nothing",
    "mentions",
]

GENERATED = {"origin": "generated"}
"""Metadata that mark a passage as the output of a model, which searches leave out unless they are told to."""

Where: TypeAlias = "Mapping[str, Any] | Callable[[Mapping[str, Any]], bool] | Condition"
Columns = Literal["any", "set", "none"]

_ABSENT = object()
_ORDER = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}
_OPERATORS = {"$eq", "$ne", "$neq", "$in", "$nin", "$exists", "$contains", *(f"${name}" for name in _ORDER)}
_JOINS = {"$and", "$or", "$not"}
_MOST_TESTS = 10_000


class Fields(NamedTuple):
    """What a condition may ask about one passage."""

    metadata: Mapping[str, Any]
    columns: Mapping[str, str | None]
    """Its `id`, `source` and `title`."""

    def as_mapping(self) -> dict[str, Any]:
        """All of it, metadata first."""
        return {**self.columns, **self.metadata}


@dataclass(frozen=True)
class FieldTest:
    """One value of the metadata, compared.

    Attributes:
        key: Its name, or a path of two names into nested mappings. A name with dots that the metadata do not
            have is a path too: "place.town" is `metadata["place"]["town"]`.
        op: "eq", "in", "lt", "lte", "gt", "gte", "range", "contains", "exists" or "call".
        value: What it is compared with, as types of JSON (`nbce_rag.values.plain`); for "call" a callable
            that is given the value and decides; for "range" two pairs, of "gt" or "gte" and of "lt" or "lte",
            each with its value.
        columns: Whether `id`, `source` and `title` mean the passage's own where the metadata have no such
            key: "any", "set" (unless it is None), "none".

    Raises:
        InputError: The value is of a kind that metadata cannot be of.
    """

    __test__ = False  # for pytest, this is no test

    key: str | tuple[str, str]
    op: str
    value: Any = None
    columns: Columns = "any"

    def __post_init__(self) -> None:
        parts = self.key if isinstance(self.key, tuple) else (self.key,)
        if not all(isinstance(part, str) for part in parts):
            raise InputError(f"A filter's key must be a text, got {shown(self.key)}.")
        texts = tuple(map(_text, parts))
        object.__setattr__(self, "key", texts if isinstance(self.key, tuple) else texts[0])
        if self.op in ("call", "exists"):
            return
        try:
            if self.op == "range":
                bounds = tuple((op, plain(bound, infinite=True)) for op, bound in self.value)
                object.__setattr__(self, "value", bounds)
            else:
                is_set = self.op == "in" and isinstance(self.value, set | frozenset)
                value = plain(list(self.value) if is_set else self.value, infinite=True)
                object.__setattr__(self, "value", tuple(value) if self.op == "in" else value)
        except NotPlainError as error:
            name = ".".join(texts)
            raise InputError(
                f"The filter on {shown(name)} compares with a value that metadata cannot hold: it {error}."
            ) from error

    def holds(self, fields: Fields) -> bool:
        """Whether it is met. A missing value meets nothing."""
        value = self.of(fields)
        return value is not _ABSENT and self.meets(value)

    def of(self, fields: Fields) -> object:
        """The value, or a mark that says there is none."""
        if isinstance(self.key, tuple):
            first = fields.metadata.get(self.key[0])
            return first.get(self.key[1], _ABSENT) if isinstance(first, Mapping) else _ABSENT
        if self.key in fields.metadata:
            return fields.metadata[self.key]
        if "." in self.key:
            return _at_path(fields.metadata, self.key.split("."))
        if self.columns == "none" or self.key not in fields.columns:
            return _ABSENT
        value = fields.columns[self.key]
        return _ABSENT if value is None and self.columns == "set" else value

    def meets(self, value: object) -> bool:
        """Whether a value that is there will do."""
        if self.op == "exists":
            return True
        if self.op == "call":
            return bool(self.value(value))
        if self.op == "eq":
            return equal(value, self.value)
        if self.op == "in":
            return any(equal(value, one) for one in self.value)
        if self.op == "contains":
            if isinstance(value, str):
                return isinstance(self.value, str) and self.value in value
            return isinstance(value, list | tuple | Mapping) and any(equal(one, self.value) for one in value)
        bounds = self.value if self.op == "range" else ((self.op, self.value),)
        return all(_in_order(value, op, bound) for op, bound in bounds)


@dataclass(frozen=True)
class AllOf:
    """All of several conditions; of none, everything."""

    parts: tuple[Condition, ...]

    def holds(self, fields: Fields) -> bool:
        """Whether all are met."""
        return all(part.holds(fields) for part in self.parts)


@dataclass(frozen=True)
class AnyOf:
    """Any of several conditions; of none, nothing."""

    parts: tuple[Condition, ...]

    def holds(self, fields: Fields) -> bool:
        """Whether any is met."""
        return any(part.holds(fields) for part in self.parts)


@dataclass(frozen=True)
class Negation:
    """The opposite of a condition."""

    part: Condition

    def holds(self, fields: Fields) -> bool:
        """Whether the condition is not met."""
        return not self.part.holds(fields)


@dataclass(frozen=True)
class Predicate:
    """A callable that is given all metadata, with `id`, `source` and `title`, and decides."""

    function: Callable[[Mapping[str, Any]], Any]

    def holds(self, fields: Fields) -> bool:
        """What the callable says."""
        return bool(self.function(fields.as_mapping()))


Condition: TypeAlias = FieldTest | AllOf | AnyOf | Negation | Predicate


def as_condition(where: Where, columns: Columns = "any") -> Condition:
    """A condition of what people write.

    Args:
        where: A condition; a callable that is given all metadata; or a mapping. Its keys are keys of the
            metadata, dotted ones paths into nested mappings, or `$and`, `$or` (lists of mappings) and `$not`
            (a mapping, or a list of which none may be met). Its values are a value to equal, a list (tuple,
            set, range, array) of which one has to be equalled, a callable that is given the value, or
            operators: `{"$gte": 1900, "$lt": 2000}` with `$eq $ne $neq $in $nin $gt $gte $lt $lte $contains
            $exists`. A missing key meets only `$ne`, `$nin` and `$exists: False`. `$contains` looks for a
            part of a text or an element of a list. Numbers are ordered among themselves, and texts are.
            Values of NumPy, dates and the like count as what an index stores of them.
        columns: See `FieldTest`.

    Raises:
        InputError: It is none of these, has an unknown operator, or a value that metadata cannot hold; it is
            nested deeper than 64 levels, or has more than 10,000 tests.
    """
    try:
        condition = _condition(where, columns, 0)
    except NotPlainError as error:
        raise InputError(f"where holds a value that metadata cannot hold: it {error}.") from error
    _check_size(condition)
    return condition


def mentions(condition: Condition, key: str) -> bool:
    """Whether a condition asks about a key by its name."""
    if isinstance(condition, FieldTest):
        return condition.key == key
    if isinstance(condition, Negation):
        return mentions(condition.part, key)
    return isinstance(condition, AllOf | AnyOf) and any(mentions(part, key) for part in condition.parts)


def asks_nothing(condition: Condition) -> bool:
    """Whether a condition asks about no key and calls nothing, as that of `{}`."""
    if isinstance(condition, Negation):
        return asks_nothing(condition.part)
    return isinstance(condition, AllOf | AnyOf) and all(map(asks_nothing, condition.parts))


def equal(value: object, other: object) -> bool:
    """Equality as in JSON, where true is not 1, at any depth."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(equal, value, other))
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(equal(one, other[key]) for key, one in value.items())
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _condition(where: Where, columns: Columns, depth: int) -> Condition:
    if isinstance(where, Condition):
        return where
    if depth > DEEPEST:
        raise InputError(f"where is nested deeper than {DEEPEST} levels: write it flatter.")
    if not isinstance(where, Mapping):
        if callable(where):
            return Predicate(where)
        raise InputError(
            f"where must be a mapping such as {{'language': 'en'}} or a callable, got {shown(where)}."
        )
    if not all(isinstance(key, str) for key in where):
        raise InputError(f"where must be a mapping whose keys are texts, got {shown(where)}.")
    parts = tuple(_part(plain_text(key), operand, columns, depth) for key, operand in where.items())
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _check_size(condition: Condition) -> None:
    """Level by level, since the deepest would end Python's recursion."""
    level, depth, tests = [condition], 0, 0
    while level:
        depth, tests = depth + 1, tests + len(level)
        if depth > 3 * DEEPEST:  # of each level that is written, up to three are made
            raise InputError(f"where is nested deeper than {DEEPEST} levels: write it flatter.")
        if tests > _MOST_TESTS:
            raise InputError(f"where has more than {_MOST_TESTS:,} tests: give values of one key as a list.")
        level = [part for one in level for part in _parts(one)]


def _parts(condition: Condition) -> tuple[Condition, ...]:
    if isinstance(condition, Negation):
        return (condition.part,)
    return condition.parts if isinstance(condition, AllOf | AnyOf) else ()


def _part(key: str, operand: object, columns: Columns, depth: int) -> Condition:
    if key in _JOINS:
        return _join(key, operand, columns, depth)
    if key.startswith("$"):
        raise InputError(f"The filter has {shown(key)} in place of a key; {sorted(_JOINS)} join filters.")
    if isinstance(operand, Mapping):
        if any(isinstance(name, str) and name.startswith("$") for name in operand):
            return _operators(key, operand, columns)
    elif callable(operand):
        return FieldTest(key, "call", operand, columns)
    elif _is_list(operand):
        return FieldTest(key, "in", operand, columns)
    return FieldTest(key, "eq", operand, columns)


def _operators(key: str, operand: Mapping[str, object], columns: Columns) -> Condition:
    if unknown := sorted(map(str, set(operand) - _OPERATORS)):
        raise InputError(f"The filter on {shown(key)} has {unknown}; known are {sorted(_OPERATORS)}.")
    rest, bounds = {plain_text(name): value for name, value in operand.items()}, []
    for names in ({"$gt", "$gte"}, {"$lt", "$lte"}):
        ends = names & rest.keys()
        bounds += [(name[1:], rest[name]) for name in ends] if len(ends) == 1 else []
    tests: tuple[Condition, ...] = ()
    if len(bounds) == 2:  # looked up at once, between the two
        tests = (FieldTest(key, "range", tuple(bounds), columns),)
        rest = {name: value for name, value in rest.items() if name[1:] not in _ORDER}
    tests += tuple(_operator(key, name, value, columns) for name, value in rest.items())
    return tests[0] if len(tests) == 1 else AllOf(tests)


def _join(name: str, operand: object, columns: Columns, depth: int) -> Condition:
    filters = [operand] if isinstance(operand, Mapping) else operand
    if not isinstance(filters, list | tuple) or not all(isinstance(part, Mapping) for part in filters):
        raise InputError(f"{name} takes filters, got {shown(operand)}.")
    parts = tuple(_condition(part, columns, depth + 1) for part in filters)
    if name == "$and":
        return AllOf(parts)
    return AnyOf(parts) if name == "$or" else Negation(AnyOf(parts))


def _operator(key: str, name: str, value: object, columns: Columns) -> Condition:
    if name in ("$in", "$nin"):
        if not _is_list(value):
            raise InputError(f"{name} on {shown(key)} takes a list, got {shown(value)}.")
        test = FieldTest(key, "in", value, columns)
        return test if name == "$in" else Negation(test)
    if name in ("$ne", "$neq"):
        return Negation(FieldTest(key, "eq", value, columns))
    if name == "$exists":
        exists = FieldTest(key, "exists", None, columns)
        return exists if value else Negation(exists)
    return FieldTest(key, name[1:], value, columns)


def _is_list(value: object) -> bool:
    """Whether it is values, one of which has to be equalled: also an array or a column of a table."""
    return isinstance(value, list | tuple | set | frozenset | range) or getattr(value, "ndim", 0) == 1


def _text(key: str) -> str:
    try:
        return str(plain(key))
    except NotPlainError as error:
        raise InputError(f"A filter's key {error}.") from error


def _at_path(metadata: object, path: list[str]) -> object:
    for name in path:
        if not isinstance(metadata, Mapping) or name not in metadata:
            return _ABSENT
        metadata = metadata[name]
    return metadata


def _in_order(value: Any, op: str, bound: Any) -> bool:
    comparable = (_number(value) and _number(bound)) or (isinstance(value, str) and isinstance(bound, str))
    return comparable and bool(_ORDER[op](value, bound))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


IS_GENERATED = AllOf(tuple(FieldTest(key, "eq", value) for key, value in GENERATED.items()))
"""What `GENERATED` passages meet."""
