"""The vectors of one state of an index, in memory: files that are mapped, and a tail that SQLite gives."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import IndexDamagedError
from ..cosines import cosines
from ..rows import State
from ..sqlite.storage import Storage
from ..sqlite.vector_rows import SegmentRow
from . import factories
from .block import Block
from .choice import Choice
from .segments import read_block

__all__ = ["OutdatedError", "SyncedVectors", "VectorView"]

logger = logging.getLogger(__name__)

_FORGOTTEN = 1024  # dead vectors in the tail before it is read again
_FEW = 4  # reading one vector in so many takes no longer than comparing the codes of all
_COARSE = 0.05  # of cosines; where codes are further off, they seldom tell the nearest from all others


class OutdatedError(Exception):
    """A file that the snapshot names has been replaced since, or is not what it was."""


class VectorView:
    """The vectors of one state.

    Attributes:
        blocks: With the vectors of all passages, each in one of them, in the order of their keys.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self.files: dict[str, Block] = {}
        self.tail = Block.empty(dimension)
        self.tail_after = 0
        self.tail_to = 0
        self.removals = 0
        self.state: State | None = None

    @property
    def is_intact(self) -> bool:
        """Whether all files that are mapped are as they were."""
        return all(block.is_intact() for block in self.files.values())

    @property
    def blocks(self) -> list[Block]:
        return [block for block in (*self.files.values(), self.tail) if len(block)]

    def __len__(self) -> int:
        return sum(len(block) for block in (*self.files.values(), self.tail))

    def keys(self) -> NDArray[np.int64]:
        """All keys, ascending."""
        return np.concatenate([block.living() for block in (*self.files.values(), self.tail)])

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        choice: Choice,
        options: Mapping[str, int],
        storage: Storage,
        exact_up_to: int,
    ) -> list[dict[int, float]]:
        """Keys and cosines of the k nearest to each query, of all as near as the last, and of some others.

        Args:
            queries: Normalised, [q, d].
            k: At least 1.
            choice: From which.
            options: See `factories.parameters`.
            storage: Gives the vectors that blocks do not hold, of the same state.
            exact_up_to: Where the choice is of up to so many keys in a block that is not exact, none of the
                nearest is missed.

        Raises:
            OutdatedError: A file that is mapped was changed or cut short meanwhile.
        """
        results: list[dict[int, float]] = [{} for _ in queries]
        for block in self.blocks:
            _check_intact(block)
            places = None if choice.keys is None else block.places(choice.keys)
            if not block.exact and places is not None and len(places) <= exact_up_to:
                hits = self._nearest(block, queries, k, places, storage)
            else:
                hits = block.search(queries, k, places, options, block.places(choice.hidden))
            if block.holds_vectors:
                for query, rows, result in zip(queries, hits, results, strict=True):
                    result.update(cosines(query, block.keys[rows], block.vectors(rows)))
                continue
            for result, scores in zip(results, self._compare(block, queries, hits, storage), strict=True):
                result.update(scores)
        for block in self.blocks:
            _check_intact(block)  # what was read may be of two states
        return results

    def _compare(
        self,
        block: Block,
        queries: NDArray[np.float32],
        hits: Sequence[NDArray[np.int64]],
        storage: Storage,
    ) -> list[dict[int, float]]:
        """Keys and cosines of the places of each query, by the vectors in SQLite."""
        union = np.unique(np.concatenate(hits))
        if not len(union):
            return [{} for _ in queries]
        keys, vectors = storage.vectors_of(block.keys[union].tolist(), self._dimension)
        results = []
        for query, places in zip(queries, hits, strict=True):
            rows = np.searchsorted(keys, block.keys[np.sort(places)])
            results.append(cosines(query, keys[rows], vectors[rows]))
        return results

    def _nearest(
        self,
        block: Block,
        queries: NDArray[np.float32],
        k: int,
        places: NDArray[np.int64],
        storage: Storage,
    ) -> list[NDArray[np.int64]]:
        """Places among which the k nearest of some are, in a block that is not exact.

        All of them are compared by the codes of the block, and the best ones by their vectors. How far codes
        are off at most says whether one of the others may be nearer; then more are compared.
        """
        size = factories.candidates(k)
        error = None if block.holds_vectors else block.error
        if error is None or error > _COARSE:
            return [places] * len(queries)
        while _FEW * size < len(places):
            scores, hits = block.scan(queries, size, places)
            if (hits < 0).any():
                break
            exact = self._compare(block, queries, list(hits), storage)
            kth = np.array([np.partition(list(one.values()), -k)[-k] for one in exact])
            if (kth > scores[:, -1] + error).all():
                loose = block.loose(places)
                return [np.union1d(row, loose) for row in hits]
            size *= _FEW
        return [places] * len(queries)

    def follow(
        self, storage: Storage, rows: list[SegmentRow], folder: Path, identity: str, *, patient: bool
    ) -> None:
        """Takes in what has changed since the last time."""
        removed, self.removals = (
            storage.removed_after(self.removals) if self.state else ([], storage.last_removal())
        )
        files: dict[str, Block] = {}
        for row in rows:
            block = self.files.get(row.name)
            if block is None or not block.is_intact():
                block = self._load(storage, row, folder, identity, patient)
                block.kill(storage.removed_between(row.first, row.last))
            elif removed:
                block.kill(removed)
            files[row.name] = block
        self.files = files
        after = rows[-1].last if rows else 0
        self.tail.kill(removed)
        if after != self.tail_after or self.tail.dead > _FORGOTTEN:
            self.tail, self.tail_after, self.tail_to = Block.empty(self._dimension), after, after
        for keys, vectors in storage.vectors_between(self.tail_to + 1, None, self._dimension):
            self.tail.append(keys, vectors)
            self.tail_to = int(keys[-1])

    def _load(self, storage: Storage, row: SegmentRow, folder: Path, identity: str, patient: bool) -> Block:
        try:
            return read_block(folder, identity, row, self._dimension)
        except FileNotFoundError as error:
            if patient:
                raise OutdatedError from error
            logger.warning("%s is missing; its vectors come from SQLite.", folder / row.name)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s cannot be used (%s); its vectors come from SQLite.", folder / row.name, error)
        block = Block.empty(self._dimension)
        for keys, vectors in storage.vectors_between(row.first, row.last, self._dimension):
            block.append(keys, vectors)
        return block


class SyncedVectors:
    """The newest view of the vectors of an index.

    Args:
        storage: Holds the lock under which this is used.
        folder: Of the index.
        identity: Of the index, so that the file of another one is not taken for its own.
        dimension: Length of each vector.
    """

    def __init__(self, storage: Storage, folder: Path, identity: str, dimension: int) -> None:
        self._storage = storage
        self._folder = folder
        self._identity = identity
        self._dimension = dimension
        self._view: VectorView | None = None
        self._pid = os.getpid()

    def current(self, *, patient: bool = False) -> VectorView:
        """The vectors as they are in the snapshot that `storage.read()` gives. To be called inside it.

        Raises:
            OutdatedError: With `patient`: a file is not there (any more).
            IndexDamagedError: SQLite does not hold as many vectors as passages.
        """
        state = self._storage.state()
        if self._pid != os.getpid():  # a fork may have come in the middle of a change
            self._view, self._pid = None, os.getpid()
        view, self._view = self._view, None  # until it is whole again
        if view is not None and view.state == state and view.is_intact:
            self._view = view
            return view
        rows = self._storage.segments()
        fresh = VectorView(self._dimension)
        for candidate in [fresh] if view is None else [view, fresh]:
            candidate.follow(self._storage, rows, self._folder, self._identity, patient=patient)
            # What was removed may have been forgotten meanwhile; then it is read afresh.
            if len(candidate) == state.passages:
                candidate.state = state
                self._view = candidate
                return candidate
        raise IndexDamagedError(
            f"{self._storage.file} counts {state.passages} passages and has {len(fresh)} vectors: try "
            f"`nbce-rag index --rebuild --index {self._folder}`, or restore it from a backup."
        )


def _check_intact(block: Block) -> None:
    if not block.is_intact():
        raise OutdatedError
