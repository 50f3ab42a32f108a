"""Whose turn it is: a bounded queue of questions, fair to keys, and how often a key may ask."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .access import Caller
from .limits import Limits
from .wire.errors import ServerError

__all__ = ["Admission", "Place", "Rates"]

_FIRST_GUESS_S = 5.0  # of how long a question takes, before any has been answered
_WEIGHT = 0.2  # of the newest question in the running mean
_LONGEST_S = 120.0  # OpenAI's clients obey no longer wait


class Place:
    """A question that was let in: it has its turn, or waits for it.

    Attributes:
        tokens: Of its prompts, as well as one can say.
        waited: Seconds that it waited for its turn; 0 as long as it waits.
    """

    def __init__(self, name: str, tokens: int, begun: float) -> None:
        self.tokens = tokens
        self.waited = 0.0
        self._name = name
        self._time = begun  # since when it waits, and then since when it has its turn
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def has_turn(self) -> bool:
        """Whether its turn has come."""
        return self._turn.done()

    async def turn(self) -> None:
        """Waits until its turn has come."""
        # Shielded: a wait that is cancelled is not a turn that has come.
        await asyncio.shield(self._turn)


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
        self._queues: OrderedDict[str, deque[Place]] = OrderedDict()
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
        return sum(place.tokens for queue in self._queues.values() for place in queue)

    def retry_after(self) -> float:
        """Seconds after which there may be room: by how many are before one, and how fast they go."""
        rounds = (self.waiting + self._running) / self._limits.max_running
        return min(max(self._mean * max(rounds, 1.0), 1.0), _LONGEST_S)

    @contextmanager
    def place(self, caller: Caller, tokens: int) -> Iterator[Place]:
        """A place for a question, at once; its turn is waited for by `Place.turn`. It is given up at the end.

        Args:
            caller: whose it is: keys come by turns, the questions of one in their order.
            tokens: of its prompts over all rows, as well as one can say.

        Raises:
            ServerError: 429; too many wait.
        """
        place = self._enter(caller, tokens)
        try:
            yield place
        finally:
            self._leave(place)

    def _enter(self, caller: Caller, tokens: int) -> Place:
        place = Place(caller.name, tokens, self._clock())
        if self._running < self._limits.max_running and not self._queues:
            self._give_turn(place)
            return place
        limits, held = self._limits, self.waiting_tokens
        if self.waiting >= limits.max_waiting:
            raise self._full("queue_full", f"{limits.max_waiting} questions wait already (max_waiting)")
        if held and held + tokens > limits.max_waiting_tokens:
            what = f"questions of {held:,} tokens wait already (max_waiting_tokens)"
            raise self._full("queue_tokens", what)
        self._queues.setdefault(caller.name, deque()).append(place)
        return place

    def _give_turn(self, place: Place) -> None:
        now = self._clock()
        place.waited, place._time = now - place._time, now
        place._turn.set_result(None)
        self._running += 1

    def _leave(self, place: Place) -> None:
        if place.has_turn:
            self._mean += _WEIGHT * (self._clock() - place._time - self._mean)
            self._running -= 1
        else:
            queue = self._queues[place._name]
            queue.remove(place)
            if not queue:
                del self._queues[place._name]
        while self._queues and self._running < self._limits.max_running:
            name, queue = self._queues.popitem(last=False)
            self._give_turn(queue.popleft())
            if queue:
                self._queues[name] = queue  # at the end: the next key's turn comes before its next question

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
            wait = math.ceil((1 - level) * 60 / rate)
            raise ServerError(429, message, code="rate_limit_exceeded", retry_after=wait)
        self._buckets[caller.name] = (level - 1, now)
