"""`MetadataFilters`, nested at will, as conditions of our index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from nbce_rag import AllOf, AnyOf, Condition, FieldTest, InputError, InputTypeError, Negation

from .nodes import NODE_KEY

__all__ = ["as_condition", "in_documents"]

_IS_NODE = FieldTest(NODE_KEY, "exists")


def as_condition(filters: MetadataFilters | None) -> Condition | None:
    """Filters, also nested ones, as `PassageIndex.search` takes them, by the rules of LlamaIndex's own store.

    A key that is missing or None meets `!=`, `nin` and `is_empty`, and nothing else. Numbers are ordered
    among themselves, and texts are; others have no order. Otherwise than there, a list of no filters is met
    by nothing: it may be an access list with nobody on it. None is no condition. LlamaIndex's filters
    cannot hold True and False; "true" and "false" meet them too.

    Raises:
        InputError: an unknown operator or condition.
        InputTypeError: while searching: text match with something that is no text.
    """
    return None if filters is None else _all(filters)


def _all(filters: MetadataFilters) -> Condition:
    if not filters.filters:
        return AnyOf(())
    parts = tuple(
        _all(one) if isinstance(one, MetadataFilters) else _condition(one) for one in filters.filters
    )
    condition = filters.condition or FilterCondition.AND
    if condition == FilterCondition.AND:
        return AllOf(parts)
    if condition == FilterCondition.OR:
        return AnyOf(parts)
    if condition == FilterCondition.NOT:
        return Negation(AnyOf(parts))
    raise InputError(f"Unknown filter condition {condition!r}.")


def in_documents(doc_ids: Sequence[str]) -> Condition:
    """That a node belongs to one of these documents; a passage that others wrote belongs to its source."""
    return AnyOf(
        (
            FieldTest((NODE_KEY, "ref_doc_id"), "in", tuple(doc_ids)),
            AllOf((FieldTest("source", "in", tuple(doc_ids)), Negation(_IS_NODE))),
        )
    )


def _condition(one: MetadataFilter) -> Condition:
    operator, operand = one.operator, one.value
    if operator == FilterOperator.IS_EMPTY:
        return Negation(_test(one.key, "call", lambda value: value is not None and value not in ("", [])))
    if operator == FilterOperator.NE:
        return Negation(_test(one.key, "in", _values((operand,))))
    if operator == FilterOperator.NIN:
        return Negation(_test(one.key, "in", _values(operand or ())))
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        return _test(one.key, "call", _text_match(one))
    if operator in (FilterOperator.ANY, FilterOperator.ALL):
        elements: Any = operand
        parts = tuple(_test(one.key, "contains", value) for value in elements)
        if operator == FilterOperator.ANY:
            return AnyOf(parts)
        return AllOf((_test(one.key, "call", lambda value: value is not None), *parts))
    op = _SINGLE.get(operator)
    if op is None:
        raise InputError(f"Unknown filter operator {operator!r}.")
    if op in ("eq", "in"):
        return _test(one.key, "in", _values(operand if op == "in" else (operand,)))
    return _test(one.key, op, operand)


def _values(operand: Any) -> tuple[object, ...]:
    """The elements of a filter's value, and truth values for their names. None equals nothing."""
    values = [value for value in operand if value is not None]
    names = {value.casefold() for value in values if isinstance(value, str)}
    return (*values, *(value for value, name in ((True, "true"), (False, "false")) if name in names))


def _test(key: str, op: str, value: object = None) -> Condition:
    """A test of what LlamaIndex shows of metadata: a node has no other `title` and `source` than theirs."""
    own = FieldTest(key, op, value, columns="none")
    if key not in ("title", "source"):
        return own
    return AnyOf((own, AllOf((FieldTest(key, op, value, columns="set"), Negation(_IS_NODE)))))


def _text_match(one: MetadataFilter) -> Callable[[object], bool]:
    part = one.value

    def test(value: object) -> bool:
        if value is None:
            return False
        if not isinstance(value, str) or not isinstance(part, str):
            raise InputTypeError(
                f"{one.operator.value} compares texts; metadata[{one.key!r}] is {value!r} and the filter's "
                f"value {part!r}."
            )
        if one.operator == FilterOperator.TEXT_MATCH_INSENSITIVE:
            return part.lower() in value.lower()
        return part in value

    return test


_SINGLE = {
    FilterOperator.EQ: "eq",
    FilterOperator.IN: "in",
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
    FilterOperator.CONTAINS: "contains",
}
