"""Which of several instances of vLLM gets a question, and what happens where one fails.

Each question goes whole to one instance. That is the first one on a list that follows from its best passage,
the same list for everybody who asks (rendezvous hashing), so that an instance's prefix cache has passages
that were asked for before; one that has much more to do than the average is passed over, as is one that has
failed a moment ago. Where an instance fails, the question is asked again elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import RemoteError
from .transport import Transport, TryAgain

__all__ = ["Instance", "Place", "Servers"]

_T = TypeVar("_T")
_BOUND = 1.25  # times the average of rows in flight, beyond which an instance is passed over
_HOMES = 1024  # questions whose instance is remembered
_HOME_SECONDS = 30.0
_FIRST_REST, _LONGEST_REST = 2.0, 60.0  # seconds for which an instance that failed is asked after the others
_COMPLETIONS = "/v1/completions"


@dataclass(eq=False)
class Instance:
    """One engine of vLLM: a server, or one of its data-parallel ranks.

    Attributes:
        url: of the server.
        rank: of the data-parallel engine behind it, None where there is one.
        rows: that it has to do now, of ours.
        failures: since something last succeeded there.
        rests_until: by `time.monotonic`.
    """

    url: str
    rank: int | None = None
    rows: int = 0
    failures: int = 0
    rests_until: float = 0.0

    @property
    def name(self) -> str:
        """For errors, and for the list."""
        return self.url if self.rank is None else f"{self.url} rank {self.rank}"

    @property
    def headers(self) -> dict[str, str]:
        """That send a request to this rank."""
        return {} if self.rank is None else {"X-data-parallel-rank": str(self.rank)}

    @property
    def rests(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self.rests_until

    def fail(self) -> None:
        """Let it rest, the longer the more often it failed."""
        self.rests_until = time.monotonic() + min(_FIRST_REST * 2.0**self.failures, _LONGEST_REST)
        self.failures += 1

    def succeed(self) -> None:
        """It is there."""
        self.failures, self.rests_until = 0, 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """What decides where a question goes.

    Attributes:
        passage: token ids of its best passage's row, without the question.
        question: tells it from others; what belongs to it later goes where it went first, whose prefix cache
            has its rows. None where nothing does.
        rows: how many it has.
    """

    passage: tuple[int, ...]
    question: Hashable | None
    rows: int


class Servers:
    """Instances that serve the same model. Used within one event loop.

    Args:
        instances: at least one.
        transport: how they are spoken to.
        retries: how often a question is asked again.
    """

    def __init__(self, instances: Sequence[Instance], transport: Transport, retries: int) -> None:
        self.instances = tuple(instances)
        self._transport = transport
        self._retries = retries
        self._homes: OrderedDict[Hashable, tuple[Instance, float]] = OrderedDict()

    async def post(self, instance: Instance, body: Mapping[str, Any]) -> Any:
        """A completion; errors as in `Transport.get`."""
        return await self._transport.post(f"{instance.url}{_COMPLETIONS}", body, instance.headers)

    def events(self, instance: Instance, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """A completion as it is written; errors as in `Transport.get`, at any time."""
        return self._transport.events(f"{instance.url}{_COMPLETIONS}", body, instance.headers)

    async def close(self) -> None:
        """End all connections."""
        await self._transport.close()

    async def run(self, place: Place, work: Callable[[Instance], Awaitable[_T]]) -> _T:
        """What an instance makes of some work, and where it fails another one, or the same a little later.

        Args:
            place: what decides where it goes first.
            work: done anew at each try; raises `TryAgain`.

        Raises:
            RemoteError: none could.
        """
        tried: list[Instance] = []
        reasons: list[str] = []
        for attempt in range(self._retries + 1):
            instance = self.choose(place, tried)
            instance.rows += place.rows
            try:
                result = await work(instance)
            except TryAgain as error:
                reasons.append(str(error))
                if error.is_down:
                    instance.fail()
                if instance in tried:
                    tried.clear()  # all had their turn
                tried.append(instance)
            else:
                instance.succeed()
                return result
            finally:
                instance.rows -= place.rows
            if attempt < self._retries and len(tried) >= len(self.instances):
                await asyncio.sleep(_backoff(attempt))
        away = RemoteError(
            f"No vLLM server could answer, after {self._retries + 1} tries: "
            f"{'; '.join(dict.fromkeys(reasons))}. "
            "See that `vllm serve` runs there, raise server_timeout or max_retries, or ask again."
        )
        away.is_passing = True
        raise away

    def choose(self, place: Place, tried: Collection[Instance] = ()) -> Instance:
        """The instance that gets a question, remembered for what belongs to it.

        Args:
            place: what decides.
            tried: those that failed at it, which are taken last.
        """
        bound = _BOUND * sum(one.rows for one in self.instances) / len(self.instances) + place.rows
        home, until = (None, 0.0) if place.question is None else self._homes.get(place.question, (None, 0.0))
        if home is None or home in tried or home.rests or home.rows > bound or time.monotonic() > until:
            order = sorted(self.instances, key=lambda one: _hashed(place.passage, one.name))
            fresh = [one for one in order if one not in tried] or order
            ready = [one for one in fresh if not one.rests] or fresh
            home = next((one for one in ready if one.rows <= bound), min(ready, key=lambda one: one.rows))
        if place.question is None:
            return home
        self._homes[place.question] = home, time.monotonic() + _HOME_SECONDS
        self._homes.move_to_end(place.question)
        while len(self._homes) > _HOMES:
            self._homes.popitem(last=False)
        return home


def _hashed(ids: tuple[int, ...], name: str) -> bytes:
    return hashlib.sha256(f"{name} {ids}".encode()).digest()


def _backoff(attempt: int) -> float:
    """A quarter of a second, doubled each time up to four; less by chance, so that not all come at once."""
    return float(min(0.25 * 2**attempt, 4.0) * (1 - random.random() / 4))
