"""The database of an index: transactions, what every part of the storage asks with, and opening it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ...errors import IndexDamagedError, PassageIndexError
from . import schema
from .address import Address
from .connections import Connection, Connections
from .driver import psycopg
from .failures import failures, not_found

__all__ = ["Database", "SqlRow"]

SqlRow = tuple[Any, ...]
"""What PostgreSQL gives of a row; the query says what is in it."""

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
_RESTORE = "restore it from a backup, or drop its schema and index the documents again."


class Database:
    """One index in one database. Safe to use from several threads, after a fork, from several machines."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._connections = Connections(address, timeout)
        self._here = threading.local()  # the connection of the transaction that a thread is in

    @classmethod
    def create(cls, address: Address, meta: Mapping[str, str], timeout: float) -> bool:
        """Makes the tables unless they are there. Returns whether they were made."""
        database = cls(address, timeout)
        try:
            with (
                failures(address, timeout, changing=True),
                database._connections.transaction(_WRITE) as connection,
            ):
                return schema.create(connection, address.schema, meta)
        finally:
            database.close()

    @classmethod
    def open(cls, address: Address, timeout: float) -> Self:
        """Connects, and checks that there is an index of a version that can be read."""
        database = cls(address, timeout)
        try:
            with database.read() as connection:
                if not schema.has_index(connection):
                    raise not_found(address)
                version = int(database.meta().get("version", "0"))
            if not 1 <= version <= schema.VERSION:
                raise PassageIndexError(
                    f"The index at {address.shown} has version {version} and this nbce-rag reads those up to "
                    f"{schema.VERSION}: install a newer nbce-rag."
                )
            if version < schema.VERSION:
                database._migrate()
        except BaseException:
            database.close()
            raise
        return database

    @property
    def location(self) -> str:
        """The URL without a password."""
        return self.address.shown

    @property
    def folder(self) -> Path | None:
        """None: it has no folder."""
        return None

    def close(self) -> None:
        """Closes the connections. Doing it twice does no harm."""
        self._connections.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot: everything that is read inside, by this thread, is of one state."""
        inside = self._current()
        if inside is not None:
            yield inside
            return
        with self._transaction(_READ, changing=False) as connection:
            self._here.is_reading = True
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """All changes inside are made at once at its end, or none of them when it ends in an exception.

        Raises:
            IndexLockedError: Another process was writing for longer than the timeout.
        """
        inside = self._current()
        if inside is not None:
            # A filter given to search may look something up, but not change what is searched.
            if self._here.is_reading:
                raise PassageIndexError("An index cannot be changed from inside a filter of its own search.")
            yield inside
            return
        with self._transaction(_WRITE, changing=True) as connection:
            self._here.is_reading = False
            # Whoever else writes waits for this row. Each statement then sees what was committed before.
            connection.execute("SELECT generation FROM state FOR UPDATE")
            yield connection

    def damage(self, description: str) -> IndexDamagedError:
        """The error for data that cannot be trusted, such as "holds a damaged vector"."""
        return IndexDamagedError(f"The index at {self.location} {description}: {_RESTORE}")

    def meta(self) -> dict[str, str]:
        """What was recorded when the index was made."""
        meta = {str(key): str(value) for key, value in self._rows("SELECT key, value FROM meta")}
        if not meta.keys() >= {"index", "embedder", "embedder_kind", "dimension", "factory"}:
            raise self.damage("does not say which embedder it was made with")
        return meta

    def set_meta(self, key: str, value: str) -> None:
        """Records something about the index."""
        self._execute("UPDATE meta SET value = %s WHERE key = %s", (value, key))

    def _migrate(self) -> None:
        with self.write() as connection:
            version = int(self.meta()["version"])  # another process may have been faster
            schema.migrate(connection, version)

    def _current(self) -> Connection | None:
        connection: Connection | None = getattr(self._here, "connection", None)
        return connection

    @contextmanager
    def _transaction(self, begin: str, *, changing: bool) -> Iterator[Connection]:
        with (
            failures(self.address, self._timeout, changing=changing),
            self._connections.transaction(begin) as connection,
        ):
            self._here.connection = connection
            try:
                yield connection
            finally:
                self._here.connection = None

    @property
    def _connection(self) -> Connection:
        connection = self._current()
        assert connection is not None  # inside `read()` or `write()`
        return connection

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[SqlRow]:
        """The rows of a query; numbers and vectors travel as they are."""
        with self._connection.cursor(binary=True) as cursor:
            return cursor.execute(query.encode(), values).fetchall()

    def _asked(self, query: str, values: Sequence[Any] = ()) -> list[SqlRow]:
        """The rows of a query with any number of values, which the planner knows when it plans."""
        with psycopg.ClientCursor(self._connection) as cursor:
            return cursor.execute(query.encode(), values).fetchall()

    def _execute(self, query: str, values: Sequence[Any] = ()) -> int:
        """Makes a change. Returns how many rows it was of."""
        return int(self._connection.execute(query.encode(), values).rowcount)

    def _without_limit(self) -> None:
        """Lets this transaction take as long as it needs."""
        self._connection.execute("SET LOCAL statement_timeout = 0")
