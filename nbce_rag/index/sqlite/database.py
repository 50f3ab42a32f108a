"""The SQLite file of a passage index: making and opening it, transactions, and its errors as ours."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

from ...errors import (
    IndexDamagedError,
    IndexLockedError,
    IndexNotFoundError,
    InputError,
    PassageIndexError,
)
from ..rows import StaleReadError
from . import schema

__all__ = ["RESTORE", "ChangedError", "Database", "SqlRow", "not_found"]

logger = logging.getLogger(__name__)

SqlRow: TypeAlias = tuple[Any, ...]
"""What SQLite gives of a row; the query says what is in it."""

RESTORE = "restore it from a backup, or delete the folder and index the documents again."
_CACHE_KIB = 65_536
_LOG_PAGES = 4096  # of 8 KiB: pages that many commits change are copied from the log once
_CHUNK = 500  # values in one statement; SQLite's oldest limit is 999
_SETTLED_S = 0.05  # a file that was written this short ago may be written again at the same time of its clock

# A connection must not be used, nor closed, in a process that was forked after it was opened.
_forked: list[sqlite3.Connection] = []


class ChangedError(IndexLockedError, StaleReadError):
    """What was read is of no one state: another process changed a file that cannot be locked here."""


class _Mark:
    """Lives as long as a transaction does."""


class Database:
    """One SQLite file. Safe to use from several threads, after a fork, and from several processes.

    In a folder that may not be written, SQLite can make no files to lock by. There the file is read as it is,
    and opened again when it has changed.
    """

    def __init__(self, file: Path, timeout: float) -> None:
        self.file = file
        self._timeout = timeout
        self._closed = False
        self._connect()

    @classmethod
    def create(cls, file: Path, meta: Mapping[str, str], timeout: float) -> bool:
        """Makes the file unless it is there. Returns whether it was made."""
        with _errors(file, timeout):
            connection = sqlite3.connect(file, timeout=timeout, isolation_level=None)
            try:
                return schema.create(connection, meta)
            finally:
                connection.close()

    @classmethod
    def open(cls, file: Path, timeout: float) -> Self:
        """Opens the file and checks that it is a passage index of a version that can be read."""
        # The file is not opened but by SQLite: closing it would end the locks that this process has on it.
        if not file.is_file():
            raise not_found(file.parent)
        storage = cls(file, timeout)
        try:
            with storage.read() as connection:
                application = connection.execute("PRAGMA application_id").fetchone()[0]
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not application and not tables:  # its maker died before the first commit
                raise not_found(file.parent)
            if application != schema.APPLICATION_ID:
                raise IndexDamagedError(f"{file} is an SQLite file but no passage index: {RESTORE}")
            if not 1 <= version <= schema.VERSION:
                raise PassageIndexError(
                    f"The index at {file.parent} has version {version} and this nbce-rag reads those up to "
                    f"{schema.VERSION}: install a newer nbce-rag."
                )
            if version < schema.VERSION:
                storage._migrate(version)
        except BaseException:
            storage.close()
            raise
        return storage

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Closes the connection. Doing it twice does no harm."""
        if self._pid != os.getpid():
            self._closed = True
            return
        with self._lock:
            self._connection.close()
            self._closed = True

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A snapshot: everything that is read inside is of one state. Holds the lock of this object."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """All changes inside are made at once at its end, or none of them when it ends in an exception.

        Raises:
            IndexLockedError: Another process was writing for longer than the timeout.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def damage(self, description: str) -> IndexDamagedError:
        """The error for data that cannot be trusted, such as "holds a damaged vector"."""
        return IndexDamagedError(f"{self.file} {description}: {RESTORE}")

    def _select(self, query: str, values: Iterable[int] | Iterable[str]) -> Iterator[SqlRow]:
        """Rows of a query that ends in the column that has to be one of the values."""
        sequence = list(values)
        for start in range(0, len(sequence), _CHUNK):
            part = sequence[start : start + _CHUNK]
            marks = ", ".join("?" * len(part))
            yield from self._connection.execute(f"{query} IN ({marks})", part).fetchall()

    def _migrate(self, version: int) -> None:
        try:
            with self.write() as connection:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version < schema.VERSION:  # no other process was faster
                    logger.info(
                        "Bringing the index at %s up to version %d.", self.file.parent, schema.VERSION
                    )
                    schema.migrate(connection, version)
        except PassageIndexError as error:
            if version not in schema.READABLE or not _is_read_only(error):
                raise
            logger.info("The index at %s is read as it is (version %d).", self.file.parent, version)

    def _connect(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._current: weakref.ref[_Mark] | None = None  # the transaction that is open
        with _errors(self.file, self._timeout):
            self._open_file()

    def _open_file(self) -> None:
        self._frozen: tuple[int, ...] | None = None  # the state of a file that is read without locks
        options = "mode=rw"
        if not os.access(self.file.parent, os.W_OK):
            if not self._log_size():
                self._frozen = self._state_of_file()
                options = "immutable=1"
            elif not self.file.with_name(f"{self.file.name}-shm").exists():
                raise PassageIndexError(
                    f"The index at {self.file.parent} was copied, or its writer was ended, while changes "
                    f"were still in its log ({self.file.name}-wal), and nothing can be written there: copy "
                    "the folder to where it can be written, and open it there once."
                )
        self._identity = _identity(self.file)
        self._connection = sqlite3.connect(
            f"{self.file.resolve().as_uri()}?{options}",
            uri=True,
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        # What the file itself would have SQLite do, in views and triggers, is not to be trusted.
        self._connection.execute("PRAGMA trusted_schema = OFF")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._pid:
            _forked.append(self._connection)
            self._connect()
        with self._lock, _errors(self.file, self._timeout):
            if self._closed:
                raise PassageIndexError(f"The index at {self.file.parent} is closed: open it again.")
            if self._connection.in_transaction and self._current is not None and self._current() is not None:
                # A filter given to search may look something up, but not change what is searched.
                if begin != "BEGIN":
                    raise PassageIndexError(
                        "An index cannot be changed from inside a filter of its own search."
                    )
                yield self._connection
                return
            mark = _Mark()
            try:
                self._roll_back()  # what an interruption has left open
                self._check_place()
                self._thaw()
                self._current = weakref.ref(mark)
                self._connection.execute(begin)
                with self._frozen_errors():
                    yield self._connection
                # There is nothing to commit of what was read, and FTS5 may fail at it.
                self._connection.execute("ROLLBACK" if begin == "BEGIN" else "COMMIT")
            except BaseException:
                self._roll_back()
                raise
            if begin != "BEGIN":
                self._check_place()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite ends it by itself after some errors
            self._connection.execute("ROLLBACK")

    def _check_place(self) -> None:
        """Raises PassageIndexError when the file is no longer where others would look for it."""
        if _identity(self.file) != self._identity:
            raise PassageIndexError(
                f"The index at {self.file.parent} was removed or replaced while it was open here; nothing "
                "more is read from what it was, or stored in it: open it again."
            )

    def _thaw(self) -> None:
        """Opens a file that is read without locks again, when it is not as it was."""
        if self._frozen is not None and self._frozen != self._state_of_file():
            self._connection.close()
            self._open_file()

    @contextmanager
    def _frozen_errors(self) -> Iterator[None]:
        problem: BaseException | None = None
        try:
            yield
        except (sqlite3.DatabaseError, IndexDamagedError) as error:
            problem = error
        if self._frozen is not None and self._frozen[:-1] != self._state_of_file()[:-1]:
            raise ChangedError(
                f"Another process changed the index at {self.file.parent} while it was read, where nothing "
                "can be written and so not be locked: try again."
            ) from problem
        if problem is not None:
            raise problem

    def _state_of_file(self) -> tuple[int, ...]:
        """What changes when the file does; the last number never stays while it may still be written."""
        status = self.file.stat()
        is_settled = time.time() - status.st_mtime > _SETTLED_S
        unsettled = 0 if is_settled else time.monotonic_ns()
        return status.st_ino, status.st_size, status.st_mtime_ns, self._log_size(), unsettled

    def _log_size(self) -> int:
        try:
            return self.file.with_name(f"{self.file.name}-wal").stat().st_size
        except OSError:
            return 0


def not_found(folder: Path) -> IndexNotFoundError:
    """The error for a folder without an index."""
    return IndexNotFoundError(
        f"There is no passage index at {folder}: make one with `nbce-rag index DOCS --index {folder}` or "
        "PassageIndex.create(path)."
    )


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_read_only(error: PassageIndexError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@contextmanager
def _errors(file: Path, timeout: float) -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError) as error:
        raise InputError(
            f"The index was asked with a value that is neither text nor number ({error})."
        ) from error
    except UnicodeEncodeError as error:
        raise InputError("A text holds half a surrogate pair: decode it with errors='replace'.") from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 1) & 0xFF
        folder = file.parent
        if code == sqlite3.SQLITE_NOTADB:
            raise IndexDamagedError(f"{file} is not an SQLite file: {RESTORE}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise IndexLockedError(
                f"Another process is writing to the index at {folder} and did not finish within "
                f"{timeout:g} s: wait for it or stop it, then try again."
            ) from error
        if code in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_IOERR,
        ):
            raise PassageIndexError(
                f"The index at {folder} cannot be written or read ({error}): check free space and "
                "permissions. What was stored before is intact."
            ) from error
        raise IndexDamagedError(f"{file} is damaged ({error}): {RESTORE}") from error
    except UnicodeDecodeError as error:  # SQLite's message quotes what it could not read
        raise IndexDamagedError(f"{file} is damaged ({error}): {RESTORE}") from error
