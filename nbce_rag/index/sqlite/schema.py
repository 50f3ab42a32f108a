"""The tables of a passage index, and how those of older versions become them."""

from __future__ import annotations

import json
import secrets
import sqlite3
import zlib
from collections.abc import Mapping

from ..rows import checksum
from .attributes import attribute_rows
from .words import TOKENIZER, index_text

__all__ = [
    "APPLICATION_ID",
    "READABLE",
    "VERSION",
    "bump",
    "create",
    "create_words",
    "drop_words",
    "has_times",
    "migrate",
    "name_id",
    "put_lookups",
    "put_words",
]

APPLICATION_ID = 0x4E424345  # "NBCE", in the header of the file
VERSION = 4
READABLE = (2, 3)
"""Versions that can be read as they are where nothing can be written."""
_PAGE_SIZE = 8192  # five vectors of 384 numbers fit; of SQLite's usual 4096 bytes a quarter stays empty

_WORDS = f"""
CREATE VIRTUAL TABLE words USING fts5(title, text, content = '', tokenize = "{TOKENIZER}")
"""
_SCHEMA = f"""
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state(
    id INTEGER PRIMARY KEY CHECK (id = 0), generation INTEGER NOT NULL, count INTEGER NOT NULL
);
CREATE TABLE passages(
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    content_hash TEXT NOT NULL,
    file TEXT,
    source TEXT,
    title TEXT,
    span_start INTEGER,
    span_end INTEGER,
    metadata TEXT NOT NULL,
    text TEXT NOT NULL,
    crc INTEGER NOT NULL
);
CREATE INDEX passages_source ON passages(source);
CREATE INDEX passages_title ON passages(title);
CREATE INDEX passages_file ON passages(file);
CREATE TABLE vectors(key INTEGER PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE removed(seq INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL);
CREATE INDEX removed_key ON removed(key);
CREATE TABLE segments(
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    count INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE,
    stamp TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    note TEXT NOT NULL
);
CREATE TABLE names(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE attributes(
    name INTEGER NOT NULL, kind TEXT NOT NULL, value NOT NULL, key INTEGER NOT NULL,
    PRIMARY KEY (name, kind, value, key)
) WITHOUT ROWID;
{_WORDS.strip()};
CREATE TABLE files(path TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, stored_at REAL) WITHOUT ROWID
"""


def create(connection: sqlite3.Connection, meta: Mapping[str, str]) -> bool:
    """Makes the tables unless there are some. Returns whether they were made."""
    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
    connection.execute("PRAGMA journal_mode = WAL")
    # Two processes may be here at once, and one may have died here before.
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.execute("ROLLBACK")
        return False
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute("INSERT INTO state VALUES (0, 0, 0)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    return True


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Brings the tables of an older version up to date; to be called inside a transaction that writes."""
    if version == 1:
        _from_version_1(connection)
    if version == 2:
        _from_version_2(connection)
    if not has_times(connection):  # which versions up to 3 did not keep
        connection.execute("ALTER TABLE files ADD COLUMN stored_at REAL")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def has_times(connection: sqlite3.Connection) -> bool:
    """Whether it is kept when a file was taken in."""
    columns = connection.execute("SELECT name FROM pragma_table_info('files')")
    return ("stored_at",) in columns.fetchall()


def bump(connection: sqlite3.Connection, growth: int = 0) -> None:
    """Says that vectors or metadata have changed, and how many passages there are more."""
    connection.execute("UPDATE state SET generation = generation + 1, count = count + ?", (growth,))


def name_id(connection: sqlite3.Connection, name: str) -> int:
    """The number of a name of metadata; made if there is none."""
    row = connection.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
    if row is None:
        row = connection.execute("INSERT INTO names(name) VALUES (?) RETURNING id", (name,)).fetchone()
    return int(row[0])


def put_lookups(
    connection: sqlite3.Connection,
    names: dict[str, int],
    key: int,
    title: str | None,
    text: str,
    metadata: str,
) -> None:
    """Puts what is looked up of a new passage beside it: its words and its metadata."""
    put_words(connection, key, title, text)
    put_attributes(connection, names, key, metadata)


def put_attributes(connection: sqlite3.Connection, names: dict[str, int], key: int, metadata: str) -> None:
    """Puts the metadata of a passage where filters look."""
    rows = []
    for name, kind, value in attribute_rows(json.loads(metadata)):
        if name not in names:
            names[name] = name_id(connection, name)
        rows.append((names[name], kind, value, key))
    # Of a list with 1 and 1.0 in it, SQLite sees two of one.
    connection.executemany("INSERT OR IGNORE INTO attributes VALUES (?, ?, ?, ?)", rows)


def create_words(connection: sqlite3.Connection) -> None:
    """Makes the inverted index of words, empty."""
    connection.execute(_WORDS)


def drop_words(connection: sqlite3.Connection) -> None:
    """Removes the inverted index of words, whatever state it is in."""
    try:
        connection.execute("DROP TABLE words")
    except sqlite3.DatabaseError:  # FTS5 removes nothing that it cannot read
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'words'")
        connection.execute("PRAGMA writable_schema = RESET")
        for table in ("data", "idx", "content", "docsize", "config"):
            connection.execute(f"DROP TABLE IF EXISTS words_{table}")


def _from_version_2(connection: sqlite3.Connection) -> None:
    """Version 2 folded marks of Latin letters only, so that words are indexed anew."""
    drop_words(connection)
    create_words(connection)
    for key, title, text in connection.execute("SELECT key, title, text FROM passages ORDER BY key"):
        put_words(connection, key, title, text)


def put_words(connection: sqlite3.Connection, key: int, title: str | None, text: str) -> None:
    """Puts the words of a passage where searches look."""
    connection.execute(
        "INSERT INTO words(rowid, title, text) VALUES (?, ?, ?)",
        (key, index_text(title or ""), index_text(text)),
    )


def _from_version_1(connection: sqlite3.Connection) -> None:
    """Version 1 kept vectors by commit, with one FAISS file beside them, and read all metadata to filter."""
    connection.execute("ALTER TABLE passages RENAME TO passages_1")
    connection.execute("ALTER TABLE vectors RENAME TO vectors_1")
    for table in ("removed", "commits"):
        connection.execute(f"DROP TABLE {table}")
    for index in ("passages_source", "passages_file", "vectors_commit"):
        connection.execute(f"DROP INDEX IF EXISTS {index}")
    for statement in _SCHEMA.split(";\n"):
        if not any(f"CREATE TABLE {table}(" in statement for table in ("meta", "files")):
            connection.execute(statement)
    names: dict[str, int] = {}
    count = 0
    columns = "key, id, content_hash, file, source, title, span_start, span_end, metadata, text"
    for row in connection.execute(
        f"SELECT {columns}, vector FROM passages_1 JOIN vectors_1 USING (key) ORDER BY key"
    ):
        key, passage_id, content, file, source, title, start, end, metadata, text, vector = row
        crc = checksum(passage_id, content, source, title, start, end, metadata, text)
        connection.execute(
            "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, passage_id, content, file, source, title, start, end, metadata, text, crc),
        )
        connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (key, vector, zlib.crc32(vector)))
        put_lookups(connection, names, key, title, text, metadata)
        count += 1
    for table in ("passages_1", "vectors_1"):
        connection.execute(f"DROP TABLE {table}")
    # Tokens are random so that what another process remembers of version 1 is not taken for this.
    connection.execute("INSERT INTO state VALUES (0, ?, ?)", (secrets.randbits(32), count))
