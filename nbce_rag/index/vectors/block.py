"""A block of vectors that is searched: exact or not, with some of them dead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from . import factories
from .codes import is_scannable

__all__ = ["Block"]

faiss: Any = _faiss  # where it has type stubs, they lack what is used here

_GATHER_LIMIT = 1024
_MANY = 8  # of one key in so many it takes longer to look each up than to look through all
_NOISE = 1e-6  # what summing in another order can change of a cosine


class Block:
    """Vectors under ascending keys, searched by inner product, which is their cosine. Not thread-safe.

    Attributes:
        keys: Ascending, [n].
        note: About the index.
        is_intact: Whether the file that is mapped, if one is, is as it was.
    """

    def __init__(
        self, index: factories.FaissIndex, keys: NDArray[np.int64], note: factories.Note | None = None
    ) -> None:
        self.keys = keys
        self.note: factories.Note = note or {"factory": "Flat", "options": {}, "recall": 1.0}
        self.exact = factories.is_flat(index)
        self.index = index
        self.is_intact: Callable[[], bool] = lambda: True
        self._alive: NDArray[np.bool_] | None = None
        self._dead = 0

    @classmethod
    def empty(cls, dimension: int) -> Self:
        """An exact one without vectors, to be added to."""
        return cls(faiss.IndexFlatIP(dimension), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.keys) - self._dead

    @property
    def dead(self) -> int:
        """How many of the vectors do not count any more."""
        return self._dead

    def append(self, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds vectors [m, d] under keys above all that are here."""
        self.index.add(np.ascontiguousarray(vectors))
        self.keys = np.concatenate([self.keys, keys])
        if self._alive is not None:
            self._alive = np.concatenate([self._alive, np.ones(len(keys), dtype=bool)])

    def kill(self, keys: Collection[int]) -> None:
        """Lets vectors not count any more; keys that are not here do no harm."""
        places = self.places(np.unique(np.fromiter(keys, dtype=np.int64, count=len(keys))))
        if len(places):
            if self._alive is None:
                self._alive = np.ones(len(self.keys), dtype=bool)
            self._dead += int(self._alive[places].sum())
            self._alive[places] = False

    def living(self) -> NDArray[np.int64]:
        """The keys that count, ascending."""
        return self.keys if self._alive is None else self.keys[self._alive]

    def places(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where those of these keys, all different and ascending, are that are here and count."""
        if not len(self.keys):
            return np.empty(0, np.int64)
        if _MANY * len(keys) > len(self.keys):
            places = np.flatnonzero(np.isin(self.keys, keys, assume_unique=True))
        else:
            places = np.searchsorted(self.keys, keys)
            places = places[self.keys[np.minimum(places, len(self.keys) - 1)] == keys]
        living: NDArray[np.int64] = places if self._alive is None else places[self._alive[places]]
        return living

    @property
    def holds_vectors(self) -> bool:
        """Whether the vectors themselves are here: in an exact block, and in a graph over vectors."""
        return self._matrix() is not None

    @property
    def error(self) -> float | None:
        """What the cosine by a code is off at most, but for `loose` ones; None where codes say too little."""
        return self.note.get("error") if is_scannable(self.index) else None

    def loose(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some places, ascending, whose codes are off by more than `error`."""
        keys = np.array(self.note.get("loose", []), dtype=np.int64)
        return np.intersect1d(places, self.places(keys), assume_unique=True)

    def vectors(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors [n, d] at these places, of a block that holds them."""
        index: Any = self._matrix()
        matrix = faiss.rev_swig_ptr(index.get_xb(), len(self.keys) * index.d)
        chosen: NDArray[np.float32] = matrix.reshape(-1, index.d)[places]
        return chosen

    def _matrix(self) -> factories.FaissIndex | None:
        index: Any = self.index
        if isinstance(index, faiss.IndexHNSW):
            index = faiss.downcast_index(index.storage)
        return index if factories.is_flat(index) else None

    def scan(
        self, queries: NDArray[np.float32], size: int, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Of a scannable block: scores and places [q, size], the best of all that are given.

        Scores are those of the codes. Where there are fewer, -1 stands for a place.
        """
        return self._look_up(queries, size, places, {"nprobe": len(self.keys)}, np.empty(0, np.int64))

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        places: NDArray[np.int64] | None,
        options: Mapping[str, int],
        hidden: NDArray[np.int64],
    ) -> list[NDArray[np.int64]]:
        """Places of the k nearest to each query and of all that are as near as the last of them.

        Args:
            queries: Normalised, [q, d].
            k: At least 1. Of a block that is not exact come more: candidates.
            places: To choose from, ascending; None: all.
            options: See `factories.parameters`; before those of the note.
            hidden: Places to leave out of all.
        """
        limit = len(self) - len(hidden) if places is None else len(places)
        if not limit:
            return [np.empty(0, np.int64)] * len(queries)
        if not self.exact:
            options = {**factories.widen(self.note["options"], limit / len(self.keys)), **options}
            size = min(factories.candidates(k), limit)
            hits = self._look_up(queries, size, places, options, hidden)[1]
            return [row[(row >= 0) & (row < len(self.keys))] for row in hits]
        gathered = None
        if places is not None and limit <= max(_GATHER_LIMIT, len(self.keys) // 16):
            gathered = self.vectors(places)
        size = min(k + 1, limit)
        while True:
            if gathered is None or places is None:
                scores, hits = self._look_up(queries, size, places, {}, hidden)
            else:
                scores, hits = faiss.knn(queries, gathered, size, metric=faiss.METRIC_INNER_PRODUCT)
                hits = np.where(hits >= 0, places[hits], -1)
            if size >= limit or (scores[:, -1] < scores[:, k - 1] - _NOISE).all():
                return [row[row >= 0] for row in hits]
            size = min(size * 4, limit)

    def _look_up(
        self,
        queries: NDArray[np.float32],
        size: int,
        places: NDArray[np.int64] | None,
        options: Mapping[str, int],
        hidden: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        mask = self._alive
        if places is not None:
            mask = np.zeros(len(self.keys), dtype=bool)
            mask[places] = True
        elif len(hidden):
            mask = np.ones(len(self.keys), dtype=bool) if mask is None else mask.copy()
            mask[hidden] = False
        selector = None
        if mask is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        try:
            scores, hits = self.index.search(
                queries, size, params=factories.parameters(self.index, options, selector)
            )
            return scores, hits
        except RuntimeError:
            if mask is None:
                raise
        return self._over_fetch(queries, size, mask, options)

    def _over_fetch(
        self,
        queries: NDArray[np.float32],
        size: int,
        mask: NDArray[np.bool_],
        options: Mapping[str, int],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """For the few kinds of FAISS index that take no selectors: asks for more until enough is left."""
        parameters = factories.parameters(self.index, options)
        fetch = size
        while True:
            fetch = min(4 * fetch, len(self.keys))
            scores, hits = self.index.search(queries, fetch, params=parameters)
            valid = (hits >= 0) & mask[hits]
            if fetch == len(self.keys) or (valid.sum(axis=1) >= size).all() or (hits[:, -1] < 0).all():
                order = np.argsort(~valid, axis=1, kind="stable")[:, :size]
                places = np.take_along_axis(np.where(valid, hits, -1), order, axis=1)
                return np.take_along_axis(scores, order, axis=1), places
