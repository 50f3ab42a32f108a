"""What filters and searches for words look up in SQLite: attributes, columns of passages, words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import IndexDamagedError
from .attributes import PATH, attribute_name
from .database import Database, SqlRow
from .words import match_expression

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

    def kinds_of(self, key: str | tuple[str, str]) -> list[str]:
        """Kinds of the values of a key, or of a path of two (`attributes.AttributeRow`)."""
        kinds = "kind IN ('n','b','s','z','l','a','d')"
        rows = self._attributes("DISTINCT kind", attribute_name(key), kinds, ())
        return [row[0] for row in rows]

    def names(self, limit: int) -> list[str]:
        """Some keys of metadata, in their order; dotted ones are paths."""
        rows = self._connection.execute(
            "SELECT name FROM names WHERE id IN (SELECT name FROM attributes) ORDER BY name LIMIT ?", (limit,)
        )
        return [row[0].replace(PATH, ".") for row in rows]

    def column(self, column: str) -> Iterator[tuple[int, str | None]]:
        """Key and `id`, `source` or `title` of every passage."""
        return iter(self._connection.execute(f"SELECT key, {column} FROM passages"))

    def column_in(self, column: str, values: list[str]) -> list[tuple[int]]:
        """Keys of the passages whose `id`, `source` or `title` is one of the values, each in a tuple."""
        return [(row[0],) for row in self._select(f"SELECT key FROM passages WHERE {column}", values)]

    def column_empty(self, column: str) -> list[tuple[int]]:
        """Keys of the passages without `source` or `title`, each in a tuple of its own."""
        return self._connection.execute(f"SELECT key FROM passages WHERE {column} IS NULL").fetchall()

    def match_words(self, terms: Iterable[str], limit: int) -> list[int]:
        """Keys of passages that have any of these terms, the best by BM25 first."""
        query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?"
        return [row[0] for row in self._words(query, (match_expression(terms), limit))]

    def count_words(self, term: str, limit: int) -> int:
        """How many passages have a term, counted up to a limit."""
        query = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        return int(self._words(query, (match_expression([term]), limit))[0][0])

    def _words(self, query: str, values: SqlRow) -> list[SqlRow]:
        try:
            return self._connection.execute(query, values).fetchall()
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
