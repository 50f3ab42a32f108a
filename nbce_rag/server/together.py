"""Requests of the engine that came together: each takes its own turn, and their pieces come as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import fields, replace
from typing import Any

from ..answers.answer import Answer, Piece
from ..request import Request
from .ask import Ask, Message
from .policy import Policy, Turn
from .served import Served
from .wire.errors import ServerError

__all__ = ["Together", "begin_together", "within_limits"]

_AT_ONCE = 32  # of one client's requests in the queue, so that they do not fill it
_PATIENCE_S = 1.0


class Together:
    """Requests on their way: an async iterator of (place of the request, piece). `aclose` ends them all."""

    def __init__(
        self,
        served: Served,
        requests: Sequence[tuple[Request, tuple[str, ...]]],
        caller: Any,
        policy: Policy,
        first: Turn,
        held: AsyncExitStack,
    ) -> None:
        self._served, self._requests, self._caller, self._policy = served, requests, caller, policy
        self._first, self._held = first, held
        self._coming: asyncio.Queue[tuple[int, Piece] | BaseException] = asyncio.Queue()
        self._pieces = self._work()

    def __aiter__(self) -> Together:
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Ends the work; doing it twice does no harm."""
        try:
            await self._pieces.aclose()
        finally:
            await self._held.aclose()

    async def _work(self) -> AsyncGenerator[tuple[int, Piece], None]:
        room = asyncio.Semaphore(_AT_ONCE)
        tasks = [asyncio.ensure_future(self._answer(place, room)) for place in range(len(self._requests))]
        missing = len(tasks)
        try:
            while missing:
                coming = await self._coming.get()
                if isinstance(coming, BaseException):
                    raise coming
                missing -= coming[1].answer is not None
                yield coming
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, place: int, room: asyncio.Semaphore) -> None:
        request, notes = self._requests[place]
        try:
            # Each gives its place up as soon as its own answer is whole.
            async with room, self._held if place == 0 else AsyncExitStack() as stack:
                turn = self._first if place == 0 else await self._place(stack, request)
                await turn.turn()
                pieces = await stack.enter_async_context(aclosing(self._served.nbce.astream(request)))
                while (piece := await turn.watch(anext(pieces, None))) is not None:
                    self._policy.observe(self._caller, piece)
                    self._coming.put_nowait((place, _with_notes(piece, notes)))
        except Exception as error:
            self._coming.put_nowait(error)

    async def _place(self, stack: AsyncExitStack, request: Request) -> Turn:
        """A place in the queue, waited for where it is full: the first of them was let in for all."""
        while True:
            try:
                return await stack.enter_async_context(self._policy.place(self._caller, request))
            except ServerError as error:
                if error.status != 429:
                    raise
                await asyncio.sleep(min(error.retry_after or _PATIENCE_S, _PATIENCE_S))


async def begin_together(
    served: Served, requests: Sequence[Request], caller: Any, policy: Policy
) -> Together:
    """Lets requests in; nothing is computed before the first piece is drawn.

    Raises:
        ServerError: one of them is over a limit, or there is no room now.
    """
    allowed = [within_limits(policy, caller, request) for request in requests]
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(policy.place(caller, allowed[0][0]))
        return Together(served, allowed, caller, policy, first, stack.pop_all())


def within_limits(policy: Policy, caller: Any, request: Request) -> tuple[Request, tuple[str, ...]]:
    """A request as its caller may ask it, and what whoever asked should know of that.

    Raises:
        ServerError: it is over a limit.
    """
    options = {field.name: getattr(request.options, field.name) for field in fields(request.options)}
    prompt = request.prompt
    texts = [request.question]
    if prompt is not None:
        texts += [str(message["content"]) for message in prompt.messages or ()] + [prompt.text or ""]
    ask = Ask(
        messages=tuple(Message("user", (text,)) for text in texts),
        documents=tuple(request.passages),
        options=options,
    )
    made = policy.allowed(caller, ask)
    changes = {name: value for name, value in made.options.items() if options[name] != value}
    parts = tuple(within_limits(policy, caller, part)[0] for part in request.parts)
    return replace(request, options=request.options.updated(**changes), parts=parts), made.notes


def _with_notes(piece: Piece, notes: tuple[str, ...]) -> Piece:
    answer: Answer | None = piece.answer
    if answer is None or not notes:
        return piece
    return replace(piece, answer=replace(answer, warnings=(*answer.warnings, *notes)))
