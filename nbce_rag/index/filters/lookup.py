"""Conditions as sets of keys, looked up in SQLite; what SQLite cannot say is asked of the passages left."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from ..rows import Keys
from ..sqlite.attributes import attribute_name, scalar
from ..sqlite.database import SqlRow
from ..sqlite.storage import Storage
from .conditions import AllOf, AnyOf, Condition, Fields, FieldTest, Negation

__all__ = ["KeyFinder"]

Clause: TypeAlias = tuple[str, SqlRow, bool]
"""SQL over kind and value, its values, and whether what it finds need not be looked at again."""

_ORDER = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_COLUMNS = ("id", "source", "title")
_READ_UP_TO = 512  # passages whose metadata are read sooner than a further condition is looked up
_COUNT_LIMIT = 20_000


class KeyFinder:
    """Finds the keys of the passages that meet conditions.

    Args:
        storage: Has to stay inside `read()` meanwhile.
        all_keys: Gives all keys.
    """

    def __init__(self, storage: Storage, all_keys: Callable[[], Keys]) -> None:
        self._storage = storage
        self._all_keys = all_keys

    def find(self, condition: Condition, among: Keys | None = None) -> Keys:
        """The keys, ascending, of those passages that meet the condition, of all or of some."""
        if among is not None and len(among) <= _READ_UP_TO:
            return self._ask(condition, among)
        if isinstance(condition, AllOf):
            # The narrowest first: of what it leaves, the others are asked.
            for part in sorted(condition.parts, key=self._breadth):
                among = self.find(part, among)
            return self._all_keys() if among is None else among
        if isinstance(condition, AnyOf):
            return _union([self.find(part, among) for part in condition.parts])
        if isinstance(condition, Negation):
            base = self._all_keys() if among is None else among
            return np.setdiff1d(base, self.find(condition.part, among), assume_unique=True)
        if isinstance(condition, FieldTest):
            keys = self._test(condition)
            return keys if among is None else np.intersect1d(keys, among, assume_unique=True)
        return self._ask(condition, among)

    def _breadth(self, condition: Condition) -> int:
        """About how many passages meet a condition; anything large where that is not quickly said."""
        if isinstance(condition, AnyOf):
            return sum(map(self._breadth, condition.parts))
        if isinstance(condition, AllOf):
            return min(map(self._breadth, condition.parts), default=_COUNT_LIMIT)
        if not isinstance(condition, FieldTest):
            return 10 * _COUNT_LIMIT
        if condition.key == "id" and condition.op in ("eq", "in"):
            return len(condition.value) if condition.op == "in" else 1
        if condition.op == "call" or condition.key in _COLUMNS or "." in condition.key:
            return _COUNT_LIMIT - 1
        clauses = _clauses(condition)
        return sum(
            self._storage.count_attributes(attribute_name(condition.key), clause, values, _COUNT_LIMIT)
            for clause, values, _ in clauses
        )

    def _test(self, test: FieldTest) -> Keys:
        parts = self._rows(test, attribute_name(test.key))
        if isinstance(test.key, str) and "." in test.key:
            parts.append(self._nested(test, test.key))
        if isinstance(test.key, str) and test.key in _COLUMNS and test.columns != "none":
            parts.append(self._column(test, test.key))
        return _union(parts)

    def _rows(self, test: FieldTest, name: str) -> list[Keys]:
        """Those of which the rows of a name meet a test, in parts."""
        parts: list[Keys] = []
        for clause, values, sure in _clauses(test):
            if test.op == "call":
                rows = self._storage.attributes(name, clause, values)
                parts.append(_keys([(key,) for key, kind, value in rows if test.meets(_plain(kind, value))]))
                continue
            keys = _keys(self._storage.attribute_keys(name, clause, values))
            parts.append(keys if sure else self._ask(test, keys))
        if test.op == "call":
            parts.append(
                self._ask(test, _keys(self._storage.attribute_keys(name, "kind IN ('l','a','d')", ())))
            )
        return parts

    def _nested(self, test: FieldTest, key: str) -> Keys:
        """Those that meet a test by the path that a dotted key is, because they have no such key."""
        first, second, *deeper = key.split(".")
        name = attribute_name((first, second))
        if deeper:
            keys = self._ask(test, _keys(self._storage.attribute_keys(name, "kind = 'd'", ())))
        else:
            keys = _union(self._rows(test, name))
        return np.setdiff1d(keys, self._having(key), assume_unique=True)

    def _having(self, key: str) -> Keys:
        """Those whose metadata have a key."""
        kinds = "kind IN ('n','b','s','z','l','a','d')"
        return _keys(self._storage.attribute_keys(attribute_name(key), kinds, ()))

    def _column(self, test: FieldTest, column: str) -> Keys:
        """Those whose own `id`, `source` or `title` meets a test, because their metadata have no such key."""
        if test.op in ("eq", "in"):
            operands = [test.value] if test.op == "eq" else list(test.value)
            rows = self._storage.column_in(column, [value for value in operands if isinstance(value, str)])
            if test.columns == "any" and any(value is None for value in operands):
                rows += self._storage.column_empty(column)
            keys = _keys(rows)
        else:
            values = self._storage.column(column)
            keys = _keys(
                [
                    (key,)
                    for key, value in values
                    if (value is not None or test.columns == "any") and test.meets(value)
                ]
            )
        return np.setdiff1d(keys, self._having(column), assume_unique=True)

    def _ask(self, condition: Condition, among: Keys | None) -> Keys:
        """Reads metadata and asks the condition itself, of some passages or of all."""
        if among is not None and not len(among):
            return among
        rows = self._storage.fields(None if among is None else among.tolist())
        return _keys(
            [
                (key,)
                for key, passage_id, source, title, metadata in rows
                if condition.holds(
                    Fields(
                        self._storage.metadata(metadata),
                        {"id": passage_id, "source": source, "title": title},
                    )
                )
            ]
        )


def _clauses(test: FieldTest) -> list[Clause]:
    """What is to be looked up of a test, in parts of which any will do."""
    if test.op == "exists":
        return [("kind IN ('n','b','s','z','l','a','d')", (), True)]
    if test.op == "call":
        return [("kind IN ('n','b','s','z')", (), True)]
    if test.op in ("eq", "in"):
        clauses: list[Clause] = []
        look_up = False
        for value in [test.value] if test.op == "eq" else test.value:
            stored = scalar(value)
            look_up |= stored is None
            if stored is not None:
                clauses.append(("kind = ? AND value = ?", stored, True))
        return [*clauses, ("kind IN ('l','a','d')", (), False)] if look_up else clauses
    if test.op == "contains":
        stored = scalar(test.value)
        clauses = [("kind IN ('L','l','d')", (), False)]
        if stored is None:
            clauses.append(("kind = 'a'", (), False))
        else:
            clauses.append(("kind = ? AND value = ?", (stored[0].upper(), stored[1]), True))
        if isinstance(test.value, str) and "\0" not in test.value:
            clauses.append(("kind = 's' AND instr(value, ?)", (test.value,), True))
        return clauses
    if test.op == "range":
        (low, least), (high, most) = test.value
        bounds = scalar(least), scalar(most)
        if all(bound is not None and bound[0] == "n" for bound in bounds):
            values = tuple(bound[1] for bound in bounds if bound)
            clause = f"value {_ORDER[low]} ? AND value {_ORDER[high]} ?"
            return [(f"kind = 'n' AND {clause}", values, True), ("kind = 'l'", (), False)]
        return [("kind IN ('n','s','l')", (), False)]
    stored = scalar(test.value)
    if stored is not None and stored[0] == "b":  # which has no order
        return []
    if stored is not None and stored[0] in "ns":
        kind = stored[0]
        sure = (f"kind = '{kind}' AND value {_ORDER[test.op]} ?", (stored[1],), True)
        return [sure, ("kind = 'l'", (), False)]
    return [("kind IN ('n','s','l')", (), False)]  # a huge number, a long text, or nothing with an order


def _plain(kind: str, value: object) -> object:
    return bool(value) if kind == "b" else None if kind == "z" else value


def _union(parts: list[Keys]) -> Keys:
    if len(parts) == 1:
        return parts[0]
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


def _keys(rows: Iterable[tuple[int]]) -> Keys:
    keys = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64)
    if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
        keys = np.sort(keys)
        keys = keys[np.concatenate([[True], keys[1:] > keys[:-1]])]
    return keys
