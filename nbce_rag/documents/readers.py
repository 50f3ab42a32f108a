"""Which function reads which file: what the modules of `nbce_rag.documents.formats` say.

The text of a `Document` is what spans of passages count in. It is the file's text as it stands for
text formats (line ends included; but without the data of pictures), and the extracted text for others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TypeAlias, TypeVar

from ..errors import ReadError
from ..files import expand_home
from ..passages import Passage
from . import formats
from .document import Document, OnError, Splitter, read_bytes, source_name
from .limits import READ_LIMITS, ReadLimits

__all__ = ["SUFFIXES", "DocumentReader", "RecordReader", "read_document", "read_passages"]

DocumentReader: TypeAlias = Callable[[Path, bytes, ReadLimits], Document]
"""Reads a file's content within limits; raises ReadError where it cannot."""

RecordReader: TypeAlias = Callable[[Path, Splitter, OnError, ReadLimits], list[Passage]]
"""Reads a file of many texts within limits, splits each, and tells of those that cannot be read."""

_Reader = TypeVar("_Reader")

_MODULES = [import_module(f"{formats.__name__}.{module.name}") for module in iter_modules(formats.__path__)]
_DOCUMENTS: dict[str, DocumentReader] = {}
_RECORDS: dict[str, RecordReader] = {}
for _module in _MODULES:
    _DOCUMENTS.update(getattr(_module, "DOCUMENTS", {}))
    _RECORDS.update(getattr(_module, "RECORDS", {}))

SUFFIXES: tuple[str, ...] = (*_DOCUMENTS, *_RECORDS)
"""Ends of the names of files that can be read; case does not matter."""


def read_document(path: str | Path, limits: ReadLimits = READ_LIMITS) -> Document:
    """Reads one file of a format that holds one document, such as .txt, .md, .rst, .html or .pdf.

    Text is UTF-8 (with or without a byte order mark) or UTF-16 with one; HTML may also declare
    another encoding.

    Raises:
        ReadError: The file cannot be read or decoded, is encrypted, holds no text, or has another suffix,
            or is over one of the limits.
    """
    path = Path(expand_home(path))
    reader = _reader_of(path, _DOCUMENTS)
    if reader is None and not os.path.exists(path):
        raise ReadError(f"{str(path)[:300]}: there is no such file; check the path.")
    if reader is None:
        raise ReadError(
            f"{path}: cannot read files of type {path.suffix or '(no suffix)'!r}; "
            f"convert it to one of {', '.join(_DOCUMENTS)}."
        )
    document = reader(path, read_bytes(path, limits), limits)
    if not document.text.strip():
        raise ReadError(f"{path}: holds no text.")
    return document


def read_passages(
    path: Path, splitter: Splitter, on_error: OnError, limits: ReadLimits = READ_LIMITS
) -> list[Passage]:
    """The passages of one file, in order; those of a format with pages have theirs in `metadata["page"]`.

    Raises:
        ReadError: As in `read_document`. What is wrong with single records or pages `on_error` gets.
    """
    try:
        return _read_passages(path, splitter, on_error, limits)
    except (MemoryError, RecursionError) as error:
        raise ReadError(f"{path}: takes more memory or nests deeper than can be read; split it.") from error


def _read_passages(path: Path, splitter: Splitter, on_error: OnError, limits: ReadLimits) -> list[Passage]:
    records = _reader_of(path, _RECORDS)
    if records is not None:
        return records(path, splitter, on_error, limits)
    document = read_document(path, limits)
    for gap in document.gaps:
        on_error(ReadError(f"{path}: {gap}"))
    passages = splitter(document.text, title=document.title, source=source_name(path))
    if document.page_starts:
        return [replace(p, metadata={**p.metadata, "page": document.page(p.start or 0)}) for p in passages]
    return passages


def _reader_of(path: Path, readers: Mapping[str, _Reader]) -> _Reader | None:
    """The reader of the longest suffix that the file's name ends in."""
    name = path.name.lower()
    suffixes = [suffix for suffix in readers if name.endswith(suffix)]
    return readers[max(suffixes, key=len)] if suffixes else None
