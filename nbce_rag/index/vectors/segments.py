"""The files that hold blocks of vectors: written whole, checked, read, removed.

A file is what FAISS writes, and behind it the keys of its vectors, a note in JSON, their lengths, a
checksum, and a mark.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import faiss as _faiss
import numpy as np

from ..sqlite.vector_rows import SEGMENT_NAME, SegmentRow
from .block import Block
from .soundness import check_sound

__all__ = ["file_checksum", "read_block", "remove_files", "remove_leftovers", "write_block"]

faiss: Any = _faiss

_MARK = b"NBCESEG2"
_TAIL = struct.Struct("<QQII8s")  # bytes of FAISS, of keys, of JSON; CRC-32 of all; mark
_READ = 1 << 20
_COPIED_UP_TO = (
    1 << 20
)  # bytes. Of larger ones a copy takes memory, and FAISS is slower in it than in a mapping
_LEFTOVER_AFTER_S = 3600.0

_reading = threading.Lock()


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
    remove_leftovers(folder)
    name = f"vectors-{uuid.uuid4().hex}.faiss"
    temporary = folder / f"{name}.tmp"
    try:
        with temporary.open("xb") as stream:
            output = _ChecksumWriter(stream)
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


def read_block(
    folder: Path, identity: str, row: SegmentRow, dimension: int, *, in_memory: bool = False
) -> Block:
    """Opens the file that a row names.

    It is read into memory where it is small, or with `in_memory`; a large one is mapped, and the block knows
    when it is no longer what it was. A file that is not as it was when it was written (size, times, inode)
    is read whole first, and compared with its checksum; and since whoever made it can have made that too,
    what FAISS makes of it is looked through before it is searched.

    Raises:
        OSError, ValueError: It is missing, damaged, of another index, or no file of this folder.
    """
    path = folder / row.name
    if path.is_symlink():
        raise ValueError("a link to a file elsewhere")
    with path.open("rb") as stream:
        size, keys_size, note_size, checksum = _lengths(stream)
        if checksum != row.checksum:
            raise ValueError("another checksum than was recorded")
        is_own = stamp(path) == row.stamp
        if not is_own and _crc(stream, size + keys_size + note_size) != checksum:
            raise ValueError("another content than its checksum says")
        stream.seek(size)
        keys = np.frombuffer(stream.read(keys_size), dtype="<i8").astype(np.int64, copy=False)
        note = _note(stream.read(note_size))
    if note.get("index") != identity or note.get("name") != row.name:
        raise ValueError("a file of another index")
    is_mapped = not in_memory and size > _COPIED_UP_TO
    try:
        with _bounded(size):
            index = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0) if is_mapped else 0)
        if (index.ntotal, index.d, len(keys)) != (row.vectors, dimension, row.vectors):
            raise ValueError("another number of vectors, or of dimensions")
        if not is_own:
            check_sound(index)
    except (RuntimeError, MemoryError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"FAISS cannot read it: {error}") from error
    if len(keys) and (keys[0] < row.first or keys[-1] > row.last or (np.diff(keys) <= 0).any()):
        raise ValueError("other keys than were recorded")
    block = Block(index, keys, json.loads(row.note))
    if is_mapped:
        block.is_intact = _watch(block, path)
    return block


@contextmanager
def _bounded(size: int) -> Iterator[None]:
    """FAISS makes no room for more than the file holds, whatever that says; older ones know no such bound."""
    get = getattr(faiss, "get_deserialization_vector_byte_limit", None)
    if get is None:
        yield
        return
    with _reading:  # the bound is one for all threads
        before = get()
        faiss.set_deserialization_vector_byte_limit(min(before, size) if before else size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def _note(data: bytes) -> dict[str, Any]:
    try:
        note = json.loads(data)
    except RecursionError as error:
        raise ValueError("no such note") from error
    if not isinstance(note, dict):
        raise ValueError("no such note")
    return note


def _watch(block: Block, path: Path) -> Callable[[], bool]:
    """Says whether the mapped file is as long and as old as now, whatever becomes of its name.

    Reading what is mapped beyond the end of a file that was cut short ends the process. It is asked before
    and after each search in a block, so that what remains is a file that another program cuts short in the
    milliseconds between; an index itself never does that to a file, but writes another.
    """
    descriptor = os.open(path, os.O_RDONLY)
    weakref.finalize(block, os.close, descriptor)

    def now() -> tuple[int, int]:
        status = os.fstat(descriptor)
        return status.st_size, status.st_mtime_ns

    before = now()
    return lambda: now() == before


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
            if SEGMENT_NAME.fullmatch(name):
                (folder / name).unlink(missing_ok=True)
        except OSError:
            continue


def remove_leftovers(folder: Path, names: Collection[str] = ()) -> None:
    """Deletes unfinished files of processes that died, and, given the files that count, all others of ours.

    What has another name than an index gives to its files is somebody else's.
    """
    for path in folder.glob("vectors-*"):
        is_unfinished = path.suffix == ".tmp"
        if not (is_unfinished or names) or path.name in names:
            continue
        if not SEGMENT_NAME.fullmatch(path.stem if is_unfinished else path.name):
            continue
        try:
            if time.time() - path.lstat().st_mtime > _LEFTOVER_AFTER_S:
                path.unlink()
        except OSError:
            continue


def stamp(path: Path) -> str:
    """What changes when a file does."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


class _ChecksumWriter:
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
    checksum = 0
    while size and (block := stream.read(min(_READ, size))):
        checksum = zlib.crc32(block, checksum)
        size -= len(block)
    if size:
        raise ValueError("too short")
    return checksum


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power failure, where the system can do that for folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
