"""The connections of one index to its database: some that are kept, and what a new one is told."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from ...errors import PassageIndexError
from .address import Address
from .driver import pgvector, psycopg
from .failures import unreachable

__all__ = ["Connection", "Connections"]

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

_PGVECTOR = (0, 8)  # the first that goes on through an index of vectors when a filter drops what it found
_VECTOR = "SELECT extversion, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
# A connection must not be used, nor closed, in a process that was forked after it was opened.
_forked: list[object] = []


class Connections:
    """Connections that several threads take turns with.

    psycopg_pool connects in threads of its own, so that a wrong password is told only when a wait for a
    connection has ended; here it is told at once.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._closed = False
        self._settings = ""  # of each transaction, since a pooler may give each another session
        self._begin_anew()

    @contextmanager
    def transaction(self, begin: str) -> Iterator[Connection]:
        """A connection in a transaction that `begin` has opened, committed at the end or rolled back.

        A connection that is kept may have died with the server: it is found out here, and another is made.

        Raises:
            PassageIndexError: There is none to be had.
        """
        if os.getpid() != self._pid:
            _forked.append(self._idle)
            self._begin_anew()
        if self._closed:
            raise PassageIndexError(f"The index at {self._address.shown} is closed: open it again.")
        if not self._places.acquire(timeout=self._timeout):
            raise PassageIndexError(
                f"All {self._address.connections} connections to {self._address.shown} were in use for "
                f"{self._timeout:g} s: allow more with ?connections=N in the URL."
            )
        try:
            connection = self._begun(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._put_back(connection)
        finally:
            self._places.release()

    def close(self) -> None:
        """Closes all that are kept. Doing it twice does no harm."""
        self._closed = True
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().close()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._places = threading.BoundedSemaphore(self._address.connections)

    def _begun(self, begin: str) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
                connection.execute((begin + self._settings).encode())
                return connection
            try:
                connection.execute((begin + self._settings).encode())
                return connection
            except (psycopg.OperationalError, psycopg.InterfaceError):
                connection.close()

    def _put_back(self, connection: Connection) -> None:
        is_idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if is_idle and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self) -> Connection:
        address = self._address
        try:
            connection = psycopg.connect(
                address.conninfo,
                autocommit=True,  # transactions are begun by name
                connect_timeout=max(2, round(self._timeout)),
                application_name="nbce-rag",
                prepare_threshold=None,
            )
        except psycopg.Error as error:
            raise unreachable(address, error) from error
        try:
            row = connection.execute(f"{_VECTOR} WHERE extname = 'vector'").fetchone()
            if row is None or tuple(map(int, row[0].split(".")[:2])) < _PGVECTOR:
                what = "no extension pgvector" if row is None else f"pgvector {row[0]}"
                raise PassageIndexError(
                    f"The database at {address.shown} has {what}, and 0.8 or later is needed: install it "
                    "on the server, then run CREATE EXTENSION vector (or ALTER EXTENSION vector UPDATE) in "
                    "the database as a superuser."
                )
            settings = {
                "search_path": ", ".join(map(quoted, (address.schema, row[1]))),
                "statement_timeout": f"{math.ceil(1000 * address.statement_timeout)}",  # 0 is no limit
                "lock_timeout": f"{max(1, round(1000 * self._timeout))}",
                "hnsw.iterative_scan": "strict_order",
                "jit": "off",
            }
            self._settings = "".join(f"; SET LOCAL {name} = {text}" for name, text in settings.items())
            name = psycopg.sql.Identifier(row[1], "vector")
            info = psycopg.types.TypeInfo.fetch(connection, name)
            pgvector.psycopg.vector.register_vector_info(connection, info)
        except BaseException:
            connection.close()
            raise
        return connection


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'
