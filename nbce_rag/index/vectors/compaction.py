"""Writing the FAISS files of an index: a tail that has grown long, merging, rebuilding, checking."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import PassageIndexError
from ..reports import SegmentReport
from ..sqlite.storage import Storage
from ..sqlite.vector_rows import SegmentRow
from . import factories
from .block import Block
from .segments import file_checksum, read_block, remove_files, remove_leftovers, write_block

__all__ = ["Compactor"]

logger = logging.getLogger(__name__)

_TAIL = 4096  # vectors; SQLite gives so many in some 20 ms when an index is opened
_TAIL_SHARE = 64  # of a large index, this part
# A file is merged with those after it when they have grown to one part in so many of it. What is trained is
# merged sooner: adding to it is cheap, while what is beside it is searched exactly.
_MERGED_AT = 4
_TRAINED_MERGED_AT = 16
_WORSE = 0.02  # of recall, from which on what an index was trained on is not taken for what is added to it
_DEAD = 4  # rewritten when more than one part in so many of its vectors are dead


@dataclass(frozen=True)
class _Plan:
    """Which files are to be replaced by one over a range of keys."""

    files: list[SegmentRow]
    first: int
    last: int
    removals: int
    factory: str
    full: bool


class Compactor:
    """Keeps the files of the index in `folder` in order, through a connection of its own."""

    def __init__(self, storage: Storage, folder: Path, identity: str, dimension: int, timeout: float) -> None:
        self._storage = storage
        self._folder = folder
        self._identity = identity
        self._dimension = dimension
        self._timeout = timeout

    def save(self) -> None:
        """Writes what has become due; of most small changes nothing. What fails here has been logged."""
        with self._storage.read():
            if not self._is_due():
                return
        try:
            self.compact(full=False)
        except OSError as error:  # a full disk, a folder that may only be read
            logger.warning("No FAISS file could be written in %s (%s); nothing is lost.", self._folder, error)

    def compact(self, *, full: bool = True, factory: str | None = None) -> None:
        """Merges files.

        Args:
            full: All into one, without dead vectors; else only what is due.
            factory: To be used from now on.

        Raises:
            OSError: A file cannot be written. The old ones are intact.
        """
        with self._storage.read():
            pass  # what this index was opened from is still there
        storage = Storage.open(self._storage.file, self._timeout)
        try:
            with storage.read():
                if storage.meta()["index"] != self._identity:
                    raise PassageIndexError(
                        f"The index at {self._folder} was replaced while it was open here: open it again."
                    )
            if factory is not None:
                with storage.write():
                    storage.set_meta("factory", factory)
            while True:
                with storage.read():
                    plan = self._plan(storage, full)
                    if plan is None:
                        break
                    block, forget_from = self._build(storage, plan)
                row = None
                if len(block.keys):
                    row = write_block(self._folder, self._identity, block, plan.first, plan.last)
                with storage.write():
                    now = {segment.name for segment in storage.segments() if segment.last >= plan.first}
                    is_current = now == {segment.name for segment in plan.files}
                    if is_current:
                        storage.replace_segments(plan.files, row, plan.removals, forget_from)
                if not is_current:  # another process has done the same
                    remove_files(self._folder, [row.name] if row else [])
                    continue
                remove_files(self._folder, [segment.name for segment in plan.files])
                break
            with storage.read():
                names = {segment.name for segment in storage.segments()}
            remove_leftovers(self._folder, names | {""})
        finally:
            storage.close()

    def segments(self, storage: Storage) -> list[SegmentReport]:
        """What is known of each file; to be called inside `read()`."""
        return [
            {
                "file": row.name,
                "vectors": row.vectors,
                "removed": storage.removed_count(row.first, row.last),
                **_note(row),
            }
            for row in storage.segments()
        ]

    def check_files(self, storage: Storage) -> Iterable[str]:
        """Problems of the files; to be called inside `read()`."""
        for row in storage.segments():
            try:
                if file_checksum(self._folder / row.name) != row.checksum:
                    yield f"{row.name}: its content is not what its checksum says; --rebuild writes it anew."
                    continue
                block = read_block(self._folder, self._identity, row, self._dimension)
            except (OSError, ValueError, KeyError) as error:
                yield f"{row.name}: {error}; --rebuild writes it anew."
                continue
            block.kill(storage.removed_between(row.first, row.last))
            if block.living().tolist() != storage.vector_keys(row.first, row.last):
                yield f"{row.name}: its keys are not those of SQLite; --rebuild writes it anew."

    def _is_due(self) -> bool:
        storage = self._storage
        rows, count = storage.segments(), storage.state().passages
        after = rows[-1].last if rows else 0
        return storage.last_key() - after >= _threshold(count) or storage.removal_span() > max(
            _TAIL, count // _DEAD
        )

    def _plan(self, storage: Storage, full: bool) -> _Plan | None:
        rows, state, last = storage.segments(), storage.state(), storage.last_key()
        start, size = len(rows), 0
        after = rows[-1].last if rows else 0
        name = storage.meta().get("factory", factories.AUTO)
        if full:
            start, after = 0, 0
        elif last - after >= _threshold(state.passages):
            size = last - after
        for place in reversed(range(start)):
            row = rows[place]
            dead = storage.removed_count(row.first, row.last)
            share = _MERGED_AT if _note(row)["factory"] == "Flat" else _TRAINED_MERGED_AT
            if size * share > row.vectors or dead * _DEAD > row.vectors:
                start = place
                size = max(size, sum(other.vectors for other in rows[place:]) + last - rows[-1].last)
            elif size:
                break
        if not full and not size:
            return None
        first = rows[start].first if start < len(rows) else after + 1
        if last < first:
            return None
        whole = first == 1 or start == 0
        factory = factories.resolve(name, state.passages, self._dimension) if whole else "Flat"
        if full and [row.last for row in rows] == [last] and not storage.removed_count(1, last):
            is_same = _note(rows[0])["factory"] == factory
            if is_same and self._is_intact(rows[0]):
                return None
        return _Plan(rows[start:], 1 if whole else first, last, storage.last_removal(), factory, full)

    def _is_intact(self, row: SegmentRow) -> bool:
        try:
            return file_checksum(self._folder / row.name) == row.checksum
        except (OSError, ValueError):
            return False

    def _build(self, storage: Storage, plan: _Plan) -> tuple[Block, int]:
        """The new block, and the first key from which on removals can be forgotten."""
        base, start = self._start(storage, plan)
        first = plan.first if base is None else plan.files[0].last + 1
        parts: list[NDArray[np.int64]] = []

        def blocks() -> Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]:
            parts.clear()
            for keys, vectors in storage.vectors_between(first, plan.last, self._dimension):
                parts.append(keys)
                yield keys, vectors

        def build(
            factory: str, start: factories.FaissIndex | None
        ) -> tuple[factories.FaissIndex, factories.Note]:
            count = storage.state().passages if first == 1 else plan.last - first + 1
            return factories.build(factory, self._dimension, count, blocks, start)

        try:
            index, note = build(plan.factory, start)
            if start is not None and note["recall"] < _note(plan.files[0])["recall"] - _WORSE:
                logger.info("%s no longer suits what was added, and is trained anew.", plan.factory)
                base, first = None, plan.first
                index, note = build(plan.factory, None)
        except RuntimeError as error:  # FAISS's own words, such as for too few vectors to train with
            logger.warning("%s cannot be built (%s); Flat is used.", plan.factory, error)
            base, first = None, plan.first
            index, note = build("Flat", None)
        if base is not None:
            parts.insert(0, base.keys)
            note = factories.joined(base.note, note)
        return Block(index, np.concatenate([np.empty(0, np.int64), *parts]), note), first

    def _start(self, storage: Storage, plan: _Plan) -> tuple[Block | None, factories.FaissIndex | None]:
        """The first of the merged files with its index, if it can be added to; or a trained, empty index."""
        if not plan.files or plan.factory == "Flat" or _note(plan.files[0])["factory"] != plan.factory:
            return None, None
        row = plan.files[0]
        try:
            block = read_block(self._folder, self._identity, row, self._dimension, in_memory=True)
        except (OSError, ValueError, KeyError):
            return None, None
        if not plan.full and storage.removed_count(row.first, row.last) * _DEAD <= row.vectors:
            return block, block.index
        block.index.reset()
        return None, block.index


def _threshold(count: int) -> int:
    return max(_TAIL, count // _TAIL_SHARE)


def _note(row: SegmentRow) -> factories.Note:
    note: factories.Note = json.loads(row.note)
    return note
