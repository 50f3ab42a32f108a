"""Connections on which no whole request comes: without an end, whoever opens many keeps the others out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["IdleConnections"]


class IdleConnections:
    """Closes connections that have been without a request for too long, or with half of its head.

    Args:
        seconds: after which a connection is closed.
        clock: seconds, for tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: WeakKeyDictionary[Any, tuple[Any, float]] = WeakKeyDictionary()

    def sweep(self, connections: Iterable[Any]) -> None:
        """Looks at all connections; once a second is often enough.

        Args:
            connections: uvicorn's protocols. `cycle` is the request that came last, or None.
        """
        now = self._clock()
        for connection in list(connections):
            cycle = getattr(connection, "cycle", None)
            last, since = self._since.get(connection, (None, now))
            if cycle is not last or (cycle is not None and not cycle.response_complete):
                since = now
            self._since[connection] = (cycle, since)
            if now - since >= self._seconds and not connection.transport.is_closing():
                connection.transport.close()
