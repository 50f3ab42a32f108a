"""The SQLite half of a passage index, which is the truth: passages, metadata, and the files they are from."""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ...errors import IndexDamagedError, InputError
from ...passages import Passage
from ..rows import Fields, Row, State, checksum, fields_of, stored_metadata
from . import schema
from .attributes import attribute_rows
from .database import RESTORE, SqlRow
from .lookups import Lookups
from .source_rows import SourceRows
from .vector_rows import VectorRows
from .words import index_text

__all__ = ["Storage"]

_PASSAGE = "text, id, title, source, span_start, span_end, metadata, content_hash, crc"


class Storage(VectorRows, Lookups, SourceRows):
    """What is in the file. All of this has to be called inside `read()` or `write()`."""

    def meta(self) -> dict[str, str]:
        """What was given to `create`."""
        meta = dict(self._connection.execute("SELECT key, value FROM meta"))
        if not all(isinstance(text, str) for pair in meta.items() for text in pair):
            raise self.damage("says what is no text about its embedder")
        if not meta.keys() >= {"index", "embedder", "embedder_kind", "dimension"}:
            raise IndexDamagedError(f"{self.file} does not say which embedder it was made with: {RESTORE}")
        return meta

    def set_meta(self, key: str, value: str) -> None:
        """Records something about the index."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def state(self) -> State:
        """The newest state."""
        row = self._connection.execute("SELECT generation, count FROM state").fetchone()
        if row is None or not all(isinstance(number, int) for number in row):
            raise self.damage("has no state")
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

    def page(self, after: int, last: int, size: int) -> list[tuple[int, Passage]]:
        """Up to `size` passages whose keys are above `after`, up to `last`, in the order of being added."""
        rows = self._connection.execute(
            f"SELECT key, {_PASSAGE} FROM passages WHERE key > ? AND key <= ? ORDER BY key LIMIT ?",
            (after, last, size),
        )
        return [(row[0], self._passage(row[1:])) for row in rows]

    def new_ids(self, passages: Iterable[Passage]) -> set[str]:
        """Ids of those passages that are not stored with the same title and text."""
        hashes = {passage.id: passage.content_hash for passage in passages}
        rows = self._select("SELECT id, content_hash FROM passages WHERE id", hashes)
        stored = {row[0] for row in rows if hashes[row[0]] == row[1]}
        return hashes.keys() - stored

    # Changing passages

    def upsert(self, rows: Collection[Row]) -> int:
        """Stores passages of different ids; those that are stored just so are left alone.

        A vector may be None where title and text are stored already, which then keep theirs. Returns how
        many were new or changed.
        """
        query = (
            "SELECT id, key, file, text, content_hash, source, title, span_start, span_end, metadata "
            "FROM passages WHERE id"
        )
        stored = {row[0]: row[1:] for row in self._select(query, [row.passage.id for row in rows])}
        names: dict[str, int] = {}
        changed = added = 0
        for row in rows:
            passage, fields = row.passage, fields_of(row.passage)
            vector = row.vector
            file: str | None = None
            if passage.id in stored:
                key, file, text, *columns = stored[passage.id]
                old = Fields(*columns)
                if old.content_hash == fields.content_hash and vector in (None, self.vector(key)):
                    if old != fields or row.file not in (None, file):
                        changed += old != fields
                        self._change_metadata(key, row, file, fields, old.metadata, names)
                    continue
                if not isinstance(text, str) or not isinstance(old.title, str | None):
                    raise self.damage(f"holds a damaged passage ({passage.id!r})")
                self._remove({key: (old.title, text, old.metadata)})
                added -= 1
            assert vector is not None
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
        files = {row[0]: row[1] for row in self._select("SELECT key, file FROM passages WHERE id", ids)}
        files.update(self._select("SELECT key, file FROM passages WHERE key", keys))
        if source is not None or file is not None:
            query = (
                "SELECT key, file FROM passages WHERE source = ? "
                "UNION SELECT key, file FROM passages WHERE file = ?"
            )
            files.update(self._connection.execute(query, (source, file)))
        self._forget(files)
        # A file of which nothing is left is to be taken in again when it is next given.
        self._connection.executemany(
            "DELETE FROM files WHERE path = ?1 AND NOT EXISTS (SELECT 1 FROM passages WHERE file = ?1)",
            [(path,) for path in set(files.values()) if path is not None],
        )
        return len(files)

    def others_of(self, sources: Collection[str], ids: Collection[str]) -> list[int]:
        """Keys of the passages of these sources that have other ids than these."""
        rows = self._select("SELECT key, id FROM passages WHERE source", sources)
        return [key for key, passage_id in rows if passage_id not in ids]

    def finish_file(self, file: str, fingerprint: str, ids: Collection[str]) -> int:
        """Removes the passages of a file that are not among `ids`, and records that it was taken in."""
        rows = self._connection.execute("SELECT key, id FROM passages WHERE file = ?", (file,))
        keys = [key for key, passage_id in rows if passage_id not in ids]
        self._forget(keys)
        self._connection.execute(
            "INSERT OR REPLACE INTO files(path, fingerprint, stored_at) VALUES (?, ?, ?)",
            (file, fingerprint, time.time()),
        )
        return len(keys)

    def forget_file(self, file: str) -> int:
        """Removes the passages of a file, and that it was taken in. Returns their number."""
        rows = self._connection.execute("SELECT key FROM passages WHERE file = ?", (file,)).fetchall()
        self._forget(row[0] for row in rows)
        self.unfinish_files([file])
        return len(rows)

    def move_passages(self, file: str, rows: Iterable[Row]) -> None:
        """Makes passages of a file, which is gone, those of `rows` that have the same title and text.

        They keep their key and vector. Those of `rows` whose id is taken are left out.
        """
        passages = {row.passage.id: row for row in rows}
        taken = {row[0] for row in self._select("SELECT id FROM passages WHERE id", passages)}
        stored: dict[str, list[SqlRow]] = {}
        names: dict[str, int] = {}
        query = "SELECT content_hash, key, id, metadata FROM passages WHERE file = ? ORDER BY key DESC"
        for content, *columns in self._connection.execute(query, (file,)):
            if columns[1] not in taken:
                stored.setdefault(content, []).append(tuple(columns))
        moved = 0
        for row in passages.values():
            same = stored.get(row.passage.content_hash)
            if row.passage.id in taken or not same:
                continue
            key, _, metadata = same.pop()
            self._change_metadata(key, row, None, fields_of(row.passage), metadata, names)
            moved += 1
        if moved:
            schema.bump(self._connection)

    def _insert(
        self, row: Row, file: str | None, fields: Fields, vector: bytes, names: dict[str, int]
    ) -> None:
        passage = row.passage
        crc = checksum(passage.id, *fields, passage.text)
        key = self._connection.execute(
            "INSERT INTO passages(id, file, content_hash, source, title, span_start, span_end, metadata, "
            "text, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (passage.id, file, *fields, passage.text, crc),
        ).lastrowid
        assert key is not None
        self._connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (key, vector, zlib.crc32(vector)))
        schema.put_lookups(self._connection, names, key, passage.title, passage.text, fields.metadata)

    def _change_metadata(
        self,
        key: int,
        row: Row,
        file: str | None,
        fields: Fields,
        old_metadata: str,
        names: dict[str, int],
    ) -> None:
        passage = row.passage
        self._connection.execute(
            "UPDATE passages SET id = ?, file = ?, source = ?, title = ?, span_start = ?, span_end = ?, "
            "metadata = ?, crc = ? WHERE key = ?",
            (
                passage.id,
                row.file or file,
                *fields[1:],
                checksum(passage.id, *fields, passage.text),
                key,
            ),
        )
        if fields.metadata != old_metadata:
            self._remove_attributes(key, old_metadata)
            schema.put_attributes(self._connection, names, key, fields.metadata)

    def _forget(self, keys: Iterable[int]) -> None:
        query = "SELECT key, title, text, metadata FROM passages WHERE key"
        passages = {row[0]: row[1:] for row in self._select(query, keys)}
        for key, (title, text, metadata) in passages.items():
            try:
                self.metadata(metadata)
            except IndexDamagedError:  # a damaged passage can go: all attributes are looked through for it
                self._connection.execute("DELETE FROM attributes WHERE key = ?", (key,))
                metadata = "{}"
            words = [part if isinstance(part, str) else "" for part in (title, text)]
            passages[key] = (words[0], words[1], metadata)
        if passages:
            self._remove(passages)
            schema.bump(self._connection, -len(passages))

    def _remove(self, passages: Mapping[int, tuple[str | None, str, str]]) -> None:
        """Removes passages: their title, text and metadata by key."""
        single = [(key,) for key in passages]
        for key, (title, text, metadata) in passages.items():
            self._connection.execute(
                "INSERT INTO words(words, rowid, title, text) VALUES ('delete', ?, ?, ?)",
                (key, index_text(title or ""), index_text(text)),
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

    def metadata(self, data: str) -> dict[str, Any]:
        """Metadata of JSON as it is stored."""
        return stored_metadata(data, self.damage)

    def _passage(self, row: SqlRow) -> Passage:
        text, passage_id, title, source, start, end, metadata, content, crc = row
        if checksum(passage_id, content, source, title, start, end, metadata, text) != crc:
            raise self.damage(f"holds a damaged passage ({passage_id!r})")
        try:
            return Passage(text, passage_id, title, source, start, end, self.metadata(metadata))
        except InputError as error:
            raise self.damage(f"holds a damaged passage ({passage_id!r})") from error
