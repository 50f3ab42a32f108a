"""An index in PostgreSQL as `storage.PassageStorage` has it: what is found, and its upkeep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..encoder import Encoder
from ..filters.conditions import IS_GENERATED, Condition, Fields, mentions
from ..reports import CheckReport
from ..rows import Keys
from . import schema
from .conditions import EVERYTHING, Sql, all_of, calls, sql_of
from .health import check, rebuild
from .passage_rows import PassageRows
from .values import decoded, encoded

__all__ = ["Choice", "PostgresStorage"]

_EXACT_UP_TO = 20_000  # vectors are compared sooner than a graph is trusted to find what a filter leaves
_KINDS = {"number": "n", "boolean": "b", "string": "s", "null": "z", "array": "a", "object": "d"}


@dataclass(frozen=True)
class Choice:
    """From which passages a search chooses.

    Attributes:
        sql: What they meet.
        graph: By which factory's graph the nearest are found; None compares all of them.
    """

    sql: Sql
    graph: str | None


class PostgresStorage(PassageRows):
    """The passages of an index in a database."""

    def matching(self, condition: Condition | None, ids: Iterable[str] | None = None) -> Keys:
        """Keys of all passages that meet a condition; of those of some ids, or of all."""
        among = EVERYTHING if ids is None else Sql("p.id = ANY(%s)", ([encoded(text) for text in ids],))
        if condition is None:
            return _keys(self._keys(among))
        if not calls(condition):
            sure = self._keys(all_of([among, Sql("NOT p.odd"), sql_of(condition)]))
            return _keys(sure + self._asked_of(condition, all_of([among, Sql("p.odd")])))
        may_be = all_of([among, _either(Sql("p.odd"), sql_of(condition))])
        return _keys(self._asked_of(condition, may_be))

    def choose(
        self,
        condition: Condition | None,
        ids: Iterable[str] | None,
        *,
        generated: bool,
        is_last: bool = True,
    ) -> Choice | None:
        """From which passages a search chooses; None where there are none."""
        made = sql_of(IS_GENERATED)
        query = (
            "SELECT passages, (SELECT value FROM meta WHERE key = 'factory'), EXISTS (SELECT FROM passages p "
            f"WHERE p.odd), EXISTS (SELECT FROM passages p WHERE {made.text}) FROM state"
        )
        passages, factory, has_odd, has_made = self._asked(query, made.values)[0]
        graph = factory if factory not in ("auto", "flat") else None
        parts: list[Sql] = []
        if has_made and not (generated or (condition and mentions(condition, "origin"))):
            parts.append(Sql(f"NOT {made.text}", made.values))
        if ids is not None:
            ids = list(ids)
            parts.append(Sql("p.id = ANY(%s)", ([encoded(text) for text in ids],)))
        if condition is not None:
            if calls(condition) or has_odd:
                keys = self.matching(condition, ids).tolist()
                parts.append(Sql("p.key = ANY(%s::bigint[])", (keys,)))
            else:
                parts.append(sql_of(condition))
        sql = all_of(parts)
        if not parts:
            return Choice(sql, graph) if passages else None
        if graph is None:
            query = f"SELECT EXISTS (SELECT FROM passages p WHERE {sql.text})"
            return Choice(sql, None) if self._asked(query, sql.values)[0][0] else None
        query = f"SELECT count(*) FROM (SELECT FROM passages p WHERE {sql.text} LIMIT %s) AS chosen"
        count = self._asked(query, (*sql.values, _EXACT_UP_TO + 1))[0][0]
        return Choice(sql, graph if count > _EXACT_UP_TO else None) if count else None

    def nearest(
        self, queries: NDArray[np.float32], k: int, choice: Choice, options: Mapping[str, int]
    ) -> list[dict[int, float]]:
        """Keys and cosines of the k nearest to each query, of all as near as the last, and of some others."""
        return self.ranked_by_vector(queries, k, choice.sql, choice.graph, options)

    def by_words(self, terms: Sequence[str], depth: int, choice: Choice) -> list[int]:
        """Keys of passages that have any of these terms, up to `depth`, the best by BM25 first."""
        return self.ranked_by_words(terms, depth, choice.sql)

    def kinds_of(self, key: str | tuple[str, str]) -> list[str]:
        """Kinds of the values of a key, or of a path of two, by their letter."""
        path = key if isinstance(key, tuple) else (key,)
        if "\0" in "".join(path):
            return []
        value = "attributes" + " -> %s::text" * len(path)
        rows = self._rows(f"SELECT DISTINCT jsonb_typeof({value}) FROM passages", path)
        return sorted(_KINDS[row[0]] for row in rows if row[0] is not None)

    def names(self, limit: int) -> list[str]:
        """Some keys of metadata, in their order; dotted ones are paths."""
        rows = self._rows(
            "WITH pairs AS (SELECT e.key AS name, e.value FROM passages p, jsonb_each(p.attributes) e) "
            'SELECT DISTINCT name COLLATE "C" AS name FROM (SELECT name FROM pairs UNION ALL '
            "SELECT pairs.name || '.' || inner_name FROM pairs, jsonb_object_keys(CASE jsonb_typeof(value) "
            "WHEN 'object' THEN value ELSE '{}' END) AS inner_name) AS every ORDER BY name LIMIT %s",
            (limit,),
        )
        return [row[0] for row in rows]

    # Upkeep

    def save(self) -> None:
        """Nothing: what was stored is stored."""

    def compact(self, factory: str | None) -> None:
        """Makes pgvector's graph of the vectors anew, by a factory from now on, or as before."""
        with self.read():
            meta = self.meta()
        dimension = int(meta["dimension"])
        factory = schema.check_factory(meta["factory"] if factory is None else factory, dimension)
        with self.write() as connection:
            self._without_limit()
            schema.drop_hnsw(connection)
            if factory not in ("auto", "flat"):
                schema.create_hnsw(connection, factory, dimension)
            self.set_meta("factory", factory)
            for table in ("passages", "vectors", "terms"):
                connection.execute(f"ANALYZE {table}".encode())  # the planner knows what there is at once

    def check(self) -> CheckReport:
        """Reads everything and says what is wrong."""
        return check(self)

    def rebuild(self, encoder: Encoder) -> None:
        """Makes anew what filters and words look up, and the graph; missing vectors are embedded."""
        rebuild(self, encoder)
        self.compact(None)

    def _keys(self, sql: Sql) -> list[int]:
        rows = self._asked(f"SELECT p.key FROM passages p WHERE {sql.text}", sql.values)
        return [row[0] for row in rows]

    def _asked_of(self, condition: Condition, sql: Sql) -> list[int]:
        """Keys of the passages, among those that meet SQL, of which the condition itself holds."""
        rows = self._asked(
            f"SELECT p.key, p.id, p.source, p.title, p.metadata FROM passages p WHERE {sql.text}", sql.values
        )
        keys = []
        for key, *columns, metadata in rows:
            texts = [None if text is None else decoded(text) for text in columns]
            own = dict(zip(("id", "source", "title"), texts, strict=True))
            if condition.holds(Fields(self.metadata(decoded(metadata)), own)):
                keys.append(key)
        return keys


def _either(one: Sql, other: Sql) -> Sql:
    return Sql(f"({one.text} OR {other.text})", (*one.values, *other.values))


def _keys(keys: list[int]) -> Keys:
    return np.array(sorted(keys), dtype=np.int64)
