"""Everything that a server keeps beside what it serves: keys, turns, figures, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from ..answers.answer import Piece
from ..request import Request
from .access import NOBODY_ELSE, Caller, may_read
from .admission import Admission, Place, Rates
from .drain import Drain
from .hosts import HostCheck
from .metrics import Metrics
from .record import CURRENT, RequestRecord
from .settings import ServerSettings
from .signatures import Signer

__all__ = ["Operation"]

_T = TypeVar("_T")


class Operation:
    """The policy of a server that runs (`nbce_rag.server.policy.Policy`).

    Args:
        settings: what it is told.

    Attributes:
        keys, hosts, rates, admission, drain, metrics, signer: see their modules.
        under_way: requests that are being answered, those of health not counted.

    Raises:
        InputError: the keys file cannot be used.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.keys = settings.key_file()
        self.hosts = HostCheck(settings)
        self.metrics = Metrics()
        self.rates = Rates()
        self.admission = Admission(settings.limits, self.metrics.reject)
        self.drain = Drain()
        self.signer = Signer(settings.link_secret)
        self.under_way = 0

    def may_read(self, caller: Caller | None, index: str) -> bool:
        """Whether a caller may know of an index; nobody may that was not let in."""
        return caller is not None and may_read(caller, index)

    @asynccontextmanager
    async def admitted(self, caller: Caller | None, request: Request) -> AsyncIterator[Admitted]:
        """A place among the questions, at once, or the error of there being none.

        Raises:
            ServerError: 429, the queue is full; 503, the server is ending.
        """
        self.drain.check()
        with self.admission.place(caller or NOBODY_ELSE, prompt_tokens(request)) as place:
            yield Admitted(place, self.drain)

    def observe(self, caller: Caller | None, event: object) -> None:
        """Notes the answer in the record of the request under way."""
        record = CURRENT.get()
        if record is not None and isinstance(event, Piece) and event.answer is not None:
            record.note_answer(event.answer)

    def begin(self, record: RequestRecord) -> None:
        """A request has come."""
        self.under_way += 1
        self.metrics.begin()

    def finish(self, record: RequestRecord) -> None:
        """A request is over."""
        self.under_way -= 1
        self.metrics.observe(record)


class Admitted:
    """A question's place, from which it is driven at the end of the server."""

    def __init__(self, place: Place, drain: Drain) -> None:
        self._place = place
        self._drain = drain

    async def turn(self) -> None:
        """Waits for its turn.

        Raises:
            ServerError: the server ended before (503).
        """
        if not self._place.has_turn:
            await self._drain.watch(self._place.turn())
        record = CURRENT.get()
        if record is not None:
            record.queue = self._place.waited

    async def watch(self, work: Awaitable[_T]) -> _T:
        """What the work gives; it is broken off when the server's time to end is over.

        Raises:
            ServerError: it was (503).
        """
        return await self._drain.watch(work)


def prompt_tokens(request: Request) -> int:
    """About how many tokens a request's prompts have over all rows: a quarter of their bytes."""
    question = len(request.question.encode("utf-8", "replace"))
    passages = [len(passage.text.encode("utf-8", "replace")) for passage in request.passages]
    return (sum(passages) + question * (len(passages) + 1)) // 4
