"""What is wrong with the folder of an index, and making anew what can be."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import zip_longest

from ..errors import IndexDamagedError, InputError
from ..passages import Passage
from .encoder import Encoder
from .reports import CheckReport, SegmentReport
from .rows import checksum
from .sqlite import schema
from .sqlite.attributes import attribute_rows
from .sqlite.database import RESTORE, SqlRow
from .sqlite.storage import Storage
from .vectors.compaction import Compactor

__all__ = ["check", "rebuild"]


_EXAMPLES = 5  # passages that a message names
_COLUMNS = "key, id, content_hash, source, title, span_start, span_end, metadata, text, crc"


def check(storage: Storage, compactor: Compactor, dimension: int) -> CheckReport:
    """What `PassageIndex.check` does."""
    with storage.read() as connection:
        problems = list(_sqlite_problems(connection))
        count = 0
        segments: list[SegmentReport] = []
        tail = 0
        try:
            count = storage.state().passages
            problems += _content_problems(connection, storage, count, dimension)
            problems += compactor.check_files(storage)
            segments = compactor.segments(storage)
            rows = storage.segments()
            tail = len(storage.vector_keys(rows[-1].last + 1 if rows else 0, storage.last_key()))
        except (IndexDamagedError, sqlite3.DatabaseError, UnicodeDecodeError) as error:
            problems.append(str(error))
    return CheckReport(count, tuple(problems), tuple(segments), tail)


def rebuild(storage: Storage, encoder: Encoder) -> None:
    """What `PassageIndex.rebuild` does, but for the FAISS files, which it forgets."""
    with storage.read() as connection:
        connection.execute("PRAGMA cell_size_check = ON")
        keys = _without_vector(connection, encoder.dimension)
    vectors = {}
    for start in range(0, len(keys), 256):
        with storage.read():
            passages = storage.by_keys(keys[start : start + 256])
        by_id = encoder.passages(list(passages.values()))
        vectors.update({key: by_id[passage.id].astype("<f4").tobytes() for key, passage in passages.items()})
    with storage.write() as connection:
        damaged = [str(row[1]) for row in _passages(connection) if not _is_intact(row)]
        if damaged:
            raise IndexDamagedError(
                f"{storage.file} holds {len(damaged)} damaged passages ({_examples(damaged)}), which nothing "
                f"can be made anew of: delete them, or {RESTORE}"
            )
        connection.executemany(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
            [(key, vector, zlib.crc32(vector)) for key, vector in vectors.items()],
        )
        connection.execute("DELETE FROM vectors WHERE key NOT IN (SELECT key FROM passages)")
        for table in ("attributes", "names", "segments", "removed"):
            connection.execute(f"DELETE FROM {table}")
        schema.drop_words(connection)
        schema.create_words(connection)
        names: dict[str, int] = {}
        count = 0
        for key, _, _, _, title, _, _, metadata, text, _ in _passages(connection):
            schema.put_lookups(connection, names, key, title, text, metadata)
            count += 1
        connection.execute("UPDATE state SET count = ?", (count,))
        connection.execute("REINDEX")
        schema.bump(connection)


def _sqlite_problems(connection: sqlite3.Connection) -> Iterator[str]:
    try:
        for (line,) in connection.execute("PRAGMA integrity_check(10)"):
            if line != "ok":
                yield f"SQLite: {line}"
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        yield f"SQLite: {error}"


def _content_problems(
    connection: sqlite3.Connection, storage: Storage, count: int, dimension: int
) -> Iterator[str]:
    damaged, passages, expected, gaps = [], 0, 0, 0
    names = dict(connection.execute("SELECT name, id FROM names"))
    for row in _passages(connection):
        passages += 1
        if not _is_intact(row):
            damaged.append(str(row[1]))
            continue
        for name, kind, value in set(attribute_rows(storage.metadata(row[7]))):
            attribute = connection.execute(
                "SELECT 1 FROM attributes WHERE name = ? AND kind = ? AND value = ? AND key = ?",
                (names.get(name), kind, value, row[0]),
            ).fetchone()
            expected += 1
            gaps += attribute is None
    if damaged:
        yield f"{len(damaged)} passages are damaged ({_examples(damaged)}): {RESTORE}"
    if passages != count:
        yield f"SQLite counts {count} passages and has {passages}; --rebuild counts them anew."
    if keys := _without_vector(connection, dimension):
        ids = storage.ids(keys)
        yield f"{len(keys)} passages have no intact vector ({_examples(ids)}); --rebuild embeds them."
    rows = connection.execute("SELECT count(*) FROM attributes").fetchone()[0]
    # Of a list with 1 and 1.0 in it one row is stored.
    if gaps or rows > expected:
        yield "What filters look up is not what the passages' metadata say; --rebuild makes it anew."
    words = connection.execute("SELECT count(*) FROM words_docsize").fetchone()[0]
    strays = connection.execute(
        "SELECT count(*) FROM words_docsize WHERE id NOT IN (SELECT key FROM passages)"
    ).fetchone()[0]
    if words != passages or strays:
        yield f"The words of {words} passages are indexed, of {passages}; --rebuild makes it anew."
    elif not damaged and not _has_words(connection):
        yield "The words that are indexed are not those of the passages; --rebuild makes it anew."


_VOCABULARY = """
SELECT term, count(*), sum(doc), sum(doc * offset)
FROM temp.vocabulary GROUP BY term ORDER BY term
"""


def _has_words(connection: sqlite3.Connection) -> bool:
    """Whether the inverted index of words is what the passages' words make: each, where it stands.

    SQLite's own check does not know texts that it was not given to keep, so that they are indexed once more,
    in a file of its own that goes when this is done.
    """
    with closing(sqlite3.connect("")) as other:
        schema.create_words(other)
        for key, _, _, _, title, _, _, _, text, _ in _passages(connection):
            schema.put_words(other, key, title, text)
        try:
            for one in (connection, other):
                one.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, instance)")
            pairs = zip_longest(connection.execute(_VOCABULARY), other.execute(_VOCABULARY))
            if not all(stored == expected for stored, expected in pairs):
                return False
            # Searches go by another way to a word than reading all of them.
            looked_up = "SELECT 1 FROM temp.vocabulary WHERE term = ? LIMIT 1"
            terms = other.execute("SELECT DISTINCT term FROM temp.vocabulary")
            return all(connection.execute(looked_up, term).fetchone() for term in terms)
        except sqlite3.DatabaseError:
            return False
        finally:
            with suppress(sqlite3.DatabaseError):
                connection.execute("DROP TABLE temp.vocabulary")


def _without_vector(connection: sqlite3.Connection, dimension: int) -> list[int]:
    """Keys of passages without an intact vector."""
    rows = connection.execute("SELECT key, vector, crc FROM vectors ORDER BY key")
    intact = {
        key
        for key, vector, crc in rows
        if isinstance(vector, bytes) and len(vector) == 4 * dimension and zlib.crc32(vector) == crc
    }
    return [key for (key,) in connection.execute("SELECT key FROM passages") if key not in intact]


def _passages(connection: sqlite3.Connection) -> sqlite3.Cursor:
    return connection.execute(f"SELECT {_COLUMNS} FROM passages ORDER BY key")


def _is_intact(row: SqlRow) -> bool:
    """Whether a passage is as it was written, and was written by an index."""
    _, passage_id, content, source, title, start, end, metadata, text, crc = row
    if checksum(passage_id, content, source, title, start, end, metadata, text) != crc:
        return False
    try:
        Passage(text, passage_id, title, source, start, end)
        return isinstance(json.loads(metadata), dict)
    except (InputError, ValueError, TypeError, RecursionError):
        return False


def _examples(ids: list[str]) -> str:
    more = ", ..." if len(ids) > _EXAMPLES else ""
    return ", ".join(map(repr, ids[:_EXAMPLES])) + more
