"""Vectors in SQLite, the list of their FAISS files, and the removed keys that these still have."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import IndexDamagedError
from ...values import shown
from . import schema
from .database import Database, SqlRow

__all__ = ["SEGMENT_NAME", "SegmentRow", "VectorRows"]

SEGMENT_NAME = re.compile(r"vectors-[0-9a-f]{32}\.faiss")
"""Names that an index gives to its files; none of them leads out of its folder."""

_BLOCK = 4096
_REBUILD = "`nbce-rag index --rebuild` makes it anew"


class SegmentRow(NamedTuple):
    """A FAISS file, as SQLite knows it: see `segments.Segment`."""

    first: int
    last: int
    vectors: int
    name: str
    stamp: str
    checksum: int
    note: str


class VectorRows(Database):
    """Vectors by the key of their passage. All of this has to be called inside `read()` or `write()`."""

    def vector(self, key: int) -> bytes | None:
        """The bytes of a vector."""
        row = self._connection.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def vectors_between(
        self, first: int, last: int | None, dimension: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Keys [n], ascending, and vectors [n, d] of a range of keys, both ends in it, in blocks."""
        cursor = self._connection.execute(
            "SELECT key, vector, crc FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key",
            (first, 2**62 if last is None else last),
        )
        while rows := cursor.fetchmany(_BLOCK):
            yield self._arrays(rows, dimension)

    def vectors_of(
        self, keys: Iterable[int], dimension: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Keys [n], ascending, and vectors [n, d] of keys that are there."""
        order = sorted(keys)
        rows = list(self._select("SELECT key, vector, crc FROM vectors WHERE key", order))
        if len(rows) != len(order):
            raise self.damage("lacks vectors")
        if not rows:
            return np.empty(0, np.int64), np.empty((0, dimension), np.float32)
        return self._arrays(sorted(rows), dimension)

    def vectors_by_id(self, ids: Iterable[str], dimension: int) -> dict[str, NDArray[np.float32]]:
        """Vectors [d] by the id of their passage; unknown ids are left out."""
        query = "SELECT vectors.key, vector, vectors.crc, id FROM passages JOIN vectors USING (key) WHERE id"
        rows = list(self._select(query, list(ids)))
        if not rows:
            return {}
        _, vectors = self._arrays([row[:3] for row in rows], dimension)
        return {row[3]: vectors[place] for place, row in enumerate(rows)}

    def removed_after(self, seq: int) -> tuple[list[int], int]:
        """Keys that were removed after a removal of this number, and the number of the last."""
        rows = self._connection.execute("SELECT seq, key FROM removed WHERE seq > ? ORDER BY seq", (seq,))
        removals = rows.fetchall()
        return [key for _, key in removals], removals[-1][0] if removals else seq

    def removed_between(self, first: int, last: int) -> list[int]:
        """Removed keys of a range that are still remembered."""
        query = "SELECT key FROM removed WHERE key BETWEEN ? AND ?"
        return [row[0] for row in self._connection.execute(query, (first, last))]

    def removed_count(self, first: int, last: int) -> int:
        """How many these are."""
        query = "SELECT count(*) FROM removed WHERE key BETWEEN ? AND ?"
        return int(self._connection.execute(query, (first, last)).fetchone()[0])

    def removal_span(self) -> int:
        """At most so many removals are remembered."""
        return int(
            self._connection.execute("SELECT coalesce(max(seq) - min(seq) + 1, 0) FROM removed").fetchone()[0]
        )

    def vector_keys(self, first: int, last: int) -> list[int]:
        """Keys of the vectors of a range, ascending. Reads all of them."""
        query = "SELECT key FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key"
        return [row[0] for row in self._connection.execute(query, (first, last))]

    def last_removal(self) -> int:
        """The number of the last removal."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'removed'").fetchone()
        return int(row[0]) if row else 0

    def last_key(self) -> int:
        """The highest key that was ever given; 0 for none."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'passages'").fetchone()
        return int(row[0]) if row else 0

    def segments(self) -> list[SegmentRow]:
        """The FAISS files, by their range of keys.

        Raises:
            IndexDamagedError: The list of files holds something else.
        """
        rows = self._connection.execute(
            "SELECT first, last, count, name, stamp, checksum, note FROM segments ORDER BY first"
        )
        segments = [SegmentRow(*row) for row in rows]
        for segment in segments:
            if not _is_sound(segment):
                raise IndexDamagedError(
                    f"{self.file} names {shown(segment.name)} among its files of vectors, or says what "
                    f"cannot be of it: {_REBUILD}."
                )
        return segments

    def replace_segments(
        self, old: Collection[SegmentRow], new: SegmentRow | None, seq: int, forget_from: int
    ) -> None:
        """Names a new file in place of others.

        Of its keys from `forget_from` on, removals up to number `seq` are forgotten: it does not have them.
        """
        self._connection.executemany("DELETE FROM segments WHERE name = ?", [(row.name,) for row in old])
        if new is not None:
            self._connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", new)
            self._connection.execute(
                "DELETE FROM removed WHERE seq <= ? AND key BETWEEN ? AND ?", (seq, forget_from, new.last)
            )
        elif not old or forget_from == 1:
            self._connection.execute("DELETE FROM removed WHERE seq <= ? AND key >= ?", (seq, forget_from))
        schema.bump(self._connection)

    def _arrays(self, rows: list[SqlRow], dimension: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        for key, vector, crc in rows:
            if not isinstance(vector, bytes) or len(vector) != 4 * dimension or zlib.crc32(vector) != crc:
                raise self.damage(f"holds a damaged vector (of passage {key})")
        data = b"".join([row[1] for row in rows])
        vectors = np.frombuffer(data, dtype="<f4").reshape(len(rows), dimension)
        return np.array([row[0] for row in rows], dtype=np.int64), vectors.astype(np.float32, copy=False)


def _is_sound(row: SegmentRow) -> bool:
    """Whether a row is one that was written by `replace_segments`."""
    numbers = (row.first, row.last, row.vectors, row.checksum)
    if not all(isinstance(number, int) for number in numbers) or not isinstance(row.stamp, str):
        return False
    if not isinstance(row.name, str) or not SEGMENT_NAME.fullmatch(row.name):
        return False
    try:
        note = json.loads(row.note)
        options = note["options"].items()
        return (
            isinstance(note["factory"], str)
            and isinstance(note["recall"], int | float)
            and all(isinstance(value, int) and value > 0 for _, value in options)
            and isinstance(note.get("error", 0.0), int | float)
            and all(isinstance(key, int) and row.first <= key <= row.last for key in note.get("loose", []))
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
