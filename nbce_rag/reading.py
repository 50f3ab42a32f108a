"""Reading files and folders into passages, file by file; what cannot be read is named and passed over."""

from __future__ import annotations

import gzip
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbce_rag.documents import DOCUMENT_READERS, decode_text, read_bytes, read_document, strip_marks
from nbce_rag.errors import NbceWarning, ReadError
from nbce_rag.passages import Passage
from nbce_rag.splitting import TokenCounter, check_window, split_document

__all__ = ["SUFFIXES", "find_files", "read_files"]

SUFFIXES: tuple[str, ...] = (*DOCUMENT_READERS, ".jsonl", ".jsonl.gz")
"""Ends of the names of files that can be read; case does not matter."""

_Split = Callable[..., list[Passage]]
_OnError = Callable[[ReadError], None]


def read_files(
    paths: Iterable[str | Path],
    *,
    max_tokens: int = 200,
    overlap: int = 32,
    count_tokens: TokenCounter | None = None,
    on_error: Callable[[ReadError], None] | None = None,
) -> Iterator[tuple[Path, list[Passage]]]:
    """Reads files and folders into passages.

    Folders are read with all that is in them, sorted by path; hidden files and folders and files of
    other types in them are passed over, links to folders are not followed. A file that is reached
    twice is read once. The `source` of a passage is the file's path as it was given or found, with
    forward slashes. Spans count in the text of `read_document`; passages of a PDF have in
    `metadata["page"]` the page, from 1, that they start on.

    A .jsonl or .jsonl.gz file holds one JSON object a line: `text`, and if wanted `id`, `title` and
    `metadata`; all other keys are added to the metadata. Its passages have spans in that `text`. The
    id is kept when the text makes one passage; more get `#1`, `#2`, ... after it.

    Text loses the noncharacters U+FDD0 to U+FDD3, which mark passages in prompts.

    Args:
        paths: Files and folders; one path alone will do.
        max_tokens: The most tokens of a passage.
        overlap: The most tokens that a passage repeats from the one before.
        count_tokens: Counts the tokens of a string; default `nbce_rag.splitting.approximate_tokens`.
        on_error: Gets an error for each file or line that is passed over. Default: an `NbceWarning`.
            It may raise to stop the reading.

    Returns:
        An iterator of (path, its passages in order), for files that gave at least one.

    Raises:
        InputError: `max_tokens` or `overlap` is out of range, at the call.
    """
    check_window(max_tokens, overlap)
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]

    def split(text: str, **fields: Any) -> list[Passage]:
        return split_document(
            text, max_tokens=max_tokens, overlap=overlap, count_tokens=count_tokens, **fields
        )

    return _read(paths, split, on_error or _warn)


def _warn(error: ReadError) -> None:
    # Past this function and the two generators, to the loop over them.
    warnings.warn(f"Passed over: {error}", NbceWarning, stacklevel=3)


def _read(
    paths: Iterable[str | Path], split: _Split, on_error: _OnError
) -> Iterator[tuple[Path, list[Passage]]]:
    seen: set[str] = set()
    for path in find_files(paths, on_error):
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        try:
            is_jsonl = path.name.lower().endswith((".jsonl", ".jsonl.gz"))
            passages = (_read_jsonl if is_jsonl else _read_one)(path, split, on_error)
        except ReadError as error:
            on_error(error)
        else:
            if passages:
                yield path, passages


def find_files(paths: Iterable[str | Path], on_error: _OnError) -> Iterator[Path]:
    """The files that are named, and those of a known type in the folders that are named."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = sorted(_walk(path, on_error))
        if not found:
            on_error(ReadError(f"{path}: this folder holds no file that ends in {', '.join(SUFFIXES)}."))
        yield from found


def _walk(folder: Path, on_error: _OnError) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        on_error(ReadError(f"{error.filename}: cannot be read: {error.strerror}."))

    for parent, folders, names in os.walk(folder, onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(parent, name)


def _source(path: Path) -> str:
    # Names of files may hold bytes that are not UTF-8, which nothing downstream can store.
    return path.as_posix().encode("utf-8", "replace").decode()


def _read_one(path: Path, split: _Split, on_error: _OnError) -> list[Passage]:
    document = read_document(path)
    passages = split(document.text, title=document.title, source=_source(path))
    if document.page_starts:
        return [replace(p, metadata={**p.metadata, "page": document.page(p.start or 0)}) for p in passages]
    return passages


def _read_jsonl(path: Path, split: _Split, on_error: _OnError) -> list[Passage]:
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
            made = split(text, title=title, source=_source(path), metadata=metadata)
            if name and len(made) == 1:
                made = [replace(made[0], id=name)]
            elif name:
                made = [replace(p, id=f"{name}#{part}") for part, p in enumerate(made, start=1)]
            for passage in made:
                # Two records of one id would overwrite each other. Without ids of their own, two that
                # are the same have the same id by right.
                if name and passage.id in line_of_id:
                    first = line_of_id[passage.id]
                    raise ReadError(f"{place}: has the id {passage.id!r} of line {first}; give it another.")
        except ReadError as error:
            on_error(error)
            continue
        line_of_id.update((passage.id, number) for passage in made)
        passages += made
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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
