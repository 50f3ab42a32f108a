"""A document: what a file says, and how its bytes become text."""

from __future__ import annotations

import codecs
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..errors import ReadError
from ..noncharacters import strip_marks
from ..passages import Passage
from .limits import READ_LIMITS, ReadLimits

__all__ = [
    "Document",
    "OnError",
    "Part",
    "Splitter",
    "check_regular",
    "clean_title",
    "decode_text",
    "document_of",
    "read_bytes",
    "source_name",
    "source_of",
]

OnError: TypeAlias = Callable[[ReadError], None]
"""Gets an error for each file, page or line that is passed over."""


class Splitter(Protocol):
    """Makes passages of a text, as `nbce_rag.documents.splitting.split_document` does."""

    def __call__(
        self,
        text: str,
        *,
        title: str | None = None,
        source: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Passage]: ...


def source_name(path: Path) -> str:
    """The source of a file's passages: its path with forward slashes, as `source_of` writes it."""
    return source_of(path.as_posix())


def source_of(name: str | os.PathLike[str]) -> str:
    """A source as text. Bytes of a name that are not UTF-8 stand as `\\xe9`, so that names stay apart."""
    text = os.fsdecode(name)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a document, such as a slide, a sheet or a chapter.

    Attributes:
        start: Where in the document's text it starts. It ends where the next one starts.
        metadata: What passages that start in it have in theirs, such as `{"slide": 3}`.
    """

    start: int
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says.

    Attributes:
        text: Its text, without passage marks (U+FDD0 to U+FDD3).
        title: Its title, when it names one.
        page_starts: Where in `text` each page starts, for formats that have pages; else empty.
        gaps: What of the file is not in the text, a sentence each, such as pages that are images.
        parts: Its slides, sheets or chapters, in order, for formats that have some; else empty.
    """

    text: str
    title: str | None = None
    page_starts: tuple[int, ...] = ()
    gaps: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def page(self, position: int) -> int | None:
        """The page, counted from 1, that holds the character at `position`; None without pages."""
        return bisect_right(self.page_starts, position) or None

    def metadata(self, position: int) -> dict[str, Any]:
        """What is known of the place at `position`: its page, and the metadata of its part."""
        page = self.page(position)
        number = bisect_right(self.parts, position, key=lambda part: part.start)
        place = dict(self.parts[number - 1].metadata) if number else {}
        return place if page is None else {"page": page, **place}


def document_of(
    parts: Iterable[tuple[str, Mapping[str, Any]]], title: str | None = None, gaps: Iterable[str] = ()
) -> Document:
    """A document of parts: the text of each, and its metadata. Blank lines stand between them."""
    texts: list[str] = []
    places: list[Part] = []
    start = 0
    for part, metadata in parts:
        text = strip_marks(part)
        if text.strip():
            texts.append(text)
            places.append(Part(start, metadata))
            start += len(text) + len(_BETWEEN)
    return Document(_BETWEEN.join(texts), clean_title(title), gaps=tuple(gaps), parts=tuple(places))


_BETWEEN = "\n\n"


def check_regular(path: Path, limits: ReadLimits = READ_LIMITS) -> os.stat_result:
    """What a file is, before it is opened: opening a pipe or a device could wait for ever.

    Raises:
        ReadError: It is missing, not a regular file, too large, or nothing that could be.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ReadError(f"{path}: does not exist; check the path.") from None
    except (OSError, ValueError) as error:  # too long a name, a NUL in it, a link into itself
        reason = getattr(error, "strerror", None) or error
        raise ReadError(f"{str(path)[:300]}: cannot be read: {reason}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise ReadError(f"{path}: is not a regular file.")
    if status.st_size > limits.max_bytes:
        raise ReadError(
            f"{path}: has {status.st_size:,} bytes, over the limit of {limits.max_bytes:,}; "
            "split it, or raise max_bytes."
        )
    return status


def read_bytes(path: Path, limits: ReadLimits = READ_LIMITS) -> bytes:
    """The content of a regular file.

    Raises:
        ReadError: It is missing, not a regular file, too large, or not readable.
    """
    check_regular(path, limits)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ReadError(f"{path}: does not exist; check the path.") from None
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decode_text(path: str | Path, data: bytes) -> str:
    """Text of a file in UTF-8 or, by its byte order mark, UTF-16. Line ends stay as they are.

    Raises:
        ReadError: It is in neither. `path` (or any name of the place) goes into the message.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-16" if is_utf16 else "UTF-8"
        raise ReadError(f"{path}: is not {name} at byte {error.start}; save it as UTF-8.") from None
    # UTF-16 without a byte order mark, and many binary formats, are valid UTF-8 with zeros in it.
    if "\0" in text:
        raise ReadError(f"{path}: holds NUL characters, so it is not UTF-8 text; save it as UTF-8.")
    return text


def clean_title(title: str | None) -> str | None:
    """A title on one line, or None when nothing is left of it."""
    return " ".join(strip_marks(title).split()) or None if title else None
