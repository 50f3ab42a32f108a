"""Records of text, one JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ...errors import ReadError
from ...noncharacters import strip_marks
from ...passages import Passage
from ..document import OnError, Splitter, decode_text, read_bytes, source_name

__all__ = ["RECORDS"]


def _read_jsonl(path: Path, splitter: Splitter, on_error: OnError) -> list[Passage]:
    data = read_bytes(path)
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ReadError(f"{path}: is damaged or not a gzip file ({error}).") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = decode_text(path, data).encode("utf-8", "replace")
    passages: list[Passage] = []
    line_of_id: dict[str, int] = {}
    is_blank = True
    # By line feed only: JSON strings may hold the other line ends that splitlines knows.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        is_blank = False
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


def _parse_record(place: str, line: bytes) -> tuple[str, str, str | None, dict[str, Any]]:
    """Id ("" for none), text, title and metadata of one line.

    Raises:
        ReadError: It is not a JSON object with a text, or one of its fields has the wrong type.
    """
    try:
        record = json.loads(decode_text(place, line), parse_constant=_refuse_constant)
        # JSON can escape half a surrogate pair, which no UTF-8 can hold.
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ReadError(
            f"{place}: holds half a surrogate pair (\\ud800 to \\udfff); mend its escapes."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{place}: is not JSON ({error}).") from None
    if not isinstance(record, dict):
        raise ReadError(f'{place}: must be an object such as {{"id": "1", "text": "..."}}.')
    name, text, title = record.pop("id", None), record.pop("text", None), record.pop("title", None)
    metadata = record.pop("metadata", None)
    if not isinstance(text, str):
        raise ReadError(f'{place}: needs a string under "text".')
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise ReadError(f'{place}: "id" must be a string or a whole number, got {name!r}.')
    if title is not None and not isinstance(title, str):
        raise ReadError(f'{place}: "title" must be a string, got {title!r}.')
    if metadata is not None and not isinstance(metadata, dict):
        raise ReadError(f'{place}: "metadata" must be an object, got {metadata!r}.')
    text = strip_marks(text)
    if not text.strip():
        raise ReadError(f'{place}: holds no text under "text".')
    title = strip_marks(title) if title else None
    return "" if name is None else str(name), text, title, {**record, **(metadata or {})}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


RECORDS = {".jsonl": _read_jsonl, ".jsonl.gz": _read_jsonl}
