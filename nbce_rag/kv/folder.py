"""The folder of a KV store: its files, how much they take, which were used last, and a few numbers.

    0f3a....exact.safetensors    one context, named by its key and codec; never changed once it has its name
    .0f3a....1b7c.tmp            a context that is being written
    ledger.sqlite                hits and misses of all processes, and the size limit

Files are the truth and the ledger only counts: whoever deletes files, or the ledger, breaks nothing. A
file's modification time is when it was last used, which is all that eviction looks at, so that any number
of processes may read, write and evict at once.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from ..checks import Range
from ..errors import InputError
from ..files import expand_home

__all__ = ["DEFAULT_DISK_BYTES", "Entry", "KVFolder", "check_bytes"]

logger = logging.getLogger(__name__)

DEFAULT_DISK_BYTES = 16 << 30
"""Limit of a folder that was given none: about 450,000 tokens of the packaged model in float32."""

_BYTES = Range(0, 2**63 - 1, whole=True, note="in bytes")

_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]+\.safetensors")
_SCRATCH = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{16}\.tmp")
_SCRATCH_SECONDS = 600  # writing one context takes far less; what is older was left by a process that died
_LEDGER = "ledger.sqlite"
_LIMIT = "max_bytes"


def check_bytes(name: str, value: object, zero: str) -> None:
    """Raises InputError unless a value is a size of a store; `zero` says what 0 does."""
    if isinstance(value, int) and value < 0:
        raise InputError(f"{name}={value} is negative; {zero}.")
    _BYTES.check(name, value)


class Entry(NamedTuple):
    """A file of the store: its path, bytes, and when it was last used (ns since the epoch)."""

    path: Path
    size: int
    used: int


class KVFolder:
    """A folder of contexts. Nothing in it is touched that a store did not make.

    Args:
        path: made when something is written.

    Raises:
        InputError: the path is a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(expand_home(path))
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"The KV store {str(self.path)!r} is a file; give a folder.")

    def file(self, key: str, codec: str) -> Path:
        """Where the context of a key is, or would be."""
        return self.path / f"{key}.{codec}.safetensors"

    def scratch(self, key: str) -> Path:
        """A name that nobody else writes to, in the same folder."""
        return self.path / f".{key}.{secrets.token_hex(8)}.tmp"

    def touch(self, path: Path) -> None:
        """Note that a file was used now."""
        with suppress(OSError):  # gone meanwhile, or a folder that is only read
            os.utime(path, follow_symlinks=os.utime not in os.supports_follow_symlinks)

    def entries(self) -> Iterator[Entry]:
        """The contexts in the folder, in no order."""
        for found in self._scan(_NAME):
            with suppress(OSError):
                status = found.stat(follow_symlinks=False)
                yield Entry(Path(found.path), status.st_size, status.st_mtime_ns)

    def nbytes(self) -> int:
        """Bytes that all contexts take."""
        return sum(entry.size for entry in self.entries())

    def evict(self, limit: int) -> int:
        """Remove contexts, least recently used first, until no more than `limit` bytes are left.

        Returns how many were removed. Mapped files live on in the processes that read them.
        """
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        removed = 0
        for entry in entries:
            if total <= limit:
                break
            removed += self.remove(entry.path)
            total -= entry.size
        return removed

    def remove(self, path: Path) -> bool:
        """Remove a file; False if it was gone or cannot be removed."""
        try:
            path.unlink()
        except OSError:
            return False
        return True

    def sweep(self) -> int:
        """Remove what processes left that died while they wrote; returns how many files."""
        oldest = time.time() - _SCRATCH_SECONDS
        removed = 0
        for found in self._scan(_SCRATCH):
            with suppress(OSError):
                if found.stat(follow_symlinks=False).st_mtime < oldest:
                    removed += self.remove(Path(found.path))
        return removed

    def _scan(self, name: re.Pattern[str]) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as found:
                yield from (
                    entry
                    for entry in found
                    if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                )
        except OSError:
            return

    # The ledger. It is worth nothing compared with an answer, so that nothing it does may fail.

    def limit(self) -> int:
        """The most bytes that the folder may take."""
        return self.counts().get(_LIMIT, DEFAULT_DISK_BYTES)

    def set_limit(self, max_bytes: int) -> None:
        """Keep a limit, for every process that gives none of its own.

        Raises:
            InputError: it is no size.
        """
        check_bytes("max_bytes", max_bytes, "0 keeps nothing on disk")
        self._change("INSERT OR REPLACE INTO numbers VALUES (?, ?)", {_LIMIT: max_bytes})

    def add(self, counts: Mapping[str, int]) -> None:
        """Add to numbers by name."""
        self._change(
            "INSERT INTO numbers VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            counts,
        )

    def counts(self) -> dict[str, int]:
        """All numbers; empty if there is no ledger that can be read."""
        file = self.path / _LEDGER
        if not file.is_file() or file.is_symlink():
            return {}
        try:
            with closing(self._connect()) as ledger:
                return {str(name): int(value) for name, value in ledger.execute("SELECT * FROM numbers")}
        except sqlite3.OperationalError as error:  # locked, or another store is just making it
            logger.info("The ledger of %s has no numbers yet: %s", self.path, error)
        except (sqlite3.Error, ValueError) as error:
            logger.warning("The ledger of %s cannot be read: %s", self.path, error)
        return {}

    def _change(self, statement: str, numbers: Mapping[str, int]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if (self.path / _LEDGER).is_symlink():  # to a file elsewhere, which is none of this store's
                logger.warning("The ledger of %s is a link; nothing is counted.", self.path)
                return
            self._execute(statement, numbers)
        except sqlite3.OperationalError as error:  # locked, or a folder that is only read
            logger.info("The ledger of %s cannot be written: %s", self.path, error)
        except (sqlite3.Error, OSError) as error:
            logger.warning("The ledger of %s is made anew: %s", self.path, error)
            with suppress(sqlite3.Error, OSError):
                # Not removed: it may be a file of somebody else's.
                os.replace(self.path / _LEDGER, self.path / f"{_LEDGER}.damaged")
                self._execute(statement, numbers)

    def _execute(self, statement: str, numbers: Mapping[str, int]) -> None:
        with closing(self._connect()) as ledger, ledger:
            ledger.execute("CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER)")
            ledger.executemany(statement, numbers.items())

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path / _LEDGER, timeout=2.0)
