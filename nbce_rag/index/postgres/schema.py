"""The tables of an index in PostgreSQL, and how those of older versions become them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...errors import InputError, PassageIndexError
from .connections import Connection, quoted

__all__ = [
    "GRANTS",
    "HNSW",
    "VERSION",
    "check_factory",
    "create",
    "create_hnsw",
    "drop_hnsw",
    "has_index",
    "migrate",
]

VERSION = 1
"""Of the tables, in `meta`; grows when they change."""

HNSW = "vectors_hnsw"
_FACTORIES = {"auto": 16_000, "flat": 16_000, "hnsw": 2_000, "hnsw-halfvec": 4_000}
"""How vectors can be held, and the most numbers of one: limits of pgvector's types and indexes."""

_INLINE = 1_900  # numbers of a vector that fits beside its row, where a search reads it fastest

# Hashes look texts up that are of any length, which a tree does not take.
_SCHEMA = """
CREATE TABLE meta(key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE state(
    id integer PRIMARY KEY CHECK (id = 0),
    generation bigint NOT NULL,
    passages bigint NOT NULL,
    words bigint NOT NULL,
    last_key bigint NOT NULL
);
CREATE TABLE passages(
    key bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    content_hash text NOT NULL,
    file text COLLATE "C",
    source text COLLATE "C",
    title text COLLATE "C",
    span_start bigint,
    span_end bigint,
    metadata text NOT NULL,
    text text NOT NULL,
    odd boolean NOT NULL,
    attributes jsonb NOT NULL,
    terms tsvector NOT NULL,
    words integer NOT NULL,
    crc bigint NOT NULL,
    CONSTRAINT passages_id EXCLUDE USING hash (id WITH =)
);
CREATE INDEX passages_source ON passages USING hash (source);
CREATE INDEX passages_title ON passages USING hash (title);
CREATE INDEX passages_file ON passages USING hash (file);
CREATE INDEX passages_odd ON passages(key) WHERE odd;
CREATE INDEX passages_attributes ON passages USING gin (attributes jsonb_path_ops);
CREATE INDEX passages_terms ON passages USING gin (terms);
CREATE TABLE vectors(key bigint PRIMARY KEY, embedding vector({dimension}) NOT NULL, crc bigint NOT NULL);
CREATE TABLE terms(term text COLLATE "C" PRIMARY KEY, passages bigint NOT NULL) WITH (fillfactor = 70);
CREATE TABLE files(
    path text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    stored_at double precision,
    CONSTRAINT files_path EXCLUDE USING hash (path WITH =)
);
INSERT INTO state VALUES (0, 0, 0, 0, 0)
"""

_MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {}
"""By version: what makes its tables those of the next."""

GRANTS = """
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};
"""
"""What a role needs that only searches."""


def has_index(connection: Connection) -> bool:
    """Whether there is an index in the schema of the connection."""
    # Made in one transaction, so that there is all of it or nothing.
    row = connection.execute("SELECT to_regclass('meta') IS NOT NULL AND to_regclass('state') IS NOT NULL")
    return bool((row.fetchone() or (False,))[0])


def create(connection: Connection, schema: str, meta: Mapping[str, str]) -> bool:
    """Makes the tables unless there are some; to be called inside a transaction. Returns whether it did."""
    # Two may be here at once: the second waits, and finds what the first has made.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('nbce-rag'), hashtext(%s))", (schema,))
    if has_index(connection):
        return False
    there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    if there is None:
        connection.execute(f"CREATE SCHEMA {quoted(schema)}".encode())
    taken = connection.execute(
        "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s LIMIT 1",
        (schema,),
    ).fetchone()
    if taken is not None:
        raise PassageIndexError(
            f"The schema {schema!r} is not empty and no index ({taken[0]!r} is in it): name another one with "
            "?index=NAME in the URL."
        )
    dimension = int(meta["dimension"])
    for statement in _SCHEMA.format(dimension=dimension).split(";\n"):
        connection.execute(statement.encode())
    storage = "PLAIN" if dimension <= _INLINE else "EXTERNAL"
    connection.execute(f"ALTER TABLE vectors ALTER COLUMN embedding SET STORAGE {storage}".encode())
    rows = {**meta, "version": str(VERSION)}
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO meta VALUES (%s, %s)", list(rows.items()))
    if meta["factory"] not in ("auto", "flat"):
        create_hnsw(connection, meta["factory"], dimension)
    return True


def migrate(connection: Connection, version: int) -> None:
    """Brings the tables of an older version up to date; to be called inside a transaction that writes."""
    for old in range(version, VERSION):
        _MIGRATIONS[old](connection)
    connection.execute("UPDATE meta SET value = %s WHERE key = 'version'", (str(VERSION),))


def check_factory(factory: str, dimension: int) -> str:
    """The name, if vectors of this dimension can be held so.

    Raises:
        InputError: They cannot.
    """
    if factory not in _FACTORIES:
        raise InputError(
            f"factory={factory!r} is none of an index in PostgreSQL: give one of {', '.join(_FACTORIES)}."
        )
    if dimension > _FACTORIES[factory]:
        raise InputError(
            f"pgvector holds vectors of up to {_FACTORIES[factory]:,} numbers by {factory!r}, and these have "
            f"{dimension:,}: take another factory ({', '.join(_FACTORIES)}), or an index in a folder."
        )
    return factory


def create_hnsw(connection: Connection, factory: str, dimension: int) -> None:
    """Makes pgvector's graph of the vectors; to be called inside a transaction that writes."""
    if factory == "hnsw":
        column = "embedding vector_ip_ops"
    else:
        column = f"(embedding::halfvec({dimension})) halfvec_ip_ops"
    connection.execute(f"CREATE INDEX {HNSW} ON vectors USING hnsw ({column})".encode())


def drop_hnsw(connection: Connection) -> None:
    """Removes that graph, if there is one."""
    connection.execute(f"DROP INDEX IF EXISTS {HNSW}".encode())
