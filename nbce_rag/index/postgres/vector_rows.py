"""Vectors in PostgreSQL, in float32, and the nearest of them by pgvector."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cosines import cosines
from ..rows import Keys
from .conditions import Sql
from .database import Database, SqlRow
from .driver import pgvector

__all__ = ["VectorRows"]

_SPARE = 8  # more than were asked for, so that ties at the end are seen
_ROUNDING = 1e-5  # of cosines that pgvector computes in float32
_COARSE = 4  # times as many where the index holds vectors in 16 bits
_EF_SEARCH, _MOST_EF_SEARCH = 100, 1000  # of pgvector's graph
_HALF = "hnsw-halfvec"


class VectorRows(Database):
    """Vectors by the key of their passage. All of this has to be called inside `read()` or `write()`."""

    def vectors_of(self, keys: Iterable[int], dimension: int) -> tuple[Keys, NDArray[np.float32]]:
        """Keys [n], ascending, and vectors [n, d] of keys that are there."""
        order = sorted(keys)
        rows = self._rows(
            "SELECT key, embedding, crc FROM vectors WHERE key = ANY(%s::bigint[]) ORDER BY key", (order,)
        )
        if len(rows) != len(order):
            raise self.damage("lacks vectors")
        return np.array(order, dtype=np.int64), self._array(rows, dimension)

    def vectors_by_id(self, ids: Iterable[str], dimension: int) -> dict[str, NDArray[np.float32]]:
        """Vectors [d] by the id of their passage; unknown ids are left out."""
        keys = self.keys_by_id(ids)
        order, vectors = self.vectors_of(keys.values(), dimension)
        places = {int(key): place for place, key in enumerate(order)}
        return {passage_id: vectors[places[key]] for passage_id, key in keys.items()}

    def keys_by_id(self, ids: Iterable[str]) -> dict[str, int]:
        """Keys of passages by their id; unknown ids are left out."""
        raise NotImplementedError

    def ranked_by_vector(
        self,
        queries: NDArray[np.float32],
        k: int,
        choice: Sql,
        factory: str | None,
        options: Mapping[str, int],
    ) -> list[dict[int, float]]:
        """Keys and cosines of the k nearest to each query, of all as near as the last, and of some others.

        Args:
            queries: Normalised, [q, d].
            k: At least 1.
            choice: What the passages have to meet.
            factory: Of the graph by which they are found; None compares all that meet the choice.
            options: `efSearch` of the graph.
        """
        if factory is not None:
            ef_search = min(max(options.get("efSearch", _EF_SEARCH), k), _MOST_EF_SEARCH)
            self._connection.execute(f"SET LOCAL hnsw.ef_search = {ef_search}".encode())
        rankings = [self._nearest(query, k, choice, factory) for query in queries]
        every = {key for keys in rankings for key in keys}
        order, vectors = self.vectors_of(every, queries.shape[1])
        results = []
        for query, keys in zip(queries, rankings, strict=True):
            rows = np.searchsorted(order, np.array(sorted(keys), dtype=np.int64))
            results.append(cosines(query, order[rows], vectors[rows]))
        return results

    def _nearest(self, query: NDArray[np.float32], k: int, choice: Sql, factory: str | None) -> list[int]:
        limit = k + _SPARE if factory != _HALF else _COARSE * k + _SPARE
        while True:
            rows = self._by_distance(query, limit, choice, factory)
            if len(rows) < limit and factory is not None:
                factory = None  # a graph may end before all of what is rare among its vectors is seen
                continue
            is_settled = factory is not None or len(rows) < limit or rows[-1][1] - rows[k - 1][1] > _ROUNDING
            if is_settled:
                return [row[0] for row in rows]
            limit *= 4

    def _by_distance(
        self, query: NDArray[np.float32], limit: int, choice: Sql, factory: str | None
    ) -> list[SqlRow]:
        vector: Any = pgvector.Vector(query)
        distance = "v.embedding <#> %s::vector"
        if factory == _HALF:
            size = len(query)
            distance = f"v.embedding::halfvec({size}) <#> %s::vector::halfvec({size})"
        elif factory is None:
            distance = f"({distance}) + 0"  # which no graph is looked up for
        join = "" if choice.text == "TRUE" else "JOIN passages p USING (key)"
        return self._asked(
            f"SELECT v.key, {distance} AS distance FROM vectors v {join} WHERE {choice.text} "
            f"ORDER BY {distance} LIMIT %s",
            (vector, *choice.values, vector, limit),
        )

    def _array(self, rows: list[SqlRow], dimension: int) -> NDArray[np.float32]:
        """Vectors [n, d] of rows of key, vector and checksum."""
        vectors = np.empty((len(rows), dimension), np.float32)
        for place, (key, vector, crc) in enumerate(rows):
            values = vector.to_numpy()
            if len(values) != dimension or zlib.crc32(values.astype("<f4", copy=False).tobytes()) != crc:
                raise self.damage(f"holds a damaged vector (of passage {key})")
            vectors[place] = values
        return vectors
