"""Questions that wait to be read: higher priorities first, callers by turns, then as they came."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

from .jobs import Job

__all__ = ["WaitingJobs"]


class WaitingJobs:
    """See the module. Not safe to use from several threads at once."""

    def __init__(self) -> None:
        self._first: deque[Job] = deque()  # before all others
        self._lines: dict[int, OrderedDict[Hashable, deque[Job]]] = {}  # by priority, then by caller

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Job]:
        yield from self._first
        for lines in self._lines.values():
            for line in lines.values():
                yield from line

    def add(self, job: Job) -> None:
        """Behind those of the same priority and caller."""
        self._lines.setdefault(job.priority, OrderedDict()).setdefault(job.caller, deque()).append(job)

    def add_first(self, job: Job) -> None:
        """Behind others that were added so, and before all that wait: it has waited already."""
        self._first.append(job)

    def first(self) -> Job | None:
        """Whose turn it is."""
        if self._first:
            return self._first[0]
        if not self._lines:
            return None
        return next(iter(self._lines[max(self._lines)].values()))[0]

    def take(self) -> Job:
        """The same, which waits no longer; its caller's next one waits for those of other callers."""
        if self._first:
            return self._first.popleft()
        priority = max(self._lines)
        lines = self._lines[priority]
        caller, line = next(iter(lines.items()))
        job = line.popleft()
        lines.move_to_end(caller)
        self._clear(priority, caller)
        return job

    def drop(self, is_over: Callable[[Job], bool]) -> None:
        """Forget some, asking about each once."""
        self._first = deque(job for job in self._first if not is_over(job))
        for priority, lines in list(self._lines.items()):
            for caller, line in list(lines.items()):
                lines[caller] = deque(job for job in line if not is_over(job))
                self._clear(priority, caller)

    def _clear(self, priority: int, caller: Hashable) -> None:
        lines = self._lines[priority]
        if not lines[caller]:
            del lines[caller]
        if not lines:
            del self._lines[priority]
