"""The FAISS half of a passage index: exact search, and a file that saves making it anew from SQLite.

The file is what FAISS writes, with a trailer that FAISS ignores: JSON that says which index and which
commit it is a copy of, then lengths, a checksum and a mark.
"""

from __future__ import annotations

import json
import os
import struct
import time
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from .storage import Commit

__all__ = ["VectorCache", "saved_commit"]

faiss: Any = _faiss  # where it has type stubs, they lack what is used here

_MARK = b"NBCE-VEC"
_TAIL = struct.Struct("<QII8s")  # bytes of FAISS, bytes of JSON, CRC-32 of both, mark
_NOTE = {"index", "commit", "count", "dimension"}
_BLOCK = 1 << 20
_ABANDONED_AFTER_S = 3600.0


class VectorCache:
    """Normalised vectors in memory, searched by inner product, which is then their cosine. Not thread-safe.

    Attributes:
        commit: The state of the storage that this is a copy of; None for no state at all.
    """

    def __init__(self, dimension: int) -> None:
        self._index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self.commit: Commit | None = None
        self._highest = -1  # no key above it is here

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def remove(self, keys: Sequence[int] | NDArray[np.int64]) -> None:
        """Removes vectors; keys that are not here do no harm."""
        if len(keys):
            self._index.remove_ids(np.asarray(keys, dtype=np.int64))

    def put(self, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Adds or replaces the vectors [n, d] of the different keys [n]."""
        self.remove(keys[keys <= self._highest])
        self._highest = max(self._highest, int(keys.max(initial=-1)))
        self._index.add_with_ids(np.ascontiguousarray(vectors), keys)

    def search(
        self, vector: NDArray[np.float32], k: int, allowed: Sequence[int] | None = None
    ) -> list[tuple[int, float]]:
        """Keys and cosines of the k nearest vectors and of all that are as near as the last of them.

        Args:
            vector: Normalised, shape [d].
            k: At least 1.
            allowed: The keys to choose from; None: all.

        Returns:
            Best first; fewer than k where there are no more. Exact.
        """
        limit = len(self) if allowed is None else min(len(allowed), len(self))
        if not limit:
            return []
        parameters = None
        if allowed is not None:
            selector = faiss.IDSelectorBatch(np.asarray(allowed, dtype=np.int64))
            parameters = faiss.SearchParameters(sel=selector)
        size = min(k + 1, limit)
        while True:
            scores, keys = self._index.search(vector[None, :], size, params=parameters)
            found = keys[0] >= 0
            # Rounding makes some cosines 1.0000001.
            cosines = np.clip(scores[0][found], -1.0, 1.0).tolist()
            if size >= limit or len(cosines) < size or cosines[-1] < cosines[k - 1]:
                return list(zip(keys[0][found].tolist(), cosines, strict=True))
            size = min(size * 4, limit)

    def save(self, file: Path, identity: str) -> None:
        """Replaces the file at once: whoever reads it sees the old one or the new one.

        Raises:
            OSError: It cannot be written; the old file is as it was.
        """
        assert self.commit is not None
        _remove_abandoned(file)
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
        note = {"index": identity, "commit": self.commit, "count": len(self), "dimension": self._index.d}
        try:
            with temporary.open("xb") as stream:
                output = _Checked(stream)
                try:
                    faiss.write_index(self._index, faiss.PyCallbackIOWriter(output.write))
                except RuntimeError as error:  # FAISS's own words for a failed write
                    raise OSError(str(error)) from error
                size = output.size
                data = json.dumps(note).encode()
                output.write(data)
                stream.write(_TAIL.pack(size, len(data), output.checksum, _MARK))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(file.parent)

    @classmethod
    def load(cls, file: Path, identity: str, dimension: int) -> VectorCache | None:
        """Reads a file; None when it is missing, damaged, or belongs to another index."""
        try:
            with file.open("rb") as stream:
                note, size, checksum = _trailer(stream)
                if note["index"] != identity or note["dimension"] != dimension:
                    return None
                # First of all: FAISS is not made for reading what is damaged.
                if not _is_intact(stream, size, checksum):
                    return None
                stream.seek(0)
                index = faiss.read_index(faiss.PyCallbackIOReader(stream.read, _BLOCK))
        except (OSError, RuntimeError, ValueError):
            return None
        if not isinstance(index, faiss.IndexIDMap2) or (index.ntotal, index.d) != (note["count"], dimension):
            return None
        cache = cls(dimension)
        cache._index = index
        cache._highest = int(faiss.vector_to_array(index.id_map).max(initial=-1))
        cache.commit = Commit(*note["commit"])
        return cache


def saved_commit(file: Path, identity: str) -> Commit | None:
    """The commit that a file says it is a copy of, if it is of this index. Its data are not checked."""
    try:
        with file.open("rb") as stream:
            note, _, _ = _trailer(stream)
    except (OSError, ValueError):
        return None
    return Commit(*note["commit"]) if note["index"] == identity else None


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


def _trailer(stream: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """The trailer's JSON, the number of bytes that the checksum covers, and the checksum.

    Raises:
        ValueError: There is no such trailer.
    """
    total = stream.seek(0, os.SEEK_END)
    if total < _TAIL.size:
        raise ValueError("too short")
    stream.seek(total - _TAIL.size)
    size, note_size, checksum, mark = _TAIL.unpack(stream.read(_TAIL.size))
    if mark != _MARK or size + note_size + _TAIL.size != total:
        raise ValueError("no trailer, or of another length")
    stream.seek(size)
    note = json.loads(stream.read(note_size))
    if not isinstance(note, dict) or not note.keys() >= _NOTE or len(note["commit"]) != 2:
        raise ValueError("not our trailer")
    return note, size + note_size, checksum


def _is_intact(stream: BinaryIO, size: int, checksum: int) -> bool:
    stream.seek(0)
    found = 0
    while size and (block := stream.read(min(_BLOCK, size))):
        found = zlib.crc32(block, found)
        size -= len(block)
    return not size and found == checksum


def _remove_abandoned(file: Path) -> None:
    """Deletes temporary files of processes that died while saving."""
    for path in file.parent.glob(f"{file.name}.*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                path.unlink()
        except OSError:
            continue


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power failure, where the system can do that for folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
