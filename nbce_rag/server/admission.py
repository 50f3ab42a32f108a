"""Whose turn it is: a bounded queue of questions, fair to keys, and how often a key may ask."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .access import Caller
from .limits import Limits
from .wire.errors import ServerError

__all__ = ["Admission", "Rates", "Turn"]

_FIRST_GUESS_S = 5.0  # of how long a question takes, before any has been answered
_WEIGHT = 0.2  # of the newest question in the running mean
_LONGEST_S = 120.0  # OpenAI's clients obey no longer wait


@dataclass(slots=True)
class Turn:
    """A question that was let in.

    Attributes:
        waited: Seconds that it waited.
    """

    waited: float = 0.0


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    begun: float
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """Lets questions in, so many at once; the others wait, by turns of their keys, or are refused.

    For one event loop.

    Args:
        limits: `max_running`, `max_waiting` and `max_waiting_tokens` count.
        refuse: called with the reason for each question that is refused: "queue_full" or "queue_tokens".
        clock: seconds, for tests.
    """

    def __init__(
        self,
        limits: Limits,
        refuse: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._refuse = refuse
        self._clock = clock
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._running = 0
        self._mean = _FIRST_GUESS_S

    @property
    def running(self) -> int:
        """Questions that have their turn."""
        return self._running

    @property
    def waiting(self) -> int:
        """Questions that wait for it."""
        return sum(map(len, self._queues.values()))

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of those that wait."""
        return sum(waiter.tokens for queue in self._queues.values() for waiter in queue)

    def retry_after(self) -> float:
        """Seconds after which there may be room: by how many are before one, and how fast they go."""
        rounds = (self.waiting + self._running) / self._limits.max_running
        return min(max(self._mean * max(rounds, 1.0), 1.0), _LONGEST_S)

    @asynccontextmanager
    async def turn(self, caller: Caller, prompt_tokens: int) -> AsyncIterator[Turn]:
        """Waits for a question's turn, and holds it within. Cancelling it leaves the queue.

        Args:
            caller: whose turn it is: keys come by turns, the questions of one in their order.
            prompt_tokens: over all rows, as well as one can say.

        Raises:
            ServerError: 429; too many wait.
        """
        begun = self._clock()
        if self._running < self._limits.max_running and not self._queues:
            self._running += 1
        else:
            await self._wait(caller, prompt_tokens, begun)
        entered = self._clock()
        try:
            yield Turn(entered - begun)
        finally:
            self._mean += _WEIGHT * (self._clock() - entered - self._mean)
            self._running -= 1
            self._admit()

    async def _wait(self, caller: Caller, tokens: int, begun: float) -> None:
        limits = self._limits
        if self.waiting >= limits.max_waiting:
            raise self._full("queue_full", f"{limits.max_waiting} questions wait already (max_waiting)")
        held = self.waiting_tokens
        if held and held + tokens > limits.max_waiting_tokens:
            raise self._full(
                "queue_tokens", f"questions of {held:,} tokens wait already (max_waiting_tokens)"
            )
        waiter = _Waiter(tokens, begun)
        self._queues.setdefault(caller.name, deque()).append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._running -= 1  # its turn came in the same moment as it left
                self._admit()
            else:
                self._remove(caller.name, waiter)
            raise

    def _admit(self) -> None:
        while self._queues and self._running < self._limits.max_running:
            name, queue = self._queues.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._queues[name] = queue  # at the end: the next key's turn comes before its next question
            if not waiter.turn.done():
                self._running += 1
                waiter.turn.set_result(None)

    def _remove(self, name: str, waiter: _Waiter) -> None:
        queue = self._queues.get(name)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._queues[name]

    def _full(self, reason: str, what: str) -> ServerError:
        self._refuse(reason)
        message = f"The server is busy: {what}. Ask again later."
        return ServerError(429, message, code=reason, retry_after=self.retry_after())


class Rates:
    """How often keys ask: of each a bucket of tokens that fills up evenly, a minute's worth at most.

    Args:
        clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # what is in it, when that was so

    def take(self, caller: Caller) -> None:
        """Counts one request.

        Raises:
            ServerError: 429; the key has asked too often, and when it may again.
        """
        rate = caller.requests_per_minute
        if rate is None:
            return
        now = self._clock()
        level, then = self._buckets.get(caller.name, (float(rate), now))
        level = min(float(rate), level + (now - then) * rate / 60)
        if level < 1:
            self._buckets[caller.name] = (level, now)
            message = f"The key {caller.name!r} may ask {rate} times a minute; wait a little."
            raise ServerError(429, message, retry_after=math.ceil((1 - level) * 60 / rate))
        self._buckets[caller.name] = (level - 1, now)
