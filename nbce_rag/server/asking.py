"""The one way in which a question becomes an answer: retrieval, engine, events as they come.

Whoever leaves early closes what `begin` gave, and the engine's rows are free within a step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from ..answers.answer import Piece
from ..request import Request
from .ask import Ask, Outcome, Retrieved
from .policy import Policy, Turn
from .retrieval import check, rags_of, retrieve
from .served import Served

__all__ = ["Answering", "Event", "begin", "gather", "to_its_end", "work_on"]

_T = TypeVar("_T")

Event: TypeAlias = Retrieved | Piece
"""First what was retrieved, then pieces; the last piece carries the answer."""


class Answering:
    """A question on its way: an async iterator of events. `aclose` ends the work and lets go of all it holds.

    Attributes:
        ask: the question.
        retrieved: what was retrieved, once that event has come.
        notes: what whoever asked should know, beside the warnings of the answer.
    """

    def __init__(
        self, served: Served, ask: Ask, caller: Any, policy: Policy, turn: Turn, held: AsyncExitStack
    ) -> None:
        self.ask = ask
        self.retrieved = Retrieved("")
        self.notes = ask.notes
        self._served, self._caller, self._policy = served, caller, policy
        self._turn, self._held = turn, held
        self._events = self._work()

    def __aiter__(self) -> Answering:
        return self

    async def __anext__(self) -> Event:
        event = await self._turn.watch(anext(self._events))
        self._policy.observe(self._caller, event)
        return event

    async def aclose(self) -> None:
        """Ends the work; doing it twice does no harm."""
        try:
            await self._events.aclose()
        finally:
            await self._held.aclose()

    async def _work(self) -> AsyncGenerator[Event, None]:
        served = self._served
        await self._turn.turn()
        rags = rags_of(served, self.ask.indexes, self._caller, self._policy)
        request, self.retrieved, notes = await to_its_end(lambda: retrieve(served, self.ask, rags))
        self.notes += notes
        yield self.retrieved
        async with aclosing(served.nbce.astream(request)) as pieces:
            async for piece in pieces:
                yield _timed(piece, self.retrieved.seconds)


async def begin(served: Served, ask: Ask, caller: Any, policy: Policy) -> Answering:
    """Checks a question and lets it in; nothing is searched or computed before the first event is drawn.

    Raises:
        NbceError: what is wrong with it, or that there is no room for it now.
    """
    ask = policy.allowed(caller, ask)
    request = await asyncio.to_thread(check, served, ask, caller, policy)
    async with AsyncExitStack() as stack:
        turn = await stack.enter_async_context(policy.place(caller, request, ask))
        return Answering(served, ask, caller, policy, turn, stack.pop_all())


async def work_on(
    served: Served,
    ask: Ask,
    caller: Any,
    policy: Policy,
    work: Callable[[Request, Retrieved], _T],
) -> tuple[_T, Retrieved]:
    """Something else that is done with a question and its passages, in a thread; and what was retrieved.

    Raises:
        NbceError: as `begin`, and what the work raises.
    """
    ask = policy.allowed(caller, ask)
    request = await asyncio.to_thread(check, served, ask, caller, policy)
    rags = rags_of(served, ask.indexes, caller, policy)

    def whole() -> tuple[_T, Retrieved]:
        request, retrieved, _ = retrieve(served, ask, rags)
        policy.observe(caller, retrieved)
        return work(request, retrieved), retrieved

    async with policy.admitted(caller, request):
        return await to_its_end(whole)


async def to_its_end(work: Callable[[], _T]) -> _T:
    """What work in a thread gives.

    A thread cannot be interrupted: a caller that is cancelled waits until it has ended, so that what the
    policy has let in is out only then.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    finally:
        if not working.done():
            await asyncio.wait([working])


async def gather(answering: Answering) -> Outcome:
    """The whole answer."""
    async with aclosing(answering):
        answer = None
        async for event in answering:
            if isinstance(event, Piece) and event.answer is not None:
                answer = event.answer
    assert answer is not None  # the engine's last piece has it
    return Outcome(answer, answering.retrieved, answering.notes)


def _timed(piece: Piece, seconds: float | None) -> Piece:
    """With the time of the search, which came before the engine began to count."""
    if piece.answer is None or seconds is None:
        return piece
    timings = piece.answer.timings
    timings = replace(timings, retrieve=seconds, total=timings.total + seconds)
    return replace(piece, answer=replace(piece.answer, timings=timings))
