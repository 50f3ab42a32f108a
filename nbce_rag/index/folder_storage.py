"""An index in a folder: SQLite holds it, FAISS files beside it hold its vectors for searching."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..errors import IndexNotFoundError, PassageIndexError
from .encoder import Encoder
from .filters.conditions import IS_GENERATED, Condition, mentions
from .filters.lookup import KeyFinder
from .folder import Description, IndexFolder
from .health import check, rebuild
from .reports import CheckReport
from .rows import Keys, StaleReadError
from .sqlite.storage import Storage
from .vectors import factories
from .vectors.choice import Choice
from .vectors.compaction import Compactor
from .vectors.view import OutdatedError, SyncedVectors

__all__ = ["FolderPlace", "FolderStorage"]

_EXACT_UP_TO = 20_000  # vectors are read from SQLite, in about 0.1 s, sooner than an inexact index is trusted


class FolderPlace:
    """A folder where an index is or will be (`places.Place`)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = IndexFolder(path)

    @property
    def location(self) -> str:
        """The folder."""
        return str(self._folder.path)

    def open(self, timeout: float) -> FolderStorage:
        """Opens the index."""
        return FolderStorage.open(self._folder.database, timeout)

    def has_index(self, timeout: float) -> bool:
        """Whether there is one; raises PassageIndexError if something else is there, or it is unreadable."""
        try:
            Storage.open(self._folder.database, timeout).close()
        except IndexNotFoundError:
            self._folder.check_free()
            return False
        return True

    def check_factory(self, factory: str, dimension: int) -> str:
        """The factory, if FAISS can hold vectors of this dimension so."""
        return factories.check_factory(factory, dimension)

    def make(self, meta: Mapping[str, str], timeout: float) -> bool:
        """Makes an empty index. Returns False when another process was faster."""
        self._folder.make()
        return Storage.create(self._folder.database, meta, timeout)


class FolderStorage(Storage):
    """The passages of an index in a folder (`storage.PassageStorage`)."""

    _vectors: SyncedVectors
    _compactor: Compactor
    _dimension: int

    @classmethod
    def open(cls, file: Path, timeout: float) -> Self:
        """Opens SQLite's file; vectors are read when they are first searched."""
        storage = super().open(file, timeout)
        try:
            with storage.read():
                meta = storage.meta()
            dimension = Description.of(meta).dimension
            storage._vectors = SyncedVectors(storage, file.parent, meta["index"], dimension)
            storage._compactor = Compactor(storage, file.parent, meta["index"], dimension, timeout)
            storage._dimension = dimension
        except BaseException:
            storage.close()
            raise
        return storage

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.file.parent)

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.file.parent

    # Finding

    def matching(self, condition: Condition | None, ids: Iterable[str] | None = None) -> Keys:
        """Keys of all passages that meet a condition; of those of some ids, or of all."""
        view = self._vectors.current()
        among = None if ids is None else np.array(sorted(self.keys(ids)), dtype=np.int64)
        if condition is None:
            return view.keys() if among is None else among
        return KeyFinder(self, view.keys).find(condition, among)

    def choose(
        self,
        condition: Condition | None,
        ids: Iterable[str] | None,
        *,
        generated: bool,
        is_last: bool = True,
    ) -> Choice | None:
        """From which passages a search chooses; None where there are none."""
        with self._settled():
            view = self._vectors.current(patient=not is_last)
        hidden = np.empty(0, np.int64)
        if not generated and not (condition and mentions(condition, "origin")):
            hidden = KeyFinder(self, view.keys).find(IS_GENERATED)
        if condition is None and ids is None:
            choice = Choice(None, hidden)
        else:
            choice = Choice(np.setdiff1d(self.matching(condition, ids), hidden, assume_unique=True))
        return choice if choice.size_in(view) else None

    def nearest(
        self, queries: NDArray[np.float32], k: int, choice: Choice, options: Mapping[str, int]
    ) -> list[dict[int, float]]:
        """Keys and cosines of the k nearest to each query, of all as near as the last, and of some others."""
        with self._settled():
            return self._vectors.current().search(queries, k, choice, options, self, _EXACT_UP_TO)

    def by_words(self, terms: Sequence[str], depth: int, choice: Choice) -> list[int]:
        """Keys of passages that have any of these terms, up to `depth`, the best by BM25 first."""
        limit = depth
        while True:
            matches = self.match_words(terms, limit)
            keys = choice.among(np.array(matches, dtype=np.int64))
            if len(keys) >= depth or len(matches) < limit:
                return [int(key) for key in keys[:depth]]
            limit = max(8 * limit, 4096)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        try:
            yield
        except OutdatedError as error:
            # A newer state has another file in place of the one that is gone, or it is read from SQLite.
            raise StaleReadError(
                f"Another program keeps changing the files in {self.folder} while they are read: end it, "
                "then try again."
            ) from error

    # Upkeep

    def save(self) -> None:
        """Writes the FAISS files that have become due."""
        self._compactor.save()

    def compact(self, factory: str | None) -> None:
        """Writes all vectors into one FAISS file, without those of removed passages."""
        if factory is not None:
            factories.check_factory(factory, self._dimension)
        with _os_errors(self.folder):
            self._compactor.compact(factory=factory)

    def check(self) -> CheckReport:
        """Reads everything and says what is wrong."""
        with _os_errors(self.folder):
            return check(self, self._compactor, self._dimension)

    def rebuild(self, encoder: Encoder) -> None:
        """Makes anew what filters and words look up, and the FAISS files."""
        with _os_errors(self.folder):
            rebuild(self, encoder)
            self._compactor.compact()


@contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, PassageIndexError):
            raise
        raise PassageIndexError(
            f"No FAISS file can be written in {folder} ({error.strerror or error}): check free space and "
            "permissions. What was stored before is intact."
        ) from error
