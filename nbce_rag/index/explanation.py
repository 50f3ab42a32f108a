"""Why no passage meets a condition: which part of it excluded everything."""

from __future__ import annotations

from typing import Any

from ..values import shown
from .filters.conditions import AllOf, AnyOf, Condition, FieldTest, Negation
from .storage import PassageStorage

__all__ = ["describe", "explain"]

_SIGNS = {"eq": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "contains": "contains"}
_COLUMNS = ("id", "source", "title")
_EXAMPLES = 12
_KINDS = {"n": "numbers", "b": "booleans", "s": "texts", "z": "null", "a": "lists", "d": "mappings"}


def explain(condition: Condition, storage: PassageStorage[Any]) -> str:
    """What excluded every passage, in a sentence; to be called inside `read()`.

    Args:
        condition: One that no passage meets.
        storage: Of the index.
    """
    parts = _parts(condition)
    counts = [len(storage.matching(part)) for part in parts]
    guilty = [part for part, count in zip(parts, counts, strict=True) if not count]
    total = storage.state().passages
    if guilty:
        causes = "; ".join(f"{describe(part)}{_hint(part, storage)}" for part in guilty)
        return f"Of {total:,} passages none meets {causes}."
    met = "; ".join(f"{describe(part)}: {count:,}" for part, count in zip(parts, counts, strict=True))
    return f"Of {total:,} passages none meets all conditions at once ({met})."


def describe(condition: Condition) -> str:
    """A condition in words."""
    if isinstance(condition, FieldTest):
        return _test(condition)
    if isinstance(condition, Negation):
        return f"not ({describe(condition.part)})"
    if isinstance(condition, AllOf | AnyOf):
        word = " and " if isinstance(condition, AllOf) else " or "
        return word.join(describe(part) for part in condition.parts[:_EXAMPLES]) or "nothing"
    return "the callable"


def _parts(condition: Condition) -> list[Condition]:
    if isinstance(condition, AllOf) and condition.parts:
        return [one for part in condition.parts for one in _parts(part)]
    return [condition]


def _test(test: FieldTest) -> str:
    key = ".".join(test.key) if isinstance(test.key, tuple) else test.key
    if test.op == "exists":
        return f"{key} exists"
    if test.op == "call":
        return f"{key} (a callable)"
    if test.op == "in":
        return f"{key} = {' or '.join(map(shown, test.value[:_EXAMPLES])) or 'one of none'}"
    if test.op == "range":
        return " and ".join(f"{key} {_SIGNS[op]} {shown(bound)}" for op, bound in test.value)
    return f"{key} {_SIGNS.get(test.op, test.op)} {shown(test.value)}"


def _hint(condition: Condition, storage: PassageStorage[Any]) -> str:
    """What there is in the place of what was asked for, where a condition asks about one key."""
    keys = _keys(condition)
    if len(keys) != 1 or not isinstance(key := keys.pop(), str) or key in _COLUMNS:
        return ""
    first, dot, rest = key.partition(".")
    paths: list[str | tuple[str, str]] = [key, *([(first, rest)] if dot else [])]
    kinds = sorted({kind for path in paths for kind in storage.kinds_of(path)})
    if kinds:
        what = " and ".join(dict.fromkeys(_KINDS.get(kind, "long values") for kind in kinds))
        return f" (values of {key} are {what})"
    there = storage.names(_EXAMPLES)
    return f" (no metadata have {shown(key)}; they have {', '.join(there) or 'nothing'})"


def _keys(condition: Condition) -> set[str | tuple[str, str]]:
    if isinstance(condition, FieldTest):
        return {condition.key}
    if isinstance(condition, Negation):
        return _keys(condition.part)
    parts = condition.parts if isinstance(condition, AllOf | AnyOf) else ()
    return {key for part in parts for key in _keys(part)}
