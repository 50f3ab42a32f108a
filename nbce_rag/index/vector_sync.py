"""Keeping the FAISS half of a passage index a true copy of the vectors in its SQLite half."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .storage import Storage
from .vectors import VectorCache, saved_commit

__all__ = ["SyncedVectors"]

logger = logging.getLogger(__name__)


class SyncedVectors:
    """The vectors of `storage`, of `dimension` numbers each, with their copy in `file`.

    Args:
        storage: Holds the lock under which this is used.
        file: The FAISS file; it need not be there.
        identity: Of the index, so that the file of another one is not taken for its own.
        dimension: Length of each vector.
    """

    def __init__(self, storage: Storage, file: Path, identity: str, dimension: int) -> None:
        self._storage = storage
        self._file = file
        self._identity = identity
        self._dimension = dimension
        self._cache: VectorCache | None = None
        self._pid = os.getpid()

    def current(self) -> VectorCache:
        """The vectors as they are in the snapshot that `storage.read()` gives. To be called inside it."""
        storage = self._storage
        head = storage.head()
        if self._pid != os.getpid():  # a fork may have come in the middle of a change
            self._cache, self._pid = None, os.getpid()
        cache = self._cache or VectorCache.load(self._file, self._identity, self._dimension)
        self._cache = None  # until it is whole again
        if cache is not None and cache.commit != head:
            cache = self._catch_up(cache)
        if cache is None:
            logger.info("Making the FAISS copy of %s from its SQLite file.", self._file.parent)
            cache = VectorCache(self._dimension)
            for keys, vectors in storage.vectors_since(0, self._dimension):
                cache.put(keys, vectors)
            cache.commit = head
            self._write(cache)
        cache.commit = head
        self._cache = cache
        return cache

    def save(self, fraction: float) -> None:
        """Writes the file when more than a fraction of its vectors has changed, else leaves it older."""
        with self._storage.read():
            commit = saved_commit(self._file, self._identity)
            if commit is not None and self._storage.knows(commit):
                changes = self._storage.changes_since(commit.id)
                if changes <= fraction * self._storage.vector_count():
                    return
            cache = self.current()
            if saved_commit(self._file, self._identity) != cache.commit:
                self._write(cache)

    def _catch_up(self, cache: VectorCache) -> VectorCache | None:
        """Brings vectors of an older commit up to date, or returns None when they are of another history."""
        storage = self._storage
        if cache.commit is None or not storage.knows(cache.commit):
            return None
        cache.remove(storage.removed_since(cache.commit.id))
        for keys, vectors in storage.vectors_since(cache.commit.id, self._dimension):
            cache.put(keys, vectors)
        return cache if len(cache) == storage.vector_count() else None

    def _write(self, cache: VectorCache) -> None:
        try:
            cache.save(self._file, self._identity)
        except OSError as error:  # a full disk, a folder that may only be read
            logger.warning("The FAISS copy %s could not be written (%s); nothing is lost.", self._file, error)
