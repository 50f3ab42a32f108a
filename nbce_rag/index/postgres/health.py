"""What is wrong with an index in PostgreSQL, and making anew what can be."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import IndexDamagedError, InputError
from ...passages import Passage
from ..encoder import Encoder
from ..reports import CheckReport
from ..rows import checksum
from .driver import pgvector
from .passage_rows import PassageRows
from .values import attributes, decoded, is_odd
from .words import term_vector

__all__ = ["check", "rebuild"]

_PAGE = 2_000
_EXAMPLES = 5  # passages that a message names
_COLUMNS = "key, id, content_hash, source, title, span_start, span_end, metadata, text, crc"
_RESTORE = "restore them from a backup, or delete them and add them again."


def check(storage: PassageRows) -> CheckReport:
    """What `PassageIndex.check` does."""
    with storage.read() as connection:
        connection.execute("SET LOCAL statement_timeout = 0")
        problems = list(_problems(storage))
        passages = storage.state().passages
    return CheckReport(passages, tuple(problems), (), passages)


def rebuild(storage: PassageRows, encoder: Encoder) -> None:
    """What `PassageIndex.rebuild` does, but for the graph of the vectors."""
    with storage.write() as connection:
        connection.execute("SET LOCAL statement_timeout = 0")
        damaged = [passage_id for _, passage_id, row in _passages(storage) if not _is_intact(row)]
        if damaged:
            raise IndexDamagedError(
                f"The index at {storage.location} holds {len(damaged)} damaged passages "
                f"({_shown(damaged)}), which nothing can be made anew of: {_RESTORE}"
            )
        connection.execute("DELETE FROM vectors WHERE key NOT IN (SELECT key FROM passages)")
        missing = _without_vector(storage)
        for start in range(0, len(missing), 256):
            passages = storage.by_keys(missing[start : start + 256])
            vectors = encoder.passages(list(passages.values()))
            for key, passage in passages.items():
                data = vectors[passage.id].astype("<f4")
                connection.execute(
                    "INSERT INTO vectors VALUES (%s, %s, %s) ON CONFLICT (key) DO UPDATE "
                    "SET embedding = excluded.embedding, crc = excluded.crc",
                    (key, pgvector.Vector(data), zlib.crc32(data.tobytes())),
                )
        for key, _, row in _passages(storage):
            looked_up = _lookups(row)
            connection.execute(
                "UPDATE passages SET odd = %s, attributes = %s::jsonb, terms = %s::tsvector, words = %s "
                "WHERE key = %s AND (odd, attributes, terms, words) IS DISTINCT FROM "
                "(%s, %s::jsonb, %s::tsvector, %s)",
                (*looked_up, key, *looked_up),
            )
        connection.execute("DELETE FROM terms")
        connection.execute(
            "INSERT INTO terms SELECT lexeme, count(*) FROM passages CROSS JOIN LATERAL unnest(terms) "
            "GROUP BY lexeme"
        )
        connection.execute(
            "UPDATE state SET generation = generation + 1, passages = there.passages, words = there.words, "
            "last_key = greatest(state.last_key, there.last_key) FROM (SELECT count(*) AS passages, "
            "coalesce(sum(words), 0) AS words, coalesce(max(key), 0) AS last_key FROM passages) AS there"
        )


def _problems(storage: PassageRows) -> Iterator[str]:
    damaged: list[str] = []
    passages = strays = words = 0
    for _, passage_id, row in _passages(storage):
        passages += 1
        if not _is_intact(row):
            damaged.append(passage_id)
            continue
        expected = _lookups(row)
        words += expected[3]
        key = row[0]
        same = storage._rows(
            "SELECT (odd, attributes, terms, words) IS NOT DISTINCT FROM (%s, %s::jsonb, %s::tsvector, %s) "
            "FROM passages WHERE key = %s",
            (*expected, key),
        )
        strays += not same[0][0]
    if damaged:
        yield f"{len(damaged)} passages are damaged ({_shown(damaged)}): {_RESTORE}"
    state = storage._rows("SELECT passages, words FROM state")[0]
    if state[0] != passages or (not damaged and not strays and state[1] != words):
        yield f"The index counts {state[0]} passages and has {passages}; --rebuild counts them anew."
    if missing := _without_vector(storage):
        names = [passage.id for passage in storage.by_keys(missing[: _EXAMPLES + 1]).values()]
        yield f"{len(missing)} passages have no intact vector ({_shown(names)}); --rebuild embeds them."
    if strays:
        yield (
            f"What filters and words look up of {strays} passages is not what the passages say; --rebuild "
            "makes it anew."
        )
    uncounted = storage._rows(
        "SELECT count(*) FROM (SELECT lexeme, count(*) AS n FROM passages CROSS JOIN LATERAL unnest(terms) "
        "GROUP BY lexeme) AS there FULL JOIN terms ON term = lexeme WHERE n IS DISTINCT FROM passages"
    )[0][0]
    if uncounted:
        yield f"{uncounted} words are not counted as they come; --rebuild counts them anew."


def _passages(storage: PassageRows) -> Iterator[tuple[int, str, tuple[Any, ...]]]:
    """Key, id, and the columns as they were given."""
    after = 0
    while rows := storage._rows(
        f"SELECT {_COLUMNS} FROM passages WHERE key > %s ORDER BY key LIMIT %s", (after, _PAGE)
    ):
        after = rows[-1][0]
        for row in rows:
            yield row[0], decoded(row[1]), tuple(decoded(one) if isinstance(one, str) else one for one in row)


def _is_intact(row: tuple[Any, ...]) -> bool:
    _, passage_id, content, source, title, start, end, metadata, text, crc = row
    if checksum(passage_id, content, source, title, start, end, metadata, text) != crc:
        return False
    try:
        Passage(text, passage_id, title, source, start, end)
        return isinstance(json.loads(metadata), dict)
    except (InputError, ValueError, TypeError, RecursionError):
        return False


def _lookups(row: tuple[Any, ...]) -> tuple[bool, str, str, int]:
    """What is looked up of a passage: whether it is odd, its attributes, terms and words."""
    _, passage_id, _, source, title, _, _, metadata, text, _ = row
    odd = is_odd(passage_id, source, title, metadata)
    return odd, attributes(json.loads(metadata), odd), *term_vector(title, text)


def _without_vector(storage: PassageRows) -> list[int]:
    """Keys of passages without an intact vector."""
    keys: list[int] = []
    after = 0
    while rows := storage._rows(
        "SELECT p.key, v.embedding, v.crc FROM passages p LEFT JOIN vectors v USING (key) WHERE p.key > %s "
        "ORDER BY p.key LIMIT %s",
        (after, _PAGE),
    ):
        after = rows[-1][0]
        for key, vector, crc in rows:
            if vector is None or zlib.crc32(np.asarray(vector.to_numpy(), "<f4").tobytes()) != crc:
                keys.append(key)
    return keys


def _shown(ids: list[str]) -> str:
    more = ", ..." if len(ids) > _EXAMPLES else ""
    return ", ".join(map(repr, ids[:_EXAMPLES])) + more
