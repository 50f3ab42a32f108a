"""Leaving alone what does not answer, and looking after it now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]

_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0


class Breaker:
    """Open after a failure: then nothing is asked for a pause, which doubles from failure to failure.

    After the pause one probe may be made (half open). What it finds closes the breaker, or opens it anew.
    Safe to use from several threads.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pause = _FIRST_PAUSE
        self._until: float | None = None  # when a probe may be made; None where it is closed

    def renew(self) -> None:
        """For a child process: a thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether nothing is to be asked."""
        return self._until is not None

    def fail(self) -> None:
        """Open it, for longer than the last time unless something went well since."""
        with self._lock:
            self._until = self._clock() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """A probe was answered: it may be asked again, and the next pause is none the shorter for it."""
        with self._lock:
            self._until = None

    def succeed(self) -> None:
        """All is well: closed, and the next pause is a short one."""
        with self._lock:
            self._until = None
            self._pause = _FIRST_PAUSE

    def take_probe(self) -> bool:
        """Whether the caller is to make the one probe that is due; one a pause, whatever becomes of it."""
        with self._lock:
            now = self._clock()
            is_due = self._until is not None and now >= self._until
            if is_due:
                self._until = now + self._pause
            return is_due
