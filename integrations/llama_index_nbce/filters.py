"""`MetadataFilters`, nested at will: which passages meet them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from nbce_rag.errors import InputError

__all__ = ["meets"]


def meets(metadata: Mapping[str, Any], filters: MetadataFilters | None) -> bool:
    """Whether metadata meet filters, by the rules of LlamaIndex's own store, and nested ones too.

    A key that is missing or None meets `!=`, `nin` and `is_empty`, and nothing else. No filters are met.

    Raises:
        TypeError: text match with something that is no text, or an order between unlike types.
        InputError: an unknown operator or condition.
    """
    if filters is None or not filters.filters:
        return True
    results = [
        meets(metadata, one) if isinstance(one, MetadataFilters) else _matches(metadata, one)
        for one in filters.filters
    ]
    condition = filters.condition or FilterCondition.AND
    if condition == FilterCondition.AND:
        return all(results)
    if condition == FilterCondition.OR:
        return any(results)
    if condition == FilterCondition.NOT:
        return not any(results)
    raise InputError(f"Unknown filter condition {condition!r}.")


def _matches(metadata: Mapping[str, Any], one: MetadataFilter) -> bool:
    value = metadata.get(one.key)
    operator, wanted = one.operator, one.value
    if operator == FilterOperator.IS_EMPTY:
        return value is None or value == "" or value == []
    if value is None:
        return operator in (FilterOperator.NE, FilterOperator.NIN)
    if operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        if not isinstance(value, str) or not isinstance(wanted, str):
            raise TypeError(
                f"{operator.value} compares texts; metadata[{one.key!r}] is {value!r} and the filter's value "
                f"{wanted!r}."
            )
        if operator == FilterOperator.TEXT_MATCH_INSENSITIVE:
            return wanted.lower() in value.lower()
        return wanted in value
    compare: Any = _COMPARE.get(operator)
    if compare is None:
        raise InputError(f"Unknown filter operator {operator!r}.")
    return bool(compare(value, wanted))


_COMPARE = {
    FilterOperator.EQ: lambda value, wanted: value == wanted,
    FilterOperator.NE: lambda value, wanted: value != wanted,
    FilterOperator.GT: lambda value, wanted: value > wanted,
    FilterOperator.GTE: lambda value, wanted: value >= wanted,
    FilterOperator.LT: lambda value, wanted: value < wanted,
    FilterOperator.LTE: lambda value, wanted: value <= wanted,
    FilterOperator.IN: lambda value, wanted: value in wanted,
    FilterOperator.NIN: lambda value, wanted: value not in wanted,
    FilterOperator.CONTAINS: lambda value, wanted: wanted in value,
    FilterOperator.ALL: lambda value, wanted: all(one in value for one in wanted),
    FilterOperator.ANY: lambda value, wanted: any(one in value for one in wanted),
}
