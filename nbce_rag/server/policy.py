"""Who may read what, and when: where access, admission and metrics join the way of a question."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from ..request import Request

__all__ = ["OpenPolicy", "Policy"]


class Policy(Protocol):
    """What is asked before a question is answered. A caller is what `request.state.caller` holds, or None."""

    def may_read(self, caller: Any, index: str) -> bool:
        """Whether a caller may know of an index; one that it may not is as if it were not there."""
        ...

    def admitted(self, caller: Any, request: Request) -> AbstractAsyncContextManager[None]:
        """Entered before a request goes to the engine, left when its answer is whole or its client is gone.

        Entering raises a `nbce_rag.server.wire.errors.ServerError` where there is no room; it does not wait
        for long, since nothing is sent to the client before.
        """
        ...

    def observe(self, caller: Any, event: object) -> None:
        """Told of each event of `nbce_rag.server.asking`: what was retrieved, every piece."""
        ...


class OpenPolicy:
    """Everybody may read everything, at once."""

    def may_read(self, caller: Any, index: str) -> bool:
        """True."""
        return True

    def admitted(self, caller: Any, request: Request) -> AbstractAsyncContextManager[None]:
        """At once."""
        return _nothing()

    def observe(self, caller: Any, event: object) -> None:
        """Nothing is kept."""


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield
