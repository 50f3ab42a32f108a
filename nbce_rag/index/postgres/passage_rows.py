"""Passages in PostgreSQL: stored, changed, removed, read."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ...passages import Passage
from ..rows import Fields, Row, State, checksum, fields_of, stored_metadata
from .database import SqlRow
from .driver import pgvector
from .source_rows import SourceRows
from .values import attributes, decoded, encoded, is_odd
from .vector_rows import VectorRows
from .words import WordRows, term_vector

__all__ = ["PassageRows"]

_PASSAGE = "text, id, title, source, span_start, span_end, metadata, content_hash, crc"
_COLUMNS = (
    "key, id, content_hash, file, source, title, span_start, span_end, metadata, text, odd, attributes, "
    "terms, words, crc"
)
_INTEGERS = range(-(2**63), 2**63)


class _Stored(NamedTuple):
    """What there is of a passage."""

    key: int
    file: str | None
    fields: Fields


class PassageRows(VectorRows, WordRows, SourceRows):
    """The passages of an index. All of this has to be called inside `read()` or `write()`."""

    def state(self) -> State:
        """The newest state."""
        rows = self._rows("SELECT generation, passages FROM state")
        if len(rows) != 1:
            raise self.damage("has no state")
        return State(*rows[0])

    def last_key(self) -> int:
        """The highest key that was ever given; 0 for none."""
        return int(self._rows("SELECT last_key FROM state")[0][0])

    # Reading

    def by_keys(self, keys: Iterable[int]) -> dict[int, Passage]:
        """Passages by their key."""
        rows = self._rows(
            f"SELECT key, {_PASSAGE} FROM passages WHERE key = ANY(%s::bigint[])", (list(keys),)
        )
        return {row[0]: self._passage(row[1:]) for row in rows}

    def by_id(self, passage_id: str) -> Passage | None:
        """The passage of an id."""
        rows = self._rows(f"SELECT {_PASSAGE} FROM passages WHERE id = %s", (encoded(passage_id),))
        return self._passage(rows[0]) if rows else None

    def keys_by_id(self, ids: Iterable[str]) -> dict[str, int]:
        """Keys of passages by their id; unknown ids are left out."""
        texts = [encoded(text) for text in ids]
        rows = self._rows("SELECT id, key FROM passages WHERE id = ANY(%s)", (texts,))
        return {decoded(passage_id): key for passage_id, key in rows}

    def page(self, after: int, last: int, size: int) -> list[tuple[int, Passage]]:
        """Up to `size` passages whose keys are above `after`, up to `last`, in the order of being added."""
        rows = self._rows(
            f"SELECT key, {_PASSAGE} FROM passages WHERE key > %s AND key <= %s ORDER BY key LIMIT %s",
            (after, last, size),
        )
        return [(row[0], self._passage(row[1:])) for row in rows]

    def new_ids(self, passages: Iterable[Passage]) -> set[str]:
        """Ids of those passages that are not stored with the same title and text."""
        hashes = {passage.id: passage.content_hash for passage in passages}
        texts = [encoded(passage_id) for passage_id in hashes]
        rows = self._rows("SELECT id, content_hash FROM passages WHERE id = ANY(%s)", (texts,))
        stored = {decoded(row[0]) for row in rows if hashes[decoded(row[0])] == row[1]}
        return hashes.keys() - stored

    # Changing

    def upsert(self, rows: Collection[Row]) -> int:
        """Stores passages of different ids; those that are stored just so are left alone."""
        stored = self._stored([row.passage.id for row in rows])
        vectors = self._vector_bytes([stored[r.passage.id].key for r in rows if r.passage.id in stored])
        new: list[tuple[Row, str | None, Fields]] = []
        old: list[int] = []
        changed = 0
        for row in rows:
            fields = fields_of(row.passage)
            there = stored.get(row.passage.id)
            if there is None:
                new.append((row, row.file, fields))
                continue
            is_same = there.fields.content_hash == fields.content_hash
            if is_same and row.vector in (None, vectors.get(there.key)):
                if there.fields != fields or row.file not in (None, there.file):
                    changed += there.fields != fields
                    self._change(there.key, row.passage, row.file or there.file, fields)
                continue
            old.append(there.key)
            new.append((row, row.file or there.file, fields))
        self._remove(old)
        self._insert(new)
        if changed or new:
            self._bump(len(new) - len(old))
        return changed + len(new)

    def delete(
        self,
        ids: Iterable[str] = (),
        source: str | None = None,
        file: str | None = None,
        keys: Iterable[int] = (),
    ) -> int:
        """Removes the passages of these ids, this source, this file, and these keys. Returns their number."""
        rows = self._rows(
            "SELECT key, file FROM passages WHERE id = ANY(%s) UNION "
            "SELECT key, file FROM passages WHERE key = ANY(%s::bigint[]) UNION "
            "SELECT key, file FROM passages WHERE source = %s UNION "
            "SELECT key, file FROM passages WHERE file = %s",
            (
                [encoded(text) for text in ids],
                list(keys),
                None if source is None else encoded(source),
                None if file is None else encoded(file),
            ),
        )
        self._forget([row[0] for row in rows])
        # A file of which nothing is left is to be taken in again when it is next given.
        paths = list({row[1] for row in rows if row[1] is not None})
        self._execute(
            "DELETE FROM files WHERE path = ANY(%s) "
            "AND NOT EXISTS (SELECT 1 FROM passages WHERE passages.file = files.path)",
            (paths,),
        )
        return len(rows)

    def finish_file(self, file: str, fingerprint: str, ids: Collection[str]) -> int:
        """Removes the passages of a file that are not among `ids`, and records that it was taken in."""
        rows = self._rows("SELECT key, id FROM passages WHERE file = %s", (encoded(file),))
        keys = [key for key, passage_id in rows if decoded(passage_id) not in ids]
        self._forget(keys)
        self.put_files([(file, fingerprint, time.time())])
        return len(keys)

    def forget_file(self, file: str) -> int:
        """Removes the passages of a file, and that it was taken in. Returns their number."""
        rows = self._rows("SELECT key FROM passages WHERE file = %s", (encoded(file),))
        self._forget([row[0] for row in rows])
        self.unfinish_files([file])
        return len(rows)

    def move_passages(self, file: str, rows: Iterable[Row]) -> None:
        """Makes passages of a file, which is gone, those of `rows` that have the same title and text."""
        passages = {row.passage.id: row for row in rows}
        taken = self.keys_by_id(passages).keys()
        stored: dict[str, list[int]] = {}
        query = "SELECT content_hash, key, id FROM passages WHERE file = %s ORDER BY key DESC"
        for content, key, passage_id in self._rows(query, (encoded(file),)):
            if decoded(passage_id) not in taken:
                stored.setdefault(content, []).append(key)
        moved = 0
        for row in passages.values():
            same = stored.get(row.passage.content_hash)
            if row.passage.id in taken or not same:
                continue
            self._change(same.pop(), row.passage, row.file, fields_of(row.passage))
            moved += 1
        if moved:
            self._bump(0)

    def metadata(self, data: str) -> dict[str, Any]:
        """Metadata of JSON as it is stored."""
        return stored_metadata(data, self.damage)

    def _stored(self, ids: list[str]) -> dict[str, _Stored]:
        rows = self._rows(
            "SELECT id, key, file, content_hash, source, title, span_start, span_end, metadata "
            "FROM passages WHERE id = ANY(%s)",
            ([encoded(text) for text in ids],),
        )
        return {
            decoded(row[0]): _Stored(
                row[1],
                _text(row[2]),
                Fields(row[3], _text(row[4]), _text(row[5]), row[6], row[7], decoded(row[8])),
            )
            for row in rows
        }

    def _vector_bytes(self, keys: list[int]) -> dict[int, bytes]:
        rows = self._rows("SELECT key, embedding FROM vectors WHERE key = ANY(%s::bigint[])", (keys,))
        return {key: vector.to_numpy().astype("<f4", copy=False).tobytes() for key, vector in rows}

    def _insert(self, rows: Sequence[tuple[Row, str | None, Fields]]) -> None:
        if not rows:
            return
        first = self.last_key() + 1
        with self._connection.cursor() as cursor:
            with cursor.copy(f"COPY passages({_COLUMNS}) FROM STDIN".encode()) as copy:
                for key, (row, file, fields) in enumerate(rows, first):
                    copy.write_row(self._columns(key, row.passage, file, fields))
            with cursor.copy("COPY vectors FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "vector", "int8"])
                for key, (row, _, _) in enumerate(rows, first):
                    assert row.vector is not None
                    vector = pgvector.Vector(np.frombuffer(row.vector, dtype="<f4"))
                    copy.write_row((key, vector, zlib.crc32(row.vector)))
        last = first + len(rows) - 1
        self._execute("UPDATE state SET last_key = %s", (last,))
        self._count_terms(range(first, last + 1), 1)

    def _columns(self, key: int, passage: Passage, file: str | None, fields: Fields) -> SqlRow:
        for place in (fields.start, fields.end):
            if place is not None and place not in _INTEGERS:
                raise InputError(
                    f"Passage {passage.id!r} stands at {place}, further than is counted: leave it."
                )
        odd = is_odd(passage.id, fields.source, fields.title, fields.metadata)
        terms, words = term_vector(passage.title, passage.text)
        return (
            key,
            encoded(passage.id),
            fields.content_hash,
            None if file is None else encoded(file),
            None if fields.source is None else encoded(fields.source),
            None if fields.title is None else encoded(fields.title),
            fields.start,
            fields.end,
            encoded(fields.metadata),
            encoded(passage.text),
            odd,
            attributes(json.loads(fields.metadata), odd),
            terms,
            words,
            checksum(passage.id, *fields, passage.text),
        )

    def _change(self, key: int, passage: Passage, file: str | None, fields: Fields) -> None:
        """Gives a passage another id, file or metadata; its title and text stay, and so do its terms."""
        row = self._columns(key, passage, file, fields)
        self._execute(
            "UPDATE passages SET id = %s, file = %s, source = %s, title = %s, span_start = %s, "
            "span_end = %s, metadata = %s, odd = %s, attributes = %s::jsonb, crc = %s WHERE key = %s",
            (row[1], *row[3:9], *row[10:12], row[14], key),
        )

    def _forget(self, keys: list[int]) -> None:
        if keys:
            self._remove(keys)
            self._bump(-len(keys))

    def _remove(self, keys: list[int]) -> None:
        if keys:
            self._count_terms(keys, -1)
            self._execute("DELETE FROM passages WHERE key = ANY(%s::bigint[])", (keys,))
            self._execute("DELETE FROM vectors WHERE key = ANY(%s::bigint[])", (keys,))

    def _count_terms(self, keys: Sequence[int], sign: int) -> None:
        """Counts the words of passages in or out."""
        self._execute(
            "INSERT INTO terms SELECT lexeme, %s * count(*) FROM passages CROSS JOIN LATERAL unnest(terms) "
            "WHERE key = ANY(%s::bigint[]) GROUP BY lexeme "
            "ON CONFLICT (term) DO UPDATE SET passages = terms.passages + excluded.passages",
            (sign, list(keys)),
        )
        if sign < 0:
            self._execute(
                "DELETE FROM terms USING (SELECT DISTINCT lexeme FROM passages CROSS JOIN LATERAL "
                "unnest(terms) WHERE key = ANY(%s::bigint[])) AS gone "
                "WHERE term = lexeme AND terms.passages <= 0",
                (list(keys),),
            )
        self._execute(
            "UPDATE state SET words = state.words + %s * (SELECT coalesce(sum(words), 0) FROM passages "
            "WHERE key = ANY(%s::bigint[]))",
            (sign, list(keys)),
        )

    def _bump(self, growth: int) -> None:
        """Says that something has changed, and how many passages there are more."""
        self._execute("UPDATE state SET generation = generation + 1, passages = passages + %s", (growth,))

    def _passage(self, row: SqlRow) -> Passage:
        text, passage_id, title, source, start, end, metadata, content, crc = row
        text, passage_id, metadata = decoded(text), decoded(passage_id), decoded(metadata)
        title, source = _text(title), _text(source)
        if checksum(passage_id, content, source, title, start, end, metadata, text) != crc:
            raise self.damage(f"holds a damaged passage ({passage_id!r})")
        try:
            return Passage(text, passage_id, title, source, start, end, self.metadata(metadata))
        except InputError as error:
            raise self.damage(f"holds a damaged passage ({passage_id!r})") from error


def _text(text: str | None) -> str | None:
    return None if text is None else decoded(text)
