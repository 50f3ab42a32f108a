"""The SQLite half of a passage index, which is the truth: passages, metadata, vectors, files taken in.

Each change of vectors is a numbered commit. A copy of the vectors that knows the commit it was made at
(in memory, or in the FAISS file) is brought up to date by what came after, without reading the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import IndexDamagedError, InputError
from ..passages import Passage
from .database import RESTORE, Database, new_token

__all__ = ["Commit", "Row", "Storage"]

_PASSAGE = "text, id, title, source, span_start, span_end, metadata"
_FIELDS = "content_hash, source, title, span_start, span_end, metadata"
_CHUNK = 500  # values in one statement; SQLite's oldest limit is 999
_KEPT_REMOVALS = 10_000


class Commit(NamedTuple):
    """A state of the vectors. The random token tells two histories apart, as after a restored backup."""

    id: int
    token: int


class Row(NamedTuple):
    """A passage to be stored: its normalised vector, and the file that it comes from, if from one."""

    passage: Passage
    vector: bytes | None
    file: str | None


class Storage(Database):
    """What is in the file. All of this has to be called inside `read()` or `write()`."""

    def meta(self) -> dict[str, str]:
        """What was given to `create`."""
        meta = dict(self._connection.execute("SELECT key, value FROM meta"))
        if not meta.keys() >= {"index", "embedder", "embedder_kind", "dimension"}:
            raise IndexDamagedError(f"{self.file} does not say which embedder it was made with: {RESTORE}")
        return meta

    def count(self) -> int:
        """Number of passages."""
        return int(self._connection.execute("SELECT count(*) FROM passages").fetchone()[0])

    # Reading passages

    def by_keys(self, keys: Iterable[int]) -> dict[int, Passage]:
        """Passages by their key, an integer that is never used again."""
        rows = self._select(f"SELECT key, {_PASSAGE} FROM passages WHERE key", keys)
        return {row[0]: self._passage(row[1:]) for row in rows}

    def by_id(self, passage_id: str) -> Passage | None:
        """The passage of an id."""
        row = self._connection.execute(
            f"SELECT {_PASSAGE} FROM passages WHERE id = ?", (passage_id,)
        ).fetchone()
        return self._passage(row) if row else None

    def keys(self, ids: Iterable[str]) -> set[int]:
        """Keys of the passages of these ids."""
        return {row[0] for row in self._select("SELECT key FROM passages WHERE id", ids)}

    def page(self, after: int, size: int) -> list[tuple[int, Passage]]:
        """Up to `size` passages whose keys are above `after`, in the order in which they were added."""
        rows = self._connection.execute(
            f"SELECT key, {_PASSAGE} FROM passages WHERE key > ? ORDER BY key LIMIT ?", (after, size)
        )
        return [(row[0], self._passage(row[1:])) for row in rows]

    def fields(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Key of each passage, with what a filter may ask for: its metadata, id, source and title."""
        rows = self._connection.execute("SELECT key, id, source, title, metadata FROM passages")
        for key, passage_id, source, title, metadata in rows:
            yield key, {"id": passage_id, "source": source, "title": title, **self._metadata(metadata)}

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

    # Changing passages

    def upsert(self, rows: Collection[Row]) -> int:
        """Stores passages of different ids; those that are stored just so are left alone.

        The vector may be None where title and text are stored already. Returns how many were new or changed.
        """
        ids = [row.passage.id for row in rows]
        stored = {
            row[0]: row[1:]
            for row in self._select(f"SELECT id, key, file, {_FIELDS} FROM passages WHERE id", ids)
        }
        commit: int | None = None
        changed = 0
        for row in rows:
            passage = row.passage
            fields = (
                passage.content_hash,
                passage.source,
                passage.title,
                passage.start,
                passage.end,
                json_metadata(passage),
            )
            key, file, *old = stored.get(passage.id, (None, None))
            if old == list(fields) and row.file in (None, file):
                continue
            changed += old != list(fields)
            key = self._connection.execute(
                f"INSERT INTO passages(id, file, {_FIELDS}, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT(id) DO UPDATE SET file = coalesce(excluded.file, file), "
                "content_hash = excluded.content_hash, source = excluded.source, title = excluded.title, "
                "span_start = excluded.span_start, span_end = excluded.span_end, "
                "metadata = excluded.metadata, text = excluded.text RETURNING key",
                (passage.id, row.file, *fields, passage.text),
            ).fetchone()[0]
            if old and old[0] == passage.content_hash:
                continue
            assert row.vector is not None
            commit = commit or self._new_commit()
            self._connection.execute(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", (key, commit, row.vector)
            )
        return changed

    def delete(self, ids: Iterable[str] = (), source: str | None = None, file: str | None = None) -> int:
        """Removes the passages of these ids, of this source, and of this file. Returns their number."""
        keys = {row[0]: row[1] for row in self._select("SELECT key, file FROM passages WHERE id", ids)}
        keys.update(
            self._connection.execute(
                "SELECT key, file FROM passages WHERE source = ? UNION SELECT key, file FROM passages "
                "WHERE file = ?",
                (source, file),
            )
        )
        self._remove(keys)
        # A file of which nothing is left is to be taken in again when it is next given.
        self._connection.executemany(
            "DELETE FROM files WHERE path = ?1 AND NOT EXISTS (SELECT 1 FROM passages WHERE file = ?1)",
            [(path,) for path in set(keys.values()) if path is not None],
        )
        return len(keys)

    def finish_file(self, file: str, fingerprint: str, ids: Collection[str]) -> int:
        """Removes the passages of a file that are not among `ids`, and records that it was taken in."""
        rows = self._connection.execute("SELECT key, id FROM passages WHERE file = ?", (file,))
        gone = [key for key, passage_id in rows if passage_id not in ids]
        self._remove(gone)
        self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (file, fingerprint))
        return len(gone)

    # Vectors and their history

    def head(self) -> Commit:
        """The newest commit."""
        row = self._connection.execute("SELECT id, token FROM commits ORDER BY id DESC LIMIT 1").fetchone()
        return Commit(*row)

    def knows(self, commit: Commit) -> bool:
        """Whether what came after a commit can be told from this history."""
        query = "SELECT 1 FROM commits WHERE id = ? AND token = ?"
        return self._connection.execute(query, commit).fetchone() is not None

    def removed_since(self, commit: int) -> list[int]:
        """Keys that were removed after a commit."""
        rows = self._connection.execute("SELECT key FROM removed WHERE commit_id > ?", (commit,))
        return [row[0] for row in rows]

    def vectors_since(
        self, commit: int, dimension: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Keys int64 [n] and vectors float32 [n, d] that were added or replaced after a commit, in blocks."""
        cursor = self._connection.execute(
            "SELECT key, vector FROM vectors WHERE commit_id > ? ORDER BY key", (commit,)
        )
        while block := cursor.fetchmany(4096):
            data = [self._vector(key, vector, dimension) for key, vector in block]
            yield np.array([row[0] for row in block], dtype=np.int64), np.stack(data)

    def vectors_by_id(self, ids: Iterable[str], dimension: int) -> dict[str, NDArray[np.float32]]:
        """Vectors [d] by the id of their passage; unknown ids are left out."""
        query = "SELECT id, vectors.key, vector FROM passages JOIN vectors USING (key) WHERE id"
        rows = self._select(query, list(ids))
        return {row[0]: self._vector(row[1], row[2], dimension) for row in rows}

    def _vector(self, key: int, data: bytes, dimension: int) -> NDArray[np.float32]:
        if len(data) != 4 * dimension:
            raise IndexDamagedError(
                f"{self.file}: the vector of passage {key} has {len(data)} bytes instead of "
                f"{4 * dimension}: {RESTORE}"
            )
        return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)

    def changes_since(self, commit: int) -> int:
        """How many vectors were added, replaced or removed after a commit."""
        query = (
            "SELECT (SELECT count(*) FROM vectors WHERE commit_id > ?1) "
            "+ (SELECT count(*) FROM removed WHERE commit_id > ?1)"
        )
        return int(self._connection.execute(query, (commit,)).fetchone()[0])

    def vector_count(self) -> int:
        """Number of vectors."""
        return int(self._connection.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def _new_commit(self) -> int:
        cursor = self._connection.execute("INSERT INTO commits(token) VALUES (?)", (new_token(),))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _remove(self, keys: Collection[int]) -> None:
        if not keys:
            return
        commit = self._new_commit()
        single = [(key,) for key in keys]
        self._connection.executemany("DELETE FROM passages WHERE key = ?", single)
        self._connection.executemany("DELETE FROM vectors WHERE key = ?", single)
        self._connection.executemany("INSERT INTO removed VALUES (?, ?)", [(key, commit) for key in keys])
        removals = self._connection.execute("SELECT count(*) FROM removed").fetchone()[0]
        if removals > _KEPT_REMOVALS + self.vector_count():
            # Copies of older commits are then made anew, which is no slower than so many removals.
            self._connection.execute("DELETE FROM removed")
            self._connection.execute("DELETE FROM commits WHERE id < ?", (commit,))

    def _select(self, query: str, values: Iterable[int] | Iterable[str]) -> Iterator[tuple[Any, ...]]:
        """Rows of a query that ends in the column that has to be one of the values."""
        every = list(values)
        for start in range(0, len(every), _CHUNK):
            part = every[start : start + _CHUNK]
            marks = ", ".join("?" * len(part))
            yield from self._connection.execute(f"{query} IN ({marks})", part).fetchall()

    def _metadata(self, data: str) -> dict[str, Any]:
        try:
            metadata: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise IndexDamagedError(f"{self.file} holds metadata that is not JSON: {RESTORE}") from error
        return metadata

    def _passage(self, row: tuple[Any, ...]) -> Passage:
        text, passage_id, title, source, start, end, metadata = row
        return Passage(text, passage_id, title, source, start, end, self._metadata(metadata))


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
