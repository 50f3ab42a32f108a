"""Ending without breaking off: from the first signal on nobody new is let in, and running answers may end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from .wire.errors import ServerError

__all__ = ["Drain"]

_T = TypeVar("_T")
_ELSEWHERE_S = 5.0  # until a proxy knows of another server, or this one is back


class Drain:
    """How a server ends. For one event loop.

    Attributes:
        has_begun: Whether nobody new is let in.
        has_ended: Whether running answers are broken off.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.has_ended = False
        self._waiting: set[asyncio.Future[None]] = set()

    def begin(self) -> None:
        """From now on `check` refuses."""
        self.has_begun = True

    def end(self) -> None:
        """Breaks off what is still running: who waits within `watch` gets an error, which streams send on."""
        self.has_begun = self.has_ended = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def check(self) -> None:
        """Raises ServerError (503) where the server is ending."""
        if self.has_begun:
            raise ServerError(
                503, "The server is being shut down.", code="draining", retry_after=_ELSEWHERE_S
            )

    async def watch(self, work: Awaitable[_T]) -> _T:
        """What the work gives; it is cancelled, and waited for, when running answers are broken off.

        Raises:
            ServerError: they are (503).
        """
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.has_ended:
            end.set_result(None)
        self._waiting.add(end)
        working = asyncio.ensure_future(work)
        try:
            both: set[asyncio.Future[Any]] = {working, end}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ServerError(
                    503,
                    "The server was shut down before the answer was whole.",
                    code="shut_down",
                    retry_after=_ELSEWHERE_S,
                )
            return working.result()
        finally:
            self._waiting.discard(end)
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
