"""Blocks of vectors that are searched, and the files that hold them.

A file is what FAISS writes, and behind it the keys of its vectors, a note in JSON, their lengths, a
checksum, and a mark.
"""

from __future__ import annotations

import json
import os
import struct
import time
import uuid
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from ..sqlite.storage import SegmentRow
from . import factories

__all__ = ["Block", "file_checksum", "read_block", "remove_files", "write_block"]

faiss: Any = _faiss

_MARK = b"NBCESEG2"
_TAIL = struct.Struct("<QQII8s")  # bytes of FAISS, of keys, of JSON; CRC-32 of all; mark
_READ = 1 << 20
_ABANDONED_AFTER_S = 3600.0
_GATHERED = 1024
_NOISE = 1e-6  # what summing in another order can change of a cosine


class Block:
    """Vectors under ascending keys, searched by inner product, which is their cosine. Not thread-safe.

    Attributes:
        keys: Ascending, [n].
        note: See `factories.build`.
    """

    def __init__(self, index: Any, keys: NDArray[np.int64], note: Mapping[str, Any] | None = None) -> None:
        self.keys = keys
        self.note: Mapping[str, Any] = note or {"factory": "Flat", "options": {}, "recall": 1.0}
        self.exact = factories.is_flat(index)
        self.index = index
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
        """Where those of these keys are that are here and count."""
        if not len(self.keys):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.keys, keys)
        places = places[self.keys[np.minimum(places, len(self.keys) - 1)] == keys]
        found: NDArray[np.int64] = places if self._alive is None else places[self._alive[places]]
        return found

    def vectors(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors [n, d] at these places; of an exact block only."""
        matrix = faiss.rev_swig_ptr(self.index.get_xb(), len(self.keys) * self.index.d)
        chosen: NDArray[np.float32] = matrix.reshape(-1, self.index.d)[places]
        return chosen

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        places: NDArray[np.int64] | None,
        options: Mapping[str, int],
    ) -> list[NDArray[np.int64]]:
        """Places of the k nearest to each query and of all that are as near as the last of them.

        Args:
            queries: Normalised, [q, d].
            k: At least 1. Of a block that is not exact come more: candidates.
            places: To choose from, ascending; None: all.
            options: See `factories.parameters`; before those of the note.
        """
        limit = len(self) if places is None else len(places)
        if not limit:
            return [np.empty(0, np.int64)] * len(queries)
        if not self.exact:
            chosen = {**factories.widened(self.note["options"], limit / len(self.keys)), **options}
            size = min(factories.candidates(k), limit)
            return [found[found >= 0] for found in self._look_up(queries, size, places, chosen)[1]]
        gathered = None
        if places is not None and limit <= max(_GATHERED, len(self.keys) // 16):
            gathered = self.vectors(places)
        size = min(k + 1, limit)
        while True:
            if gathered is None or places is None:
                scores, found = self._look_up(queries, size, places, {})
            else:
                scores, found = faiss.knn(queries, gathered, size, metric=faiss.METRIC_INNER_PRODUCT)
                found = np.where(found >= 0, places[found], -1)
            if size >= limit or (scores[:, -1] < scores[:, k - 1] - _NOISE).all():
                return [row[row >= 0] for row in found]
            size = min(size * 4, limit)

    def _look_up(
        self,
        queries: NDArray[np.float32],
        size: int,
        places: NDArray[np.int64] | None,
        options: Mapping[str, int],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        allowed = self._alive
        if places is not None:
            allowed = np.zeros(len(self.keys), dtype=bool)
            allowed[places] = True
        selector = None
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        try:
            scores, found = self.index.search(
                queries, size, params=factories.parameters(self.index, options, selector)
            )
            return scores, found
        except RuntimeError:
            if allowed is None:
                raise
        return self._over_fetch(queries, size, allowed, options)

    def _over_fetch(
        self,
        queries: NDArray[np.float32],
        size: int,
        allowed: NDArray[np.bool_],
        options: Mapping[str, int],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """For the few kinds of FAISS index that take no selectors: asks for more until enough is left."""
        parameters = factories.parameters(self.index, options)
        fetch = size
        while True:
            fetch = min(4 * fetch, len(self.keys))
            scores, found = self.index.search(queries, fetch, params=parameters)
            wanted = (found >= 0) & allowed[found]
            if fetch == len(self.keys) or (wanted.sum(axis=1) >= size).all() or (found[:, -1] < 0).all():
                order = np.argsort(~wanted, axis=1, kind="stable")[:, :size]
                kept = np.take_along_axis(np.where(wanted, found, -1), order, axis=1)
                return np.take_along_axis(scores, order, axis=1), kept


def write_block(folder: Path, identity: str, block: Block, first: int, last: int) -> SegmentRow:
    """Writes a block to a new file in the folder.

    Args:
        folder: Of the index.
        identity: Of the index.
        block: The vectors.
        first, last: The range of keys that it stands for.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    remove_abandoned(folder)
    name = f"vectors-{uuid.uuid4().hex}.faiss"
    temporary = folder / f"{name}.tmp"
    try:
        with temporary.open("xb") as stream:
            output = _Checked(stream)
            try:
                faiss.write_index(block.index, faiss.PyCallbackIOWriter(output.write))
            except RuntimeError as error:  # FAISS's own words for a failed write
                raise OSError(str(error)) from error
            size = output.size
            keys = np.ascontiguousarray(block.keys, dtype="<i8").tobytes()
            note = json.dumps({"index": identity, "name": name, **block.note}).encode()
            output.write(keys)
            output.write(note)
            stream.write(_TAIL.pack(size, len(keys), len(note), output.checksum, _MARK))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, folder / name)
        _sync_folder(folder)
        return SegmentRow(
            first, last, len(block.keys), name, stamp(folder / name), output.checksum, json.dumps(block.note)
        )
    except BaseException:
        for path in (temporary, folder / name):
            path.unlink(missing_ok=True)
        raise


def read_block(folder: Path, identity: str, row: SegmentRow, dimension: int, *, mapped: bool = True) -> Block:
    """Opens the file that a row names; its bytes are read when they are needed.

    A file that is not as it was when it was written (size, times, inode) is read whole, and compared with its
    checksum, before FAISS, which is not made for reading what is damaged, is given it.

    Raises:
        OSError, ValueError: It is missing, damaged, or of another index.
    """
    path = folder / row.name
    with path.open("rb") as stream:
        size, keys_size, note_size, checksum = _lengths(stream)
        if checksum != row.checksum:
            raise ValueError("another checksum than was recorded")
        if stamp(path) != row.stamp and _crc(stream, size + keys_size + note_size) != checksum:
            raise ValueError("another content than its checksum says")
        stream.seek(size)
        keys = np.frombuffer(stream.read(keys_size), dtype="<i8").astype(np.int64, copy=False)
        note = json.loads(stream.read(note_size))
    if note["index"] != identity or note["name"] != row.name:
        raise ValueError("a file of another index")
    try:
        index = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0) if mapped else 0)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if (index.ntotal, index.d, len(keys)) != (row.vectors, dimension, row.vectors):
        raise ValueError("another number of vectors, or of dimensions")
    return Block(index, keys, json.loads(row.note))


def file_checksum(path: Path) -> int:
    """The checksum of a file's content as it is now.

    Raises:
        OSError, ValueError: It cannot be read, or is none of ours.
    """
    with path.open("rb") as stream:
        size, keys_size, note_size, _ = _lengths(stream)
        return _crc(stream, size + keys_size + note_size)


def remove_files(folder: Path, names: Collection[str]) -> None:
    """Deletes files; where a system keeps those that are mapped, they stay until they are abandoned."""
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError:
            continue


def remove_abandoned(folder: Path, known: Collection[str] = ()) -> None:
    """Deletes unfinished files of processes that died, and, given the files that count, all others."""
    patterns = ("vectors*.tmp", "vectors*.faiss") if known else ("vectors*.tmp",)
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        try:
            if path.name not in known and time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                path.unlink()
        except OSError:
            continue


def stamp(path: Path) -> str:
    """What changes when a file does."""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


class _Checked:
    """Writes to a stream, keeping count and checksum."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = 0
        self.checksum = 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        return len(data)


def _lengths(stream: BinaryIO) -> tuple[int, int, int, int]:
    """Bytes of FAISS, of keys and of JSON, and the checksum.

    Raises:
        ValueError: There is no such end.
    """
    total = stream.seek(0, os.SEEK_END)
    if total < _TAIL.size:
        raise ValueError("too short")
    stream.seek(total - _TAIL.size)
    size, keys_size, note_size, checksum, mark = _TAIL.unpack(stream.read(_TAIL.size))
    if mark != _MARK or size + keys_size + note_size + _TAIL.size != total:
        raise ValueError("no such end, or of another length")
    return size, keys_size, note_size, checksum


def _crc(stream: BinaryIO, size: int) -> int:
    stream.seek(0)
    found = 0
    while size and (block := stream.read(min(_READ, size))):
        found = zlib.crc32(block, found)
        size -= len(block)
    if size:
        raise ValueError("too short")
    return found


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power failure, where the system can do that for folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
