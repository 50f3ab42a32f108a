"""What a search may find: conditions on metadata, made of mappings or callables, and told of one passage."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from ...errors import InputError

__all__ = [
    "GENERATED",
    "AllOf",
    "AnyOf",
    "Condition",
    "FieldTest",
    "Fields",
    "Negation",
    "Predicate",
    "Where",
    "as_condition",
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
        key: Its name; a path into nested mappings of two names.
        op: "eq", "in", "lt", "lte", "gt", "gte", "range", "contains", "exists" or "call".
        value: What it is compared with; for "call" a callable that is given the value and decides; for
            "range" two pairs, of "gt" or "gte" and of "lt" or "lte", each with its value.
        columns: Whether `id`, `source` and `title` mean the passage's own where the metadata have no such
            key: "any", "set" (unless it is None), "none".
    """

    __test__ = False  # for pytest, this is no test

    key: str | tuple[str, str]
    op: str
    value: Any = None
    columns: Columns = "any"

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
            metadata, or `$and`, `$or` (lists of mappings) and `$not` (a mapping, or a list of which none may
            be met). Its values are a value to equal, a list (tuple, set) of which one has to be equalled,
            a callable that is given the value, or operators: `{"$gte": 1900, "$lt": 2000}` with `$eq $ne
            $neq $in $nin $gt $gte $lt $lte $contains $exists`. A missing key meets only `$ne`, `$nin` and
            `$exists: False`. `$contains` looks for a part of a text or an element of a list. Numbers are
            ordered among themselves, and texts are.
        columns: See `FieldTest`.

    Raises:
        InputError: It is none of these, or has an unknown operator.
    """
    if isinstance(where, Condition):
        return where
    if callable(where):
        return Predicate(where)
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise InputError(
            f"where must be a mapping such as {{'language': 'en'}} or a callable, got {where!r}."
        )
    parts = tuple(_part(key, operand, columns) for key, operand in where.items())
    return parts[0] if len(parts) == 1 else AllOf(parts)


def mentions(condition: Condition, key: str) -> bool:
    """Whether a condition asks about a key by its name."""
    if isinstance(condition, FieldTest):
        return condition.key == key
    if isinstance(condition, Negation):
        return mentions(condition.part, key)
    return isinstance(condition, AllOf | AnyOf) and any(mentions(part, key) for part in condition.parts)


def equal(value: object, other: object) -> bool:
    """Equality as in JSON, where true is not 1."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _part(key: str, operand: object, columns: Columns) -> Condition:
    if key in _JOINS:
        return _join(key, operand, columns)
    if key.startswith("$"):
        raise InputError(f"The filter has {key!r} in place of a key; {sorted(_JOINS)} join filters.")
    if callable(operand):
        return FieldTest(key, "call", operand, columns)
    if isinstance(operand, Mapping) and any(str(name).startswith("$") for name in operand):
        if unknown := sorted(set(operand) - _OPERATORS):
            raise InputError(f"The filter on {key!r} has {unknown}; known are {sorted(_OPERATORS)}.")
        rest, bounds = dict(operand), []
        for names in ({"$gt", "$gte"}, {"$lt", "$lte"}):
            ends = names & rest.keys()
            bounds += [(name[1:], rest[name]) for name in ends] if len(ends) == 1 else []
        tests: tuple[Condition, ...] = ()
        if len(bounds) == 2:  # looked up at once, between the two
            tests = (FieldTest(key, "range", tuple(bounds), columns),)
            rest = {name: value for name, value in rest.items() if name[1:] not in _ORDER}
        tests += tuple(_operator(key, name, value, columns) for name, value in rest.items())
        return tests[0] if len(tests) == 1 else AllOf(tests)
    if isinstance(operand, list | tuple | set | frozenset):
        return FieldTest(key, "in", tuple(operand), columns)
    return FieldTest(key, "eq", operand, columns)


def _join(name: str, operand: object, columns: Columns) -> Condition:
    filters = [operand] if isinstance(operand, Mapping) else operand
    if not isinstance(filters, list | tuple) or not all(isinstance(part, Mapping) for part in filters):
        raise InputError(f"{name} takes filters, got {operand!r}.")
    parts = tuple(as_condition(part, columns) for part in filters)
    if name == "$and":
        return AllOf(parts)
    return AnyOf(parts) if name == "$or" else Negation(AnyOf(parts))


def _operator(key: str, name: str, value: object, columns: Columns) -> Condition:
    if name in ("$in", "$nin"):
        if not isinstance(value, list | tuple | set | frozenset):
            raise InputError(f"{name} on {key!r} takes a list, got {value!r}.")
        test = FieldTest(key, "in", tuple(value), columns)
        return test if name == "$in" else Negation(test)
    if name in ("$ne", "$neq"):
        return Negation(FieldTest(key, "eq", value, columns))
    if name == "$exists":
        exists = FieldTest(key, "exists", None, columns)
        return exists if value else Negation(exists)
    return FieldTest(key, name[1:], value, columns)


def _in_order(value: Any, op: str, bound: Any) -> bool:
    comparable = (_number(value) and _number(bound)) or (isinstance(value, str) and isinstance(bound, str))
    return comparable and bool(_ORDER[op](value, bound))


def _number(value: object) -> bool:
    return isinstance(value, int | float)
