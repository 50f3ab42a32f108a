"""Which function reads which file: what the modules of `nbce_rag.documents.formats` say.

The text of a `Document` is what spans of passages count in. It is the file's text as it stands for
text formats (line ends included; but without the data of pictures), and the extracted text for others. Files
of other types are read as plain text where their bytes are text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TypeAlias

from ..errors import MissingDependencyError, NbceError, ReadError
from ..files import expand_home
from ..passages import Passage
from . import formats
from .document import Document, OnError, Splitter, read_bytes, source_name
from .file_types import OTHER_TYPES, is_text, is_text_file
from .formats import markup, text
from .limits import READ_LIMITS, ReadLimits

__all__ = [
    "EXTRA",
    "KINDS",
    "SUFFIXES",
    "DocumentReader",
    "ReadDocument",
    "RecordReader",
    "holds_records",
    "is_plain",
    "is_read",
    "lacking_packages",
    "read_document",
    "read_passages",
    "reader_version",
]

EXTRA = "nbce-rag[documents]"
"""What installs the packages that formats name in `PACKAGES`."""

KINDS = "text and code of any kind, HTML, PDF, e-mails, notebooks, office files, e-books"
"""What can be read, for messages; `SUFFIXES` has all of it."""

DocumentReader: TypeAlias = Callable[[Path, bytes, ReadLimits], Document]
"""Reads a file's content within limits; raises ReadError where it cannot."""

ReadDocument: TypeAlias = Callable[[Path, ReadLimits], Document]
"""What gives the document of a file, as `read_document` does."""

RecordReader: TypeAlias = Callable[[Path, Splitter, OnError, ReadLimits], list[Passage]]
"""Reads a file of many texts within limits, splits each, and tells of those that cannot be read."""

_MODULES = [import_module(f"{formats.__name__}.{module.name}") for module in iter_modules(formats.__path__)]
_DOCUMENTS: dict[str, DocumentReader] = {}
_RECORDS: dict[str, RecordReader] = {}
_PACKAGES: dict[str, tuple[str, ...]] = {}
_VERSIONS: dict[str, int] = {}
for _module in _MODULES:
    _DOCUMENTS.update(getattr(_module, "DOCUMENTS", {}))
    _RECORDS.update(getattr(_module, "RECORDS", {}))
    _PACKAGES.update(dict.fromkeys(getattr(_module, "DOCUMENTS", {}), getattr(_module, "PACKAGES", ())))
    for _name in ("DOCUMENTS", "RECORDS"):
        _VERSIONS.update(dict.fromkeys(getattr(_module, _name, {}), getattr(_module, "VERSION", 0)))

SUFFIXES: tuple[str, ...] = (*_DOCUMENTS, *_RECORDS)
"""Ends of the names of files that can be read; case does not matter."""


def is_read(path: Path) -> bool:
    """Whether a file in a folder is read: by its suffix if its packages are installed, else if it is text."""
    suffix = _suffix_of(path, SUFFIXES)
    return not _lacking(suffix) if suffix else is_text_file(path)


def is_plain(path: Path) -> bool:
    """Whether reading a file takes hardly more than its bytes: text as it stands, and records of it."""
    suffix = _suffix_of(path, _DOCUMENTS)
    return suffix is None or suffix in text.DOCUMENTS or suffix in markup.DOCUMENTS


def holds_records(path: Path) -> bool:
    """Whether a file is of a format that holds many texts, which `read_document` does not read."""
    return _suffix_of(path, _RECORDS) is not None


def reader_version(path: Path) -> int:
    """The version of what reads a file: another one may make another text of it. 0: text as it stands."""
    suffix = _suffix_of(path, _VERSIONS)
    return _VERSIONS[suffix] if suffix else 0


def lacking_packages() -> tuple[str, ...]:
    """Suffixes that are not read here because packages for them are not installed."""
    return tuple(suffix for suffix in _PACKAGES if _lacking(suffix))


def read_document(path: str | Path, limits: ReadLimits = READ_LIMITS) -> Document:
    """Reads one file of a format that holds one document, such as .txt, .md, .docx, .html or .pdf.

    Text is UTF-8 (with or without a byte order mark), UTF-16 with one, or in an encoding that it declares, as
    pages, mails, XML and source code may. A file of another type is read as plain text if its bytes are,
    unless its suffix is one of `nbce_rag.documents.file_types.OTHER_TYPES`.

    Raises:
        ReadError: The file cannot be read or decoded, is encrypted, holds no text, is of another type,
            or is over one of the limits.
        MissingDependencyError: Packages for this format are not installed.
    """
    path = Path(expand_home(path))
    suffix = _suffix_of(path, _DOCUMENTS)
    if suffix is None and not os.path.exists(path):
        raise ReadError(f"{str(path)[:300]}: there is no such file; check the path.")
    if suffix is None and (holds_records(path) or path.name.lower().endswith(OTHER_TYPES)):
        raise _other_type(path)
    data = read_bytes(path, limits)
    if suffix is None and not is_text(data):
        raise _other_type(path)
    reader = text.DOCUMENTS[".txt"] if suffix is None else _DOCUMENTS[suffix]
    if suffix and (packages := _lacking(suffix)):
        raise MissingDependencyError(
            f"{path}: reading {suffix} needs {', '.join(packages)}: pip install '{EXTRA}'"
        )
    try:
        document = reader(path, data, limits)
    except (NbceError, MemoryError, RecursionError):
        raise
    except Exception as error:  # one file never ends the reading of others
        raise ReadError(f"{path}: cannot be read ({type(error).__name__}: {str(error)[:200]}).") from error
    if not document.text.strip():
        raise ReadError(f"{path}: {' '.join(('holds no text.', *document.gaps))}")
    return document


def _other_type(path: Path) -> ReadError:
    return ReadError(
        f"{path}: cannot read files of type {path.suffix or '(no suffix)'!r}; "
        f"convert it to what can be read: {KINDS}."
    )


def _lacking(suffix: str) -> tuple[str, ...]:
    return tuple(package for package in _PACKAGES.get(suffix, ()) if find_spec(package) is None)


def read_passages(
    path: Path,
    splitter: Splitter,
    on_error: OnError,
    limits: ReadLimits = READ_LIMITS,
    read: ReadDocument | None = None,
) -> list[Passage]:
    """The passages of one file, in order; those of a format with pages have theirs in `metadata["page"]`.

    Args:
        path: The file.
        splitter: Makes passages of a text.
        on_error: Gets what is wrong with single records or pages, and what is left out.
        limits: The most that the file may take.
        read: What reads a format of one document; default `read_document`.

    Raises:
        ReadError: As in `read_document`. What is wrong with single records or pages `on_error` gets.
    """
    try:
        return _read_passages(path, splitter, on_error, limits, read or read_document)
    except MissingDependencyError as error:
        raise ReadError(str(error)) from error
    except (MemoryError, RecursionError) as error:
        raise ReadError(f"{path}: takes more memory or nests deeper than can be read; split it.") from error


def _read_passages(
    path: Path, splitter: Splitter, on_error: OnError, limits: ReadLimits, read: ReadDocument
) -> list[Passage]:
    if suffix := _suffix_of(path, _RECORDS):
        return _RECORDS[suffix](path, splitter, on_error, limits)
    document = read(path, limits)
    for gap in document.gaps:
        on_error(ReadError(f"{path}: {gap}"))
    passages = splitter(document.text, title=document.title, source=source_name(path))
    if document.page_starts or document.parts:
        return [replace(p, metadata={**p.metadata, **document.metadata(p.start or 0)}) for p in passages]
    return passages


def _suffix_of(path: Path, suffixes: Iterable[str]) -> str | None:
    """The longest of these that the file's name ends in."""
    name = path.name.lower()
    return max((suffix for suffix in suffixes if name.endswith(suffix)), key=len, default=None)
