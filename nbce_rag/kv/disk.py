"""The disk tier of the KV store: contexts in files, mapped when read, written behind the answer's back.

A file is written to a scratch name in the same folder, synced, and renamed, so that whoever opens a
context finds all of it, whatever happened to the process that wrote it. Nothing here keeps an answer from
coming: a file that is damaged counts as not there, and when nothing can be written, one message says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from .context import Packed, nbytes
from .folder import KVFolder, check_bytes
from .forks import renew_in_children
from .format import DamagedContextError, read_context, write_context

__all__ = ["DiskTier"]

logger = logging.getLogger(__name__)

_WAITING_BYTES = 256 << 20  # written behind, at most; then whoever computes waits for the disk
_LEDGER_SECONDS = 5.0
_SPARE = 16  # evicting goes a sixteenth below the limit, and others' files are counted after as much


class DiskTier:
    """Contexts on disk. Safe to use from several threads, and the folder from several processes.

    Args:
        folder: where.
        codec: name of what encodes them.
        max_bytes: most bytes of the folder; None takes the limit kept in it.

    Raises:
        InputError: no size, or the folder is a file.
    """

    def __init__(self, folder: str | os.PathLike[str], codec: str, max_bytes: int | None = None) -> None:
        if max_bytes is not None:
            check_bytes("max_disk_bytes", max_bytes, "0 keeps nothing on disk")
        self.folder = KVFolder(folder)
        self._codec = codec
        self._max_bytes = max_bytes
        self._lock = threading.Condition()
        self._writer: ThreadPoolExecutor | None = None
        self._waiting: dict[str, int] = {}  # bytes by key
        self._last: Future[None] | None = None
        self._counts: Counter[str] = Counter()  # not yet in the ledger
        self.totals: Counter[str] = Counter()
        self._noted = time.monotonic()
        self._used: int | None = None  # bytes in the folder, as far as known
        self._unseen = 0  # bytes written since it was counted
        self._problem = ""
        self._disabled = False
        renew_in_children(self)

    def renew(self) -> None:
        """For a child process: what waits to be written, or was counted, the parent writes."""
        self._lock = threading.Condition()
        self._writer, self._last = None, None
        self._waiting = {}
        self._counts = Counter()

    @property
    def max_bytes(self) -> int:
        """Most bytes of the folder."""
        return self.folder.limit() if self._max_bytes is None else self._max_bytes

    def get(self, key: str, label: Mapping[str, str]) -> Packed | None:
        """The context of a key, or None; one that is damaged or not of this label is removed."""
        path = self.folder.file(key, self._codec)
        try:
            packed = read_context(path, {**label, "key": key, "codec": self._codec})
        except FileNotFoundError:
            packed = None
        except DamagedContextError as error:
            logger.warning("Dropped %s: %s", path, error)
            self.drop(key)
            packed = None
        except OSError as error:  # no right to read it, or more mappings than the system allows
            logger.warning("Cannot read %s: %s", path, error)
            packed = None
        if packed is not None:
            self.folder.touch(path)
        self.count(disk_hits=int(packed is not None), disk_misses=int(packed is None))
        return packed

    def drop(self, key: str) -> None:
        """Remove a context that turned out to be damaged."""
        self.folder.remove(self.folder.file(key, self._codec))
        self.count(damaged=1)

    def __contains__(self, key: str) -> bool:
        return key in self._waiting or self.folder.file(key, self._codec).is_file()

    def touch(self, key: str) -> None:
        """Note that a context was used, from memory."""
        self.folder.touch(self.folder.file(key, self._codec))

    def put(self, key: str, packed: Packed, label: Mapping[str, str]) -> None:
        """Write a context soon. Returns at once, unless very much is waiting to be written."""
        size = nbytes(packed)
        with self._lock:
            self._lock.wait_for(lambda: not self._waiting or sum(self._waiting.values()) < _WAITING_BYTES)
            if self._disabled or key in self:
                return
            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, "nbce-kv-writer")
            self._waiting[key] = size
            try:
                self._last = self._writer.submit(self._write, key, packed, dict(label))
            except RuntimeError:  # the interpreter is going down
                del self._waiting[key]

    def flush(self) -> None:
        """Wait until everything is written, and the ledger too."""
        last = self._last
        if last is not None:
            last.result()
        self._note()

    def close(self) -> None:
        """Let the writer finish, in its own time, and note what was counted. Doing it twice does no harm."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            # Not waited for: garbage collection may call this from the writer itself. The interpreter
            # waits for such threads before it exits.
            with suppress(RuntimeError):  # it has done so already
                writer.submit(self._note)
            writer.shutdown(wait=False)
        self._note()

    def count(self, **events: int) -> None:
        """Add to the statistics."""
        with self._lock:
            self._counts.update(events)
            self.totals.update(events)

    def take_problem(self) -> str:
        """Why nothing is written any more, the first time this is asked; else ""."""
        with self._lock:
            problem, self._problem = self._problem, ""
            return problem

    def _write(self, key: str, packed: Packed, label: Mapping[str, str]) -> None:
        try:
            if not self._disabled:
                self._store(key, packed, label)
        except Exception as error:  # whatever it is, the answer needs none of this
            reason = getattr(error, "strerror", None) or error
            with self._lock:
                self._disabled = True
                self._problem = (
                    f"The KV store {str(self.folder.path)!r} cannot be written ({reason}); passages that "
                    "are not in it are read anew in each process. Free some space, or give a folder that "
                    "can be written."
                )
        finally:
            with self._lock:
                self._waiting.pop(key, None)
                self._lock.notify_all()
            if time.monotonic() - self._noted > _LEDGER_SECONDS:
                self._note()

    def _store(self, key: str, packed: Packed, label: Mapping[str, str]) -> None:
        limit = self.max_bytes
        if nbytes(packed) > limit:
            return
        target = self.folder.file(key, self._codec)
        if target.is_file():  # another process was faster
            return
        self.folder.path.mkdir(parents=True, exist_ok=True)
        if self._used is None:
            self.folder.sweep()
        scratch = self.folder.scratch(key)
        try:
            size = write_context(scratch, packed, {**label, "key": key, "codec": self._codec})
            os.replace(scratch, target)
        except BaseException:
            with suppress(OSError):
                scratch.unlink()
            raise
        self.count(written=1)
        if self._used is None or self._unseen > limit // _SPARE:
            self._used, self._unseen = self.folder.nbytes(), 0
        else:
            self._used += size
            self._unseen += size
        if self._used > limit:
            self.count(evicted=self.folder.evict(limit - limit // _SPARE))
            self._used, self._unseen = self.folder.nbytes(), 0

    def _note(self) -> None:
        with self._lock:
            self._noted = time.monotonic()
            counts, self._counts = +self._counts, Counter()
        if counts and not (self._disabled and not self.folder.path.is_dir()):
            self.folder.add(counts)
