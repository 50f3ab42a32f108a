"""Calls that a batch makes side by side, brought together into one decoding batch.

LangChain's `batch` is a call a question, each with its own callbacks, cache look-up and tracing. That stays
as it is; only at the model do the calls wait for each other and are answered together.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from nbce_rag import Answer, Answerer, AnswerTimeoutError, Request

__all__ = ["AsyncGathering", "Gathering", "async_gathering", "gathering"]


class _Seat:
    """One call's place: what it asks, and what came of it."""

    def __init__(self, engine: Answerer, request: Request) -> None:
        self.engine = engine
        self.request = request
        self.answer: Answer | None = None
        self.error: AnswerTimeoutError | None = None
        self.done = False

    def fail(self, error: AnswerTimeoutError) -> None:
        """The time is over, which would be so for each alone too."""
        self.error = error


class Gathering:
    """Waits until each of `count` calls has asked or ended, then answers those that asked together.

    When one of them cannot be answered (its question is too long), each goes its own way, so that the
    error meets only that one.
    """

    def __init__(
        self, owner: Any, count: int, run: Callable[[Answerer, list[Request]], list[Answer]]
    ) -> None:
        self.owner = owner
        self._run = run
        self._expected = count
        self._waiting: list[_Seat] = []
        self._changed = threading.Condition()

    def ask(self, engine: Answerer, request: Request) -> Answer:
        """The answer, computed with the others'. Once a call."""
        seat = _Seat(engine, request)
        with self._changed:
            self._waiting.append(seat)
            group = self._complete()
            while group is None and not seat.done:
                self._changed.wait()
        if group is not None:
            self._answer(group)
        if seat.error is not None:
            raise seat.error
        return seat.answer if seat.answer is not None else self._run(engine, [request])[0]

    def leave(self) -> None:
        """A call has ended, or will not ask again."""
        with self._changed:
            self._expected -= 1
            group = self._complete()
        if group is not None:
            self._answer(group)

    def _complete(self) -> list[_Seat] | None:
        if not self._waiting or len(self._waiting) < self._expected:
            return None
        group, self._waiting = self._waiting, []
        return group

    def _answer(self, group: list[_Seat]) -> None:
        try:
            engines = {id(seat.engine): seat.engine for seat in group}
            for name, engine in engines.items():
                seats = [seat for seat in group if id(seat.engine) == name]
                answers = self._run(engine, [seat.request for seat in seats])
                for seat, answer in zip(seats, answers, strict=True):
                    seat.answer = answer
        except AnswerTimeoutError as error:
            for seat in group:
                seat.fail(error)
        except Exception:
            # Whose error it is shows when each asks alone, as those do that have no answer now.
            return
        finally:
            with self._changed:
                for seat in group:
                    seat.done = True
                self._changed.notify_all()


class AsyncGathering:
    """The same for coroutines of one event loop."""

    def __init__(self, owner: Any, count: int, run: Callable[[Answerer, list[Request]], Any]) -> None:
        self.owner = owner
        self._run = run
        self._expected = count
        self._waiting: list[tuple[_Seat, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, engine: Answerer, request: Request) -> Answer:
        """The answer, computed with the others'. Once a call."""
        seat = _Seat(engine, request)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (seat, ready)
        self._waiting.append(place)
        self._start()
        try:
            await ready
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            raise
        if seat.error is not None:
            raise seat.error
        if seat.answer is not None:
            return seat.answer
        answers: list[Answer] = await self._run(engine, [request])
        return answers[0]

    def leave(self) -> None:
        """A call has ended, or will not ask again."""
        self._expected -= 1
        self._start()
        if self._expected <= 0:
            for task in self._tasks:  # nobody is left to wait for an answer
                task.cancel()

    def _start(self) -> None:
        if self._waiting and len(self._waiting) >= self._expected:
            group, self._waiting = self._waiting, []
            task = asyncio.ensure_future(self._answer(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, group: list[tuple[_Seat, asyncio.Future[None]]]) -> None:
        try:
            engines = {id(seat.engine): seat.engine for seat, _ in group}
            for name, engine in engines.items():
                seats = [seat for seat, _ in group if id(seat.engine) == name]
                answers = await self._run(engine, [seat.request for seat in seats])
                for seat, answer in zip(seats, answers, strict=True):
                    seat.answer = answer
        except AnswerTimeoutError as error:
            for seat, _ in group:
                seat.fail(error)
        except Exception:
            return  # as above
        finally:
            for _, ready in group:
                if not ready.done():
                    ready.set_result(None)


gathering: ContextVar[Gathering | None] = ContextVar("nbce_gathering", default=None)
"""The batch that the running thread's call belongs to."""
async_gathering: ContextVar[AsyncGathering | None] = ContextVar("nbce_async_gathering", default=None)
"""The batch that the running coroutine's call belongs to."""
