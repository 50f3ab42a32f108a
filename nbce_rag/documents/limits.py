"""How much of a file is read: what is larger, deeper or slower is refused, not waited for."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from pathlib import Path

from ..checks import Range
from ..errors import ReadError

__all__ = ["READ_LIMITS", "Deadline", "ReadLimits", "Room"]


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """The most that one file may take. A file over one of them is passed over with an error that names it.

    Attributes:
        max_bytes: Bytes of the file; default 1 GiB.
        max_unpacked_bytes: Bytes of what it unpacks to, all its parts together; default 1 GiB.
        max_depth: Levels of elements within elements; default 20,000.
        max_pages: Pages, sheets or slides; default 50,000.
        max_seconds: Seconds of reading, splitting not counted; default 600. Readers look at the clock between
            the parts of a file, so that a little more may pass.

    Raises:
        InputError: One of them is no number, or not above 0. All but `max_seconds` are whole numbers.

    Example:
        >>> ReadLimits(max_bytes=1_000_000).max_pages
        50000
    """

    max_bytes: int = 1 << 30
    max_unpacked_bytes: int = 1 << 30
    max_depth: int = 20_000
    max_pages: int = 50_000
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _RANGES.get(field.name, _COUNT).check(field.name, getattr(self, field.name), "ReadLimits")

    def check_pages(self, path: Path | str, count: int) -> None:
        """Raises ReadError when a file has too many pages, sheets or slides."""
        if count > self.max_pages:
            raise ReadError(
                f"{path}: has {count:,} pages, over the limit of {self.max_pages:,}; "
                "split it, or raise max_pages."
            )


_COUNT = Range(1, whole=True)
_RANGES = {"max_seconds": Range(0, math.inf, above=True)}

READ_LIMITS = ReadLimits()
"""The defaults."""


class Deadline:
    """The time at which the reading of a file ends, from now on."""

    def __init__(self, path: Path | str, limits: ReadLimits) -> None:
        self._path = path
        self._seconds = limits.max_seconds
        self._end = time.monotonic() + limits.max_seconds

    def check(self) -> None:
        """Raises ReadError when it is over."""
        if time.monotonic() > self._end:
            raise ReadError(
                f"{self._path}: takes over {self._seconds:g} seconds to read; split it, or raise max_seconds."
            )


class Room:
    """How much text there may still be, where a file says something once that stands in many places."""

    def __init__(self, path: Path | str, limits: ReadLimits) -> None:
        self._path = path
        self._most = limits.max_unpacked_bytes
        self._taken = 0

    def take(self, size: int) -> None:
        """Raises ReadError when `size` more characters are too many."""
        self._taken += size
        if self._taken > self._most:
            raise ReadError(
                f"{self._path}: unpacks to more than {self._most:,} characters, the limit of "
                "max_unpacked_bytes; split it, or raise that."
            )
