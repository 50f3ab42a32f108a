"""The passage index: a folder that SQLite and FAISS share.

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
Opening maps the files into memory and reads none of a file that is as its writer left it (size, times,
inode); any other is checked against its checksum first, and when it does not pass, the vectors come from
SQLite. Scores are always computed from the float32 vectors, whatever form the FAISS file keeps.
"""

from __future__ import annotations

from .filters.conditions import GENERATED, Where
from .health import CheckReport
from .ingestion import AddReport
from .passage_index import PassageIndex
from .reranking import CrossEncoderReranker, Reranker

__all__ = [
    "GENERATED",
    "AddReport",
    "CheckReport",
    "CrossEncoderReranker",
    "PassageIndex",
    "Reranker",
    "Where",
]
