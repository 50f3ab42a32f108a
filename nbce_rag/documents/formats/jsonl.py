"""Records of text, one JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ...errors import ReadError
from ...noncharacters import strip_marks
from ...passages import Passage
from ...values import NotPlainError, plain, shown
from ..document import OnError, Splitter, check_regular, decode_text, read_bytes, source_name
from ..limits import Deadline, ReadLimits

__all__ = ["RECORDS"]

_CHUNK = 1 << 20
_LONGEST_LINE = 64 << 20
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def _read_jsonl(path: Path, splitter: Splitter, on_error: OnError, limits: ReadLimits) -> list[Passage]:
    passages: list[Passage] = []
    line_of_id: dict[str, int] = {}
    is_blank = True
    deadline = Deadline(path, limits)
    for number, line in _lines(path, limits):
        is_blank = False
        deadline.check()
        place = f"{path}, line {number}"
        try:
            name, text, title, metadata = _parse_record(place, line)
            parts = splitter(text, title=title, source=source_name(path), metadata=metadata)
            if name and len(parts) == 1:
                parts = [replace(parts[0], id=name)]
            elif name:
                parts = [replace(p, id=f"{name}#{part}") for part, p in enumerate(parts, start=1)]
            for passage in parts:
                # Two records of one id would overwrite each other. Without ids of their own, two that
                # are the same have the same id by right.
                if name and passage.id in line_of_id:
                    first = line_of_id[passage.id]
                    raise ReadError(f"{place}: has the id {passage.id!r} of line {first}; give it another.")
        except ReadError as error:
            on_error(error)
            continue
        line_of_id.update((passage.id, number) for passage in parts)
        passages += parts
    if is_blank:
        raise ReadError(f"{path}: holds no text.")
    return passages


def _lines(path: Path, limits: ReadLimits) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers."""
    if path.name.lower().endswith(".gz"):
        chunks = _unpacked(path, limits)
        first = next(chunks, b"")
        if first.startswith(_UTF_16):
            chunks = iter([_in_utf_8(path, first + b"".join(chunks))])
            first = b""
    else:
        first, chunks = read_bytes(path, limits), iter(())
        if first.startswith(_UTF_16):
            first = _in_utf_8(path, first)
    number, rest = 1, b""
    # By line feed only: JSON strings may hold the other line ends that splitlines knows.
    for chunk in _chained(first.removeprefix(b"\xef\xbb\xbf"), chunks):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line and not line.isspace():
                yield number, line
            number += 1
        if len(rest) > _LONGEST_LINE:
            raise ReadError(f"{path}, line {number}: is longer than {_LONGEST_LINE:,} bytes.")
    if rest.strip():
        yield number, rest


def _chained(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _in_utf_8(path: Path, data: bytes) -> bytes:
    return decode_text(path, data).encode("utf-8", "replace").removeprefix(b"\xef\xbb\xbf")


def _unpacked(path: Path, limits: ReadLimits) -> Iterator[bytes]:
    check_regular(path, limits)
    most = limits.max_unpacked_bytes
    size = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                if size > most:
                    raise ReadError(
                        f"{path}: unpacks to more than {most:,} bytes; split it, or raise max_unpacked_bytes."
                    )
                yield chunk
    except ReadError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise ReadError(f"{path}: is damaged or not a gzip file ({error}).") from error


def _parse_record(place: str, line: bytes) -> tuple[str, str, str | None, dict[str, Any]]:
    """Id ("" for none), text, title and metadata of one line.

    Raises:
        ReadError: It is not a JSON object with a text, or one of its fields has the wrong type.
    """
    try:
        # JSON can escape half a surrogate pair, which no UTF-8 can hold, and write numbers without end.
        record = plain(json.loads(decode_text(place, line), parse_constant=_refuse_constant))
    except NotPlainError as error:
        raise ReadError(f"{place}: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{place}: is not JSON ({error}).") from None
    if not isinstance(record, dict):
        raise ReadError(f'{place}: must be an object such as {{"id": "1", "text": "..."}}.')
    name, text, title = record.pop("id", None), record.pop("text", None), record.pop("title", None)
    metadata = record.pop("metadata", None)
    if not isinstance(text, str):
        raise ReadError(f'{place}: needs a string under "text".')
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise ReadError(f'{place}: "id" must be a string or a whole number, got {shown(name)}.')
    if title is not None and not isinstance(title, str):
        raise ReadError(f'{place}: "title" must be a string, got {shown(title)}.')
    if metadata is not None and not isinstance(metadata, dict):
        raise ReadError(f'{place}: "metadata" must be an object, got {shown(metadata)}.')
    text = strip_marks(text)
    if not text.strip():
        raise ReadError(f'{place}: holds no text under "text".')
    title = strip_marks(title) if title else None
    return "" if name is None else str(name), text, title, {**record, **(metadata or {})}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


RECORDS = {".jsonl": _read_jsonl, ".jsonl.gz": _read_jsonl}
