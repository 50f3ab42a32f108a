"""Answers on their way, for whoever asked: drawn from, or awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Generic, Self, TypeVar

from ..answers.answer import Answer, Piece
from ..decoding.reader import Engine
from ..errors import StreamError, remembered_caller, warn
from ..request import Request
from .jobs import prepare
from .mailbox import Mailbox
from .worker import Worker, worker_of

__all__ = ["Ticket", "answers_of"]

_T = TypeVar("_T")


class Ticket(Generic[_T], Iterator[_T], AsyncIterator[_T]):
    """Pieces of answers, for one thread or one coroutine that draws them: `for` and `async for` both do.

    Answers are computed ahead of who draws, to their end; closing the ticket, or letting go of it, ends the
    work within a step. Errors come where pieces are drawn, and so do warnings of what shows on the way.

    Args:
        worker: what computes.
        count: how many questions.
        start: plans and asks them, given where their pieces go; called with the first piece, or by `begin`.
        item: what is drawn for a piece of the question with an index.
    """

    def __init__(
        self,
        worker: Worker,
        count: int,
        start: Callable[[Mailbox], None],
        item: Callable[[int, Piece], _T],
    ) -> None:
        self._mailbox = Mailbox(count)
        self._worker = worker  # whose thread ends when nobody holds it
        self._start: Callable[[Mailbox], None] | None = start
        self._item = item

    def begin(self) -> None:
        """Plan and ask the questions now.

        Raises:
            InputError: what is wrong with one of them; none is asked then.
            StreamError: called from within what the model's thread does, such as a fusion rule.
        """
        if self._worker.is_here:
            self._mailbox.close()
            raise StreamError(
                "A model was asked from inside its own answer (by a fusion rule, or a tokenizer), which "
                "would wait for itself: ask another model, or ask before or behind that answer."
            )
        start, self._start = self._start, None
        if start is not None and not self._mailbox.is_closed:
            try:
                start(self._mailbox)
            except BaseException:
                self._mailbox.close()
                raise

    def close(self) -> None:
        """Nothing more is drawn; what is computed for it ends within a step. Doing it twice does no harm."""
        self._mailbox.close()

    async def aclose(self) -> None:
        """`close`, as async generators have it."""
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        try:
            self.begin()
            while isinstance(item := self._mailbox.take(), str):
                warn(item)
            if isinstance(item, BaseException):
                raise item
        except BaseException:
            self.close()
            raise
        if item is None:
            raise StopIteration
        return self._item(*item)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        try:
            if self._start is not None:
                with remembered_caller():  # what warns in the thread points at who waits here
                    await asyncio.to_thread(self.begin)
            while isinstance(item := await self._mailbox.atake(), str):
                warn(item)
            if isinstance(item, BaseException):
                raise item
        except BaseException:
            self.close()
            raise
        if item is None:
            raise StopAsyncIteration
        return self._item(*item)

    def __del__(self) -> None:
        self._mailbox.abandon()


def answers_of(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """Answers to requests as they are, neither in parts nor with their conflicts.

    Raises:
        InputError, NumericalError, AnswerTimeoutError: as in `nbce_rag.engine.scheduler.Scheduler.submit`.
    """
    worker = worker_of(engine.model)

    def start(mailbox: Mailbox) -> None:
        jobs, notes = prepare(engine, requests, mailbox, worker.running)
        for note in notes:
            warn(note)
        worker.add(jobs)

    answers: dict[int, Answer] = {}
    for index, piece in Ticket(worker, len(requests), start, lambda index, piece: (index, piece)):
        if piece.answer is not None:
            answers[index] = piece.answer
    return [answers[index] for index in range(len(requests))]
