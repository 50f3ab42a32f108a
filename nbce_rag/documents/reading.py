"""Where the documents of many files are read: here, or ahead of time in other processes."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from ..checks import check_count
from .document import Document
from .limits import ReadLimits
from .processes import ReadingProcesses
from .readers import is_plain, read_document

__all__ = ["Reading", "check_workers"]

_FEW = 8
_SMALL = 4 << 20
_AHEAD = 4
"""Files that wait for each process; their text is held meanwhile."""

_Item = TypeVar("_Item")


class Reading:
    """Reads documents one by one, and begins with the next ones meanwhile. To be closed, as by `with`.

    Text that stands in a file as it is, and files of records, are read where they are asked for: that takes
    less than handing them over.

    Args:
        workers: Processes that read; 1 reads everything here. Default: as many as there are cores, unless
            there are fewer than 8 files that would be handed over, with less than 4 MiB together.
        limits: Of each file.

    Raises:
        InputError: `workers` is no whole number above 0.
    """

    def __init__(self, workers: int | None, limits: ReadLimits) -> None:
        check_workers(workers)
        self._is_default = workers is None
        self._workers = _cores() if workers is None else workers
        if getattr(sys, "frozen", False) or not sys.executable:  # there is no Python to start
            self._workers = 1
        self._limits = limits
        self._processes: ReadingProcesses | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._processes is not None:
            self._processes.close()

    def ahead(self, items: Iterable[_Item], path_of: Callable[[_Item], Path]) -> Iterator[_Item]:
        """The items in their order, while the documents of those behind them are being read.

        Args:
            items: Taken from a little ahead.
            path_of: The file of each.
        """
        if self._workers == 1:
            yield from items
            return
        waiting: deque[_Item] = deque()
        count = size = 0
        for item in items:
            waiting.append(item)
            path = path_of(item)
            if not is_plain(path):
                count, size = count + 1, size + _size(path)
                if self._processes is not None:
                    self._processes.begin(path)
                elif not self._is_default or count >= _FEW or size >= _SMALL:
                    self._processes = ReadingProcesses(self._workers, self._limits)
                    for path in filter(lambda path: not is_plain(path), map(path_of, waiting)):
                        self._processes.begin(path)
            most = _FEW * _FEW if self._processes is None else _AHEAD * self._workers
            while waiting and (len(waiting) > most or is_plain(path_of(waiting[0]))):
                yield waiting.popleft()
        yield from waiting

    def read(self, path: Path, limits: ReadLimits) -> Document:
        """As `read_document`; of a file that `ahead` went past, what was read there."""
        return (self._processes.read if self._processes else read_document)(path, limits)


def check_workers(workers: int | None) -> None:
    """Raises InputError unless it is a whole number above 0, or None."""
    if workers is not None:
        check_count("workers", workers, "as many as there are cores is a good start")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
