"""Conditions as SQL over JSONB, with the answers that Python gives (`filters.conditions`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..filters.conditions import AllOf, AnyOf, Condition, FieldTest, Negation, Predicate
from .values import jsonb

__all__ = ["EVERYTHING", "NOTHING", "Sql", "all_of", "calls", "sql_of"]

_ORDER = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_COLUMNS = ("id", "source", "title")


class Sql(NamedTuple):
    """An expression over `passages p` that is true or false, never null, and its values."""

    text: str
    values: tuple[Any, ...] = ()


EVERYTHING = Sql("TRUE")
NOTHING = Sql("FALSE")


def calls(condition: Condition) -> bool:
    """Whether a condition asks something of Python."""
    if isinstance(condition, Negation):
        return calls(condition.part)
    if isinstance(condition, AllOf | AnyOf):
        return any(map(calls, condition.parts))
    return isinstance(condition, Predicate) or condition.op == "call"


def sql_of(condition: Condition, *, call: Sql = EVERYTHING) -> Sql:
    """A condition as SQL.

    Args:
        condition: Any.
        call: What stands for that which only Python can tell: `EVERYTHING`, so that none is lost of which it
            may be true.
    """
    if isinstance(condition, AllOf):
        return all_of([sql_of(part, call=call) for part in condition.parts])
    if isinstance(condition, AnyOf):
        return _joined("OR", [sql_of(part, call=call) for part in condition.parts], NOTHING)
    if isinstance(condition, Negation):
        inner = sql_of(condition.part, call=NOTHING if call is EVERYTHING else EVERYTHING)
        return Sql(f"NOT {inner.text}", inner.values)
    if isinstance(condition, Predicate) or condition.op == "call":
        return call
    return _test(condition)


def all_of(parts: Iterable[Sql]) -> Sql:
    """All of several expressions."""
    return _joined("AND", list(parts), EVERYTHING)


def _joined(word: str, parts: Sequence[Sql], empty: Sql) -> Sql:
    if len(parts) < 2:
        return parts[0] if parts else empty
    text = f" {word} ".join(part.text for part in parts)
    return Sql(f"({text})", tuple(value for part in parts for value in part.values))


def _test(test: FieldTest) -> Sql:
    value = _value(test)
    if value is None:
        return NOTHING
    if test.op == "exists":
        return Sql(f"({value.text} IS NOT NULL)", value.values)
    if test.op in ("eq", "in"):
        return _equals(test, value, [test.value] if test.op == "eq" else list(test.value))
    if test.op == "contains":
        return _contains(value, test.value)
    bounds = test.value if test.op == "range" else ((test.op, test.value),)
    return all_of([_compares(value, op, bound) for op, bound in bounds])


def _value(test: FieldTest) -> Sql | None:
    """The value that a test is about, as JSONB, null where there is none; None where there can be none."""
    if isinstance(test.key, tuple):
        return None if "\0" in "".join(test.key) else _path(test.key)
    if "\0" in test.key:
        return None
    whole = _path((test.key,))
    if "." in test.key:
        names = test.key.split(".")
        return Sql(f"coalesce({whole.text}, {_path(names).text})", (*whole.values, *names))
    if test.key in _COLUMNS and test.columns != "none":
        column = f"to_jsonb(p.{test.key})"
        null = ", 'null'::jsonb" if test.columns == "any" else ""
        return Sql(f"coalesce({whole.text}, {column}{null})", whole.values)
    return whole


def _path(names: Sequence[str]) -> Sql:
    # Of a list, -> with a text gives null, as it should; #> would take "0" for a place in it.
    return Sql("(p.attributes" + " -> %s::text" * len(names) + ")", tuple(names))


def _equals(test: FieldTest, value: Sql, operands: list[Any]) -> Sql:
    texts = [text for text in map(jsonb, operands) if text is not None]
    if not texts:
        return NOTHING
    if len(texts) == 1:
        equal = Sql(f"coalesce({value.text} = %s::jsonb, FALSE)", (*value.values, texts[0]))
    else:
        equal = Sql(f"coalesce({value.text} = ANY(%s::jsonb[]), FALSE)", (*value.values, texts))
    if not isinstance(test.key, str) or "." in test.key:
        return equal
    if test.key in _COLUMNS and test.columns != "none":
        return _column_equals(test.key, test.columns == "any", operands, equal)
    # What the index of attributes can look up holds of all that is equal.
    return all_of([Sql("p.attributes @> ANY(%s::jsonb[])", (_held(test.key, operands),)), equal])


def _held(key: str, operands: list[Any]) -> list[str]:
    return [text for text in (jsonb({key: operand}) for operand in operands) if text is not None]


def _column_equals(key: str, can_be_null: bool, operands: list[Any], equal: Sql) -> Sql:
    names = [one for one in operands if isinstance(one, str) and "\0" not in one]
    own = f"p.{key} = ANY(%s::text[])"
    if can_be_null and any(one is None for one in operands):
        own = f"{own} OR p.{key} IS NULL"
    there = f"({own} OR p.attributes @> ANY(%s::jsonb[]))"
    return all_of([Sql(there, (names, _held(key, operands))), equal])


def _contains(value: Sql, operand: Any) -> Sql:
    text = jsonb(operand)
    if text is None:
        return NOTHING
    of_list = (
        f"WHEN 'array' THEN EXISTS (SELECT FROM jsonb_array_elements({value.text}) e WHERE e = %s::jsonb)"
    )
    values = (*value.values, *value.values, text)
    if not isinstance(operand, str):
        return Sql(f"(CASE jsonb_typeof({value.text}) {of_list} ELSE FALSE END)", values)
    of_text = f"WHEN 'string' THEN strpos({value.text} #>> '{{}}', %s::text) > 0"
    of_mapping = f"WHEN 'object' THEN {value.text} ? %s::text"
    return Sql(
        f"(CASE jsonb_typeof({value.text}) {of_list} {of_text} {of_mapping} ELSE FALSE END)",
        (*values, *value.values, operand, *value.values, operand),
    )


def _compares(value: Sql, op: str, bound: Any) -> Sql:
    if isinstance(bound, str):
        head, nul, _ = bound.partition("\0")
        if nul:  # which stands before every other character
            op, bound = ("lte" if op in ("lt", "lte") else "gt"), head
        compared = f"({value.text} #>> '{{}}') COLLATE \"C\" {_ORDER[op]} %s::text"
        kind = "string"
    elif isinstance(bound, int | float) and not isinstance(bound, bool):
        compared = f"({value.text})::numeric {_ORDER[op]} %s::numeric"
        kind, bound = "number", jsonb(bound) or ("Infinity" if bound > 0 else "-Infinity")
    else:
        return NOTHING
    return Sql(
        f"(CASE jsonb_typeof({value.text}) WHEN '{kind}' THEN {compared} ELSE FALSE END)",
        (*value.values, *value.values, bound),
    )
