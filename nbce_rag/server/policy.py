"""Who may read what, and when: where access, admission and metrics join the way of a question."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from ..request import Request
from .ask import Ask

__all__ = ["OpenPolicy", "Policy", "Turn"]

_T = TypeVar("_T")


class Turn(Protocol):
    """What a question that was let in waits for, and what may end it."""

    async def turn(self) -> None:
        """Waits until it may go to the engine. Streams ping meanwhile."""
        ...

    async def watch(self, work: Awaitable[_T]) -> _T:
        """What the work gives.

        Raises:
            ServerError: the server ends before it is done, which ends it too.
        """
        ...


class Policy(Protocol):
    """What is asked before a question is answered. A caller is what `request.state.caller` holds, or None."""

    def may_read(self, caller: Any, index: str) -> bool:
        """Whether a caller may know of an index; one that it may not is as if it were not there."""
        ...

    def allowed(self, caller: Any, ask: Ask) -> Ask:
        """The question as this caller may ask it: with its defaults, and within its limits.

        Raises:
            ServerError: it is over a limit.
        """
        ...

    def place(
        self, caller: Any, request: Request, ask: Ask | None = None
    ) -> AbstractAsyncContextManager[Turn]:
        """Entered before a request goes to the engine, left when its answer is whole or its client is gone.

        Entering raises a `nbce_rag.server.wire.errors.ServerError` where there is no room; it does not wait
        for the turn, so that streams begin at once. `ask` tells what is yet to be found for it.
        """
        ...

    def admitted(self, caller: Any, request: Request) -> AbstractAsyncContextManager[Turn]:
        """`place`, and the turn waited for."""
        ...

    def check_text(self, characters: int, param: str) -> None:
        """Raises ServerError where a text of a request has too many characters."""
        ...

    def reading(self, caller: Any, texts: Sequence[str]) -> AbstractAsyncContextManager[Turn]:
        """A turn, waited for, for texts that are read without a question; errors as in `place`."""
        ...

    def observe(self, caller: Any, event: object) -> None:
        """Told of each event of `nbce_rag.server.asking`: what was retrieved, every piece."""
        ...


class OpenPolicy:
    """Everybody may read everything, at once."""

    def may_read(self, caller: Any, index: str) -> bool:
        """True."""
        return True

    def allowed(self, caller: Any, ask: Ask) -> Ask:
        """As it is."""
        return ask

    def place(
        self, caller: Any, request: Request, ask: Ask | None = None
    ) -> AbstractAsyncContextManager[Turn]:
        """At once."""
        return _at_once()

    def admitted(self, caller: Any, request: Request) -> AbstractAsyncContextManager[Turn]:
        """At once."""
        return _at_once()

    def check_text(self, characters: int, param: str) -> None:
        """None is too long."""

    def reading(self, caller: Any, texts: Sequence[str]) -> AbstractAsyncContextManager[Turn]:
        """At once."""
        return _at_once()

    def observe(self, caller: Any, event: object) -> None:
        """Nothing is kept."""


class _AtOnce:
    async def turn(self) -> None:
        """It is there."""

    async def watch(self, work: Awaitable[_T]) -> _T:
        """Nothing ends it."""
        return await work


@asynccontextmanager
async def _at_once() -> AsyncIterator[Turn]:
    yield _AtOnce()
