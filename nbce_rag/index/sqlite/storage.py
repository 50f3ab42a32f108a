"""The SQLite half of a passage index, which is the truth: passages, metadata, vectors, files taken in."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import IndexDamagedError, InputError
from ...passages import Passage
from . import schema
from .attributes import attribute_rows
from .database import RESTORE, Database
from .words import indexed

__all__ = ["Row", "SegmentRow", "State", "Storage"]

_PASSAGE = "text, id, title, source, span_start, span_end, metadata, content_hash, crc"
_CHUNK = 500  # values in one statement; SQLite's oldest limit is 999
_BLOCK = 4096


class Row(NamedTuple):
    """A passage to be stored: its normalised vector, and the file that it comes from, if from one."""

    passage: Passage
    vector: bytes | None
    file: str | None


class State(NamedTuple):
    """What tells whether something has changed: a number that grows, and how many passages there are."""

    generation: int
    passages: int


class SegmentRow(NamedTuple):
    """A FAISS file, as SQLite knows it: see `segments.Segment`."""

    first: int
    last: int
    vectors: int
    name: str
    stamp: str
    checksum: int
    note: str


class Storage(Database):
    """What is in the file. All of this has to be called inside `read()` or `write()`."""

    def meta(self) -> dict[str, str]:
        """What was given to `create`."""
        meta = dict(self._connection.execute("SELECT key, value FROM meta"))
        if not meta.keys() >= {"index", "embedder", "embedder_kind", "dimension"}:
            raise IndexDamagedError(f"{self.file} does not say which embedder it was made with: {RESTORE}")
        return meta

    def set_meta(self, key: str, value: str) -> None:
        """Records something about the index."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def state(self) -> State:
        """The newest state."""
        row = self._connection.execute("SELECT generation, count FROM state").fetchone()
        if row is None:
            raise self.damaged("has no state")
        return State(*row)

    # Reading passages

    def by_keys(self, keys: Iterable[int]) -> dict[int, Passage]:
        """Passages by their key."""
        rows = self._select(f"SELECT key, {_PASSAGE} FROM passages WHERE key", keys)
        return {row[0]: self._passage(row[1:]) for row in rows}

    def by_id(self, passage_id: str) -> Passage | None:
        """The passage of an id."""
        row = self._connection.execute(
            f"SELECT {_PASSAGE} FROM passages WHERE id = ?", (passage_id,)
        ).fetchone()
        return self._passage(row) if row else None

    def keys(self, ids: Iterable[str]) -> list[int]:
        """Keys of the passages of these ids."""
        return [row[0] for row in self._select("SELECT key FROM passages WHERE id", set(ids))]

    def ids(self, keys: Iterable[int]) -> list[str]:
        """Ids of the passages of these keys."""
        return [row[0] for row in self._select("SELECT id FROM passages WHERE key", keys)]

    def page(self, after: int, size: int) -> list[tuple[int, Passage]]:
        """Up to `size` passages whose keys are above `after`, in the order in which they were added."""
        rows = self._connection.execute(
            f"SELECT key, {_PASSAGE} FROM passages WHERE key > ? ORDER BY key LIMIT ?", (after, size)
        )
        return [(row[0], self._passage(row[1:])) for row in rows]

    def sources(self) -> dict[str, int]:
        """Number of passages of each source, sorted by source."""
        return dict(
            self._connection.execute(
                "SELECT source, count(*) FROM passages WHERE source IS NOT NULL "
                "GROUP BY source ORDER BY source"
            )
        )

    def fingerprint(self, file: str) -> str | None:
        """What `finish_file` recorded for a file."""
        row = self._connection.execute("SELECT fingerprint FROM files WHERE path = ?", (file,)).fetchone()
        return row[0] if row else None

    def lacking(self, passages: Iterable[Passage]) -> set[str]:
        """Ids of those passages that are not stored with the same title and text."""
        hashes = {passage.id: passage.content_hash for passage in passages}
        rows = self._select("SELECT id, content_hash FROM passages WHERE id", hashes)
        stored = {row[0] for row in rows if hashes[row[0]] == row[1]}
        return hashes.keys() - stored

    # What filters look up

    def fields(self, keys: Iterable[int] | None) -> Iterator[tuple[int, str, str | None, str | None, str]]:
        """Key, id, source, title and metadata (JSON) of some passages, or of all."""
        query = "SELECT key, id, source, title, metadata FROM passages"
        if keys is None:
            yield from self._connection.execute(query)
        else:
            for row in self._select(f"{query} WHERE key", keys):
                yield row[0], row[1], row[2], row[3], row[4]

    def attributes(self, name: str, clause: str, values: tuple[Any, ...]) -> list[tuple[int, str, Any]]:
        """Key, kind and value of the rows of a name that meet SQL."""
        return self._attributes("key, kind, value", name, clause, values).fetchall()

    def attribute_keys(self, name: str, clause: str, values: tuple[Any, ...]) -> list[tuple[int]]:
        """Keys of the rows of a name that meet SQL, each in a tuple of its own."""
        return self._attributes("key", name, clause, values).fetchall()

    def count_attributes(self, name: str, clause: str, values: tuple[Any, ...], limit: int) -> int:
        """How many rows of a name meet SQL, counted up to a limit."""
        cursor = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM attributes "
            "WHERE name = (SELECT id FROM names WHERE name = ?) "
            f"AND {clause} LIMIT ?)",
            (name, *values, limit),
        )
        return int(cursor.fetchone()[0])

    def column(self, column: str) -> Iterator[tuple[int, str | None]]:
        """Key and `id`, `source` or `title` of every passage."""
        return iter(self._connection.execute(f"SELECT key, {column} FROM passages"))

    def column_in(self, column: str, values: list[str]) -> list[tuple[int]]:
        """Keys of the passages whose `id`, `source` or `title` is one of the values, each in a tuple."""
        return [(row[0],) for row in self._select(f"SELECT key FROM passages WHERE {column}", values)]

    def column_empty(self, column: str) -> list[tuple[int]]:
        """Keys of the passages without `source` or `title`, each in a tuple of its own."""
        return self._connection.execute(f"SELECT key FROM passages WHERE {column} IS NULL").fetchall()

    def match_words(self, expression: str, limit: int) -> list[tuple[int, float]]:
        """Keys and BM25 scores, best first, of the passages that match an expression of FTS5."""
        rows = self._connection.execute(
            "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?",
            (expression, limit),
        )
        return rows.fetchall()

    # Changing passages

    def upsert(self, rows: Collection[Row]) -> int:
        """Stores passages of different ids; those that are stored just so are left alone.

        A vector may be None where title and text are stored already, which then keep theirs. Returns how
        many were new or changed.
        """
        ids = [row.passage.id for row in rows]
        query = (
            "SELECT id, key, file, content_hash, source, title, span_start, span_end, metadata, text "
            "FROM passages WHERE id"
        )
        stored = {row[0]: row[1:] for row in self._select(query, ids)}
        names: dict[str, int] = {}
        changed = added = 0
        for row in rows:
            passage, metadata = row.passage, json_metadata(row.passage)
            content = passage.content_hash
            fields = (content, passage.source, passage.title, passage.start, passage.end, metadata)
            key, file, *rest = stored.get(passage.id, (None, None))
            old_fields = tuple(rest[:6])
            vector = row.vector
            if key is not None and old_fields[0] == content:
                old_vector = self.vector(key)
                if vector is None or vector == old_vector:
                    if old_fields == fields and row.file in (None, file):
                        continue
                    changed += old_fields != fields
                    self._change_metadata(key, row, file, fields, str(old_fields[5]), names)
                    continue
            assert vector is not None
            if key is not None:
                self._remove({key: (old_fields[2], str(rest[6]), str(old_fields[5]))})
                added -= 1
            self._insert(row, row.file or file, fields, vector, names)
            changed, added = changed + 1, added + 1
        if changed:
            schema.bump(self._connection, added)
        return changed

    def delete(
        self,
        ids: Iterable[str] = (),
        source: str | None = None,
        file: str | None = None,
        keys: Iterable[int] = (),
    ) -> int:
        """Removes the passages of these ids, this source, this file, and these keys. Returns their number."""
        found = {row[0]: row[1] for row in self._select("SELECT key, file FROM passages WHERE id", ids)}
        found.update(self._select("SELECT key, file FROM passages WHERE key", keys))
        if source is not None or file is not None:
            query = (
                "SELECT key, file FROM passages WHERE source = ? "
                "UNION SELECT key, file FROM passages WHERE file = ?"
            )
            found.update(self._connection.execute(query, (source, file)))
        self._forget(found)
        # A file of which nothing is left is to be taken in again when it is next given.
        self._connection.executemany(
            "DELETE FROM files WHERE path = ?1 AND NOT EXISTS (SELECT 1 FROM passages WHERE file = ?1)",
            [(path,) for path in set(found.values()) if path is not None],
        )
        return len(found)

    def others_of(self, sources: Collection[str], ids: Collection[str]) -> list[int]:
        """Keys of the passages of these sources that have other ids than these."""
        rows = self._select("SELECT key, id FROM passages WHERE source", sources)
        return [key for key, passage_id in rows if passage_id not in ids]

    def finish_file(self, file: str, fingerprint: str, ids: Collection[str]) -> int:
        """Removes the passages of a file that are not among `ids`, and records that it was taken in."""
        rows = self._connection.execute("SELECT key, id FROM passages WHERE file = ?", (file,))
        gone = [key for key, passage_id in rows if passage_id not in ids]
        self._forget(gone)
        self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (file, fingerprint))
        return len(gone)

    # Vectors

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
        wanted = sorted(keys)
        rows = list(self._select("SELECT key, vector, crc FROM vectors WHERE key", wanted))
        if len(rows) != len(wanted):
            raise self.damaged("lacks vectors")
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
        found = rows.fetchall()
        return [key for _, key in found], found[-1][0] if found else seq

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
        """The FAISS files, by their range of keys."""
        rows = self._connection.execute(
            "SELECT first, last, count, name, stamp, checksum, note FROM segments ORDER BY first"
        )
        return [SegmentRow(*row) for row in rows]

    def replace_segments(
        self, gone: Collection[SegmentRow], new: SegmentRow | None, seq: int, forget_from: int
    ) -> None:
        """Names a new file in place of others.

        Of its keys from `forget_from` on, removals up to number `seq` are forgotten: it does not have them.
        """
        self._connection.executemany("DELETE FROM segments WHERE name = ?", [(row.name,) for row in gone])
        if new is not None:
            self._connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", new)
            self._connection.execute(
                "DELETE FROM removed WHERE seq <= ? AND key BETWEEN ? AND ?", (seq, forget_from, new.last)
            )
        elif not gone or forget_from == 1:
            self._connection.execute("DELETE FROM removed WHERE seq <= ? AND key >= ?", (seq, forget_from))
        schema.bump(self._connection)

    def _insert(
        self, row: Row, file: str | None, fields: tuple[Any, ...], vector: bytes, names: dict[str, int]
    ) -> None:
        passage, metadata = row.passage, fields[5]
        crc = schema.checksum(passage.id, *fields, passage.text)
        key = self._connection.execute(
            "INSERT INTO passages(id, file, content_hash, source, title, span_start, span_end, metadata, "
            "text, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (passage.id, file, *fields, passage.text, crc),
        ).lastrowid
        assert key is not None
        self._connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (key, vector, zlib.crc32(vector)))
        schema.put_derived(self._connection, names, key, passage.title, passage.text, metadata)

    def _change_metadata(
        self,
        key: int,
        row: Row,
        file: str | None,
        fields: tuple[Any, ...],
        old_metadata: str,
        names: dict[str, int],
    ) -> None:
        passage, metadata = row.passage, fields[5]
        self._connection.execute(
            "UPDATE passages SET file = ?, source = ?, title = ?, span_start = ?, span_end = ?, "
            "metadata = ?, crc = ? WHERE key = ?",
            (row.file or file, *fields[1:], schema.checksum(passage.id, *fields, passage.text), key),
        )
        if metadata != old_metadata:
            self._remove_attributes(key, old_metadata)
            schema.put_attributes(self._connection, names, key, metadata)

    def _forget(self, keys: Iterable[int]) -> None:
        query = "SELECT key, title, text, metadata FROM passages WHERE key"
        found = {row[0]: row[1:] for row in self._select(query, keys)}
        if found:
            self._remove(found)
            schema.bump(self._connection, -len(found))

    def _remove(self, found: dict[int, tuple[str | None, str, str]]) -> None:
        """Removes passages: their title, text and metadata by key."""
        single = [(key,) for key in found]
        for key, (title, text, metadata) in found.items():
            self._connection.execute(
                "INSERT INTO words(words, rowid, title, text) VALUES ('delete', ?, ?, ?)",
                (key, indexed(title or ""), indexed(text)),
            )
            self._remove_attributes(key, metadata)
        self._connection.executemany("DELETE FROM passages WHERE key = ?", single)
        self._connection.executemany("DELETE FROM vectors WHERE key = ?", single)
        self._connection.executemany("INSERT INTO removed(key) VALUES (?)", single)

    def _remove_attributes(self, key: int, metadata: str) -> None:
        rows = [(kind, value, key, name) for name, kind, value in attribute_rows(self.metadata(metadata))]
        self._connection.executemany(
            "DELETE FROM attributes WHERE kind = ?1 AND value = ?2 AND key = ?3 "
            "AND name = (SELECT id FROM names WHERE name = ?4)",
            rows,
        )

    def _attributes(self, columns: str, name: str, clause: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        return self._connection.execute(
            f"SELECT {columns} FROM attributes "
            f"WHERE name = (SELECT id FROM names WHERE name = ?) AND {clause}",
            (name, *values),
        )

    def _select(self, query: str, values: Iterable[int] | Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query that ends in the column that has to be one of the values."""
        every = list(values)
        for start in range(0, len(every), _CHUNK):
            part = every[start : start + _CHUNK]
            marks = ", ".join("?" * len(part))
            yield from self._connection.execute(f"{query} IN ({marks})", part).fetchall()

    def _arrays(
        self, rows: list[tuple[Any, ...]], dimension: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        for key, vector, crc in rows:
            if len(vector) != 4 * dimension or zlib.crc32(vector) != crc:
                raise self.damaged(f"holds a damaged vector (of passage {key})")
        data = b"".join([row[1] for row in rows])
        vectors = np.frombuffer(data, dtype="<f4").reshape(len(rows), dimension)
        return np.array([row[0] for row in rows], dtype=np.int64), vectors.astype(np.float32, copy=False)

    def metadata(self, data: str) -> dict[str, Any]:
        try:
            metadata: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise self.damaged("holds metadata that is not JSON") from error
        return metadata

    def _passage(self, row: tuple[Any, ...]) -> Passage:
        text, passage_id, title, source, start, end, metadata, content, crc = row
        if schema.checksum(passage_id, content, source, title, start, end, metadata, text) != crc:
            raise self.damaged(f"holds a damaged passage ({passage_id!r})")
        return Passage(text, passage_id, title, source, start, end, self.metadata(metadata))

    def damaged(self, what: str) -> IndexDamagedError:
        return IndexDamagedError(f"{self.file} {what}: {RESTORE}")


def json_metadata(passage: Passage) -> str:
    """Metadata as JSON.

    Raises:
        InputError: It holds something that JSON does not, or is no mapping.
    """
    try:
        return json.dumps(dict(passage.metadata), ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"The metadata of passage {passage.id!r} cannot be stored ({error}): use strings, finite "
            "numbers, booleans, None, and lists and dictionaries of these."
        ) from error
