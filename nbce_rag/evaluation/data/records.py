"""JSON records from files in the formats in use."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ...errors import InputError, ReadError
from ...files import expand_home

__all__ = ["Record", "read_records"]

Record: TypeAlias = Mapping[str, Any]
"""What stands in a JSON object."""


def read_records(path: str | os.PathLike[str]) -> Record | list[tuple[int, Record]]:
    """What a JSON or jsonl file holds, gzipped or not.

    Returns:
        The object of a file that holds one with `data` (SQuAD format), else the records, each with its line
        (or place in a JSON list), from 1.

    Raises:
        ReadError: it cannot be read.
        InputError: it is not JSON, or holds something else than objects.
    """
    try:
        data = Path(expand_home(path)).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReadError(f"{os.fspath(path)} cannot be read: {error}.") from error
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return list(_lines(text, path))
    if isinstance(whole, Mapping):
        return whole if "data" in whole else [(1, whole)]
    if isinstance(whole, list) and all(isinstance(record, Mapping) for record in whole):
        return list(enumerate(whole, 1))
    raise InputError(f"{os.fspath(path)} holds JSON that is neither records nor SQuAD format.")


def _lines(text: str, path: str | os.PathLike[str]) -> Iterator[tuple[int, Record]]:
    # Not splitlines(), which would also break at U+2028 inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{os.fspath(path)}, line {number} is not JSON: {error}.") from error
        if not isinstance(record, Mapping):
            raise InputError(f"{os.fspath(path)}, line {number} is not a JSON object.")
        yield number, record
