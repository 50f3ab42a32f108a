"""What an index stores of a passage, whatever it stores it in, and what says that something has changed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, PassageIndexError
from ..passages import Passage
from ..values import NotPlainError, plain

__all__ = [
    "Fields",
    "FileRecord",
    "Keys",
    "Row",
    "StaleReadError",
    "State",
    "checksum",
    "fields_of",
    "json_metadata",
    "stored_metadata",
]

Keys: TypeAlias = NDArray[np.int64]
"""Keys of passages, ascending. A key is a number that never comes back; another text or vector under the same
id gets a new one."""


FileRecord: TypeAlias = tuple[str, str, float | None]
"""A file that was taken in: its path, its fingerprint, and when, in seconds since 1970."""


class StaleReadError(PassageIndexError):
    """What was read is of no one state of the index; to be read again from the beginning."""


class Row(NamedTuple):
    """A passage to be stored: its normalised vector in little-endian float32, and the file it is from."""

    passage: Passage
    vector: bytes | None
    file: str | None


class Fields(NamedTuple):
    """The columns of a passage beside its id, file and text."""

    content_hash: str
    source: str | None
    title: str | None
    start: int | None
    end: int | None
    metadata: str


class State(NamedTuple):
    """What tells whether something has changed: a number that grows, and how many passages there are."""

    generation: int
    passages: int


def fields_of(passage: Passage) -> Fields:
    """What is stored of a passage; its metadata as JSON.

    Raises:
        InputError: As of `json_metadata`.
    """
    return Fields(
        passage.content_hash,
        passage.source,
        passage.title,
        passage.start,
        passage.end,
        json_metadata(passage),
    )


def checksum(*fields: str | int | None) -> int:
    """CRC-32 of the fields of a passage, with which a damaged one is told from one that was written so."""
    return zlib.crc32(repr(fields).encode("utf-8", "surrogatepass"))


def json_metadata(passage: Passage) -> str:
    """Metadata as JSON.

    Raises:
        InputError: It holds something that JSON does not, which the message names by its key.
    """
    try:
        return json.dumps(plain(passage.metadata), ensure_ascii=False, allow_nan=False, sort_keys=True)
    except NotPlainError as error:
        raise InputError(
            f"The metadata of passage {passage.id!r} cannot be stored: metadata{error}. Use texts, finite "
            "numbers, booleans, None, dates, and lists and dictionaries of these."
        ) from error


def stored_metadata(data: str, damage: Callable[[str], Exception]) -> dict[str, Any]:
    """Metadata of JSON as it is stored; raises what `damage` makes of a description where it is none."""
    try:
        metadata = json.loads(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise damage("holds metadata that is not JSON") from error
    if not isinstance(metadata, dict):
        raise damage("holds metadata that is no JSON object")
    return metadata
