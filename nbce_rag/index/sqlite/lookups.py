"""What filters and searches for words look up in SQLite: attributes, columns of passages, words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import IndexDamagedError
from .database import Database, SqlRow

__all__ = ["Lookups"]


class Lookups(Database):
    """Questions of filters. All of this has to be called inside `read()` or `write()`."""

    def fields(self, keys: Iterable[int] | None) -> Iterator[tuple[int, str, str | None, str | None, str]]:
        """Key, id, source, title and metadata (JSON) of some passages, or of all."""
        query = "SELECT key, id, source, title, metadata FROM passages"
        if keys is None:
            yield from self._connection.execute(query)
        else:
            for row in self._select(f"{query} WHERE key", keys):
                yield row[0], row[1], row[2], row[3], row[4]

    def attributes(self, name: str, clause: str, values: SqlRow) -> list[tuple[int, str, Any]]:
        """Key, kind and value of the rows of a name that meet SQL."""
        return self._attributes("key, kind, value", name, clause, values).fetchall()

    def attribute_keys(self, name: str, clause: str, values: SqlRow) -> Iterator[tuple[int]]:
        """Keys of the rows of a name that meet SQL, each in a tuple of its own."""
        return iter(self._attributes("key", name, clause, values))

    def count_attributes(self, name: str, clause: str, values: SqlRow, limit: int) -> int:
        """How many rows of a name meet SQL, counted up to a limit."""
        cursor = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM attributes "
            "WHERE name = (SELECT id FROM names WHERE name = ?) "
            f"AND {clause} LIMIT ?)",
            (name, *values, limit),
        )
        return int(cursor.fetchone()[0])

    def kinds_of(self, name: str) -> list[str]:
        """Kinds of values that a name has, but for elements of lists."""
        rows = self._attributes("DISTINCT kind", name, "kind IN ('n','b','s','z','l','a','d')", ())
        return [row[0] for row in rows]

    def names(self, limit: int) -> list[str]:
        """Some names of metadata, in their order."""
        rows = self._connection.execute(
            "SELECT name FROM names WHERE id IN (SELECT name FROM attributes) ORDER BY name LIMIT ?", (limit,)
        )
        return [row[0] for row in rows]

    def column(self, column: str) -> Iterator[tuple[int, str | None]]:
        """Key and `id`, `source` or `title` of every passage."""
        return iter(self._connection.execute(f"SELECT key, {column} FROM passages"))

    def column_in(self, column: str, values: list[str]) -> list[tuple[int]]:
        """Keys of the passages whose `id`, `source` or `title` is one of the values, each in a tuple."""
        return [(row[0],) for row in self._select(f"SELECT key FROM passages WHERE {column}", values)]

    def column_empty(self, column: str) -> list[tuple[int]]:
        """Keys of the passages without `source` or `title`, each in a tuple of its own."""
        return self._connection.execute(f"SELECT key FROM passages WHERE {column} IS NULL").fetchall()

    def match_words(self, expression: str, limit: int) -> list[tuple[int, float]]:
        """Keys and BM25 scores, best first, of the passages that match an expression of FTS5."""
        query = "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?"
        try:
            return self._connection.execute(query, (expression, limit)).fetchall()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 1) & 0xFF not in (
                sqlite3.SQLITE_CORRUPT,
                sqlite3.SQLITE_ERROR,
            ):
                raise
            raise IndexDamagedError(
                f"The words of the index at {self.file.parent} are damaged ({error}): `nbce-rag index "
                "--rebuild` makes them anew."
            ) from error

    def _attributes(self, columns: str, name: str, clause: str, values: SqlRow) -> sqlite3.Cursor:
        return self._connection.execute(
            f"SELECT {columns} FROM attributes "
            f"WHERE name = (SELECT id FROM names WHERE name = ?) AND {clause}",
            (name, *values),
        )
