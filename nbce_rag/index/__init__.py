"""The passage index: a folder that SQLite and FAISS share, or a database (`postgres`) by the same class.

`passages.sqlite` (WAL) is the truth: passages, metadata, vectors in float32, an inverted index of the
metadata, an FTS5 index of the words, and the list of the vector files. A change is one transaction in it,
and a search reads one snapshot of it, so that a reader sees the state before or after a change, and a
second writer waits for the first. Every passage has a number (`key`) that never comes back, and another
text or vector under the same id gets a new one: what a key stands for never changes.

`vectors-*.faiss` are caches: each holds the vectors of one range of keys, is written once, and is named,
with its checksum, by a row of SQLite; a file that no row names counts for nothing. The vectors above the
last range (the tail) are read from SQLite, so that adding a thousand passages to a million writes those
thousand. A long tail becomes a small file of its own, and small files are merged when they have grown to a
share of the one before them. Removed keys are listed in SQLite until the file that has them is rewritten.
Opening reads small files, and maps large ones, that are as their writer left them (size, times, inode); any
other is checked against its checksum first, and looked through, and when it does not pass, the vectors come
from SQLite. So they do when a mapped file changes under a reader. Nothing that the folder says leads out of
it: names of files are those that an index gives, and links are not followed. Scores are always computed from
the float32 vectors, whatever form the FAISS file keeps.

Importing this package loads nothing heavy; each name below loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "AddReport": "ingestion",
    "AllOf": "filters.conditions",
    "AnyOf": "filters.conditions",
    "Predicate": "filters.conditions",
    "CheckReport": "reports",
    "Condition": "filters.conditions",
    "CrossEncoderReranker": "reranking",
    "GENERATED": "filters.conditions",
    "IndexFolder": "folder",
    "SearchMode": "search",
    "Negation": "filters.conditions",
    "PassageIndex": "passage_index",
    "Reranker": "reranking",
    "RerankerLike": "reranking",
    "SearchOptions": "search",
    "SourceEntry": "reports",
    "SyncReport": "sync",
    "FieldTest": "filters.conditions",
    "Where": "filters.conditions",
    "as_condition": "filters.conditions",
    "embedding_text": "encoder",
}
__all__ = [
    "GENERATED",
    "AddReport",
    "AllOf",
    "AnyOf",
    "CheckReport",
    "Condition",
    "CrossEncoderReranker",
    "FieldTest",
    "IndexFolder",
    "Negation",
    "PassageIndex",
    "Predicate",
    "Reranker",
    "RerankerLike",
    "SearchMode",
    "SearchOptions",
    "SourceEntry",
    "SyncReport",
    "Where",
    "as_condition",
    "embedding_text",
]

if TYPE_CHECKING:
    from .encoder import embedding_text
    from .filters.conditions import (
        GENERATED,
        AllOf,
        AnyOf,
        Condition,
        FieldTest,
        Negation,
        Predicate,
        Where,
        as_condition,
    )
    from .folder import IndexFolder
    from .ingestion import AddReport
    from .passage_index import PassageIndex
    from .reports import CheckReport, SourceEntry
    from .reranking import CrossEncoderReranker, Reranker, RerankerLike
    from .search import SearchMode, SearchOptions
    from .sync import SyncReport


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
