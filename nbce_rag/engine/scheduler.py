"""The questions of an engine at the thread of its model: asked at any time, answered side by side."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from ..answers.answer import Piece
from ..checks import Range
from ..decoding.reader import Engine
from ..errors import InputError, warn
from ..request import Request
from .conflicts import ConflictsTold
from .jobs import prepare
from .mailbox import Mailbox
from .parts import JoinedParts, sized
from .tickets import Ticket
from .worker import Load, worker_of

__all__ = ["Load", "Scheduler"]

_T = TypeVar("_T")

_PRIORITY = Range(whole=True)


class Scheduler:
    """Asks questions of a model that others ask too; `NBCE.scheduler` is one.

    One thread answers for all engines over the model: questions join the answers that are being written, and
    leave them, between two steps. The prompt of a new one is read in pieces between steps of the others
    (`nbce_rag.engine.worker`), so that nobody's answer stalls. Higher priorities are read first, callers by
    turns, and then whoever came first. What does not fit into memory beside the others waits until some have
    gone; a question whose turn has come is not overtaken, however large it is.

    An error of one question is raised to who asked it, and to nobody else. Where a pass of all fails, it is
    tried once more for each by itself.

    Args:
        engine: model and wording.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._worker = worker_of(engine.model)

    def submit(self, request: Request, priority: int = 0, caller: Hashable = None) -> Ticket[Piece]:
        """Ask a question now; its pieces can be drawn at leisure, by `for` or `async for`.

        Args:
            request: what `NBCE.request` made. Its `max_seconds` count from now, the time that it waits
                included.
            priority: questions of a higher one are read before those of a lower one.
            caller: whoever asks; those with different ones take turns. None is one like another.

        Raises:
            InputError: an empty passage, rows that will never fit into window or memory, a priority that is
                no whole number, a caller without a hash; of the ticket: `NumericalError`,
                `AnswerTimeoutError`, and `StreamError` where the scheduler is closed.
        """
        _PRIORITY.check("priority", priority)
        try:
            hash(caller)
        except TypeError as error:
            raise InputError(
                f"caller={caller!r} tells nobody from others ({error}): give a name, a number or a tuple of "
                "them."
            ) from error
        ticket = self._ticket([request], priority, caller, lambda _, piece: piece)
        ticket.begin()
        return ticket

    def ticket(self, requests: Sequence[Request]) -> Ticket[tuple[int, Piece]]:
        """Several questions, asked together with the first piece that is drawn: (index, piece)."""
        return self._ticket(requests, 0, None, lambda index, piece: (index, piece))

    @property
    def load(self) -> Load:
        """What the model's thread has to do now, for all engines over the model."""
        return self._worker.load

    def close(self) -> None:
        """End the model's thread once the pass under way is done. Answers that are not whole end with a
        `StreamError`. Another question begins another thread."""
        self._worker.close()

    def _ticket(
        self,
        requests: Sequence[Request],
        priority: int,
        caller: Hashable,
        item: Callable[[int, Piece], _T],
    ) -> Ticket[_T]:
        engine, worker = self._engine, self._worker

        def start(mailbox: Mailbox) -> None:
            parts = JoinedParts(engine, [sized(engine, request) for request in requests], mailbox)
            told = ConflictsTold(engine, worker, parts, priority, caller)
            jobs, notes = prepare(engine, parts.requests, told, worker.running)
            for note in notes:
                warn(note)
            for job in jobs:
                job.priority, job.caller = priority, caller
            worker.add(jobs)

        return Ticket(worker, len(requests), start, item)

    def __reduce__(self) -> tuple[Any, ...]:
        return Scheduler, (self._engine,)
