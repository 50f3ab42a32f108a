"""The remote tier of the KV store: contexts in a bucket that machines share, never in the way of an answer.

An object is the file that the folder would hold, under the same name, checked on arrival by its own checksum.
It is asked for where bringing it takes less time than reading, as both were measured here; while one of them
is not known, a few contexts are tried. No answer waits for the remote longer than reading would take, nor
longer than the time limit. What does not answer, fails or is torn is left alone for a while and looked after
from behind; new contexts are sent from behind (`nbce_rag.kv.outbox`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from .background import ForkedProcessError, start
from .breaker import Breaker
from .context import Packed
from .forks import renew_in_children
from .format import DamagedContextError, parse_context
from .objects import Arrival, Objects, object_name, reason_of
from .outbox import FLUSH_SECONDS, Outbox
from .pace import Pace
from .statistics import RemoteStatistics

__all__ = ["RemoteTier"]

logger = logging.getLogger(__name__)

_MOST_BYTES = 4 << 30  # of an object
_PROBE = 4  # contexts that are tried while a speed is not known
_PROBE_SECONDS = 60.0  # where reading was sooner, a few contexts are tried again after so long
_SHARE = 0.7  # of the time limit that transfers are expected to take, at most
_LEAST_SECONDS = 0.05  # no transfer is given less
_TORN = 3  # so many in a row are no accident
_UNTAKEN_SECONDS = 60.0


@dataclass(eq=False, slots=True)
class _Batch:
    """Contexts that were asked for together.

    Attributes:
        limit: seconds that they may take.
        is_patient: whether that is all the time there is, so that no answer is a failure.
        calls: by key, with the tokens of the context.
        arrivals: what came, with the tokens of each.
        begun: when they were asked for.
        open: how many have not been taken.
    """

    limit: float
    is_patient: bool
    calls: dict[str, tuple[Future[Arrival | None], int]]
    arrivals: list[tuple[Arrival, int]] = field(default_factory=list)
    begun: float = field(default_factory=lambda: time.monotonic())
    open: int = 0


class RemoteTier:
    """Contexts in a bucket. Safe to use from several threads, and the bucket from several machines.

    Args:
        remote: as `Objects` takes it.
        codec: name of what encodes them.
        seconds: time limit of what an answer waits for.
        writes: whether new contexts are sent.

    Raises:
        InputError: no such place.
        MissingDependencyError: obstore is not installed.
    """

    def __init__(self, remote: Any, codec: str, seconds: float, writes: bool = True) -> None:
        self.objects = Objects(remote)
        self.pace = Pace()
        self._codec = codec
        self._seconds = seconds
        self._outbox = Outbox(self.objects, codec, self._tell) if writes else None
        self._lock = threading.Lock()
        self._reads = Breaker()
        self._coming: dict[str, tuple[_Batch | None, float]] = {}
        self._counts: Counter[str] = Counter()
        self._is_read: bool | None = None
        self._torn = 0
        self._problem = ""
        self._told: set[str] = set()
        renew_in_children(self)

    def renew(self) -> None:
        """For a child process: what was asked for comes to the parent."""
        self._lock = threading.Lock()
        self._reads.renew()
        self._coming = {}

    @property
    def statistics(self) -> RemoteStatistics:
        """What was seen so far."""
        with self._lock:
            counts = dict(self._counts)
        if self._outbox is not None:
            counts |= self._outbox.counts
        return RemoteStatistics(
            name=self.objects.name,
            is_open=self._reads.is_open,
            is_read=self._is_read,
            bytes_per_second=self.pace.bytes_per_second,
            latency=self.pace.latency,
            tokens_per_second=self.pace.tokens_per_second,
            **counts,
        )

    def expect(self, contexts: Mapping[str, int | None]) -> None:
        """Ask for contexts that will be got next, all at once, where that is the sooner way.

        Args:
            contexts: tokens by key; None where that is not known.
        """
        chosen, limit = self._choose(contexts)
        calls: dict[str, tuple[Future[Arrival | None], int]] = {}
        try:
            for key in chosen:
                call = self.objects.get(self._name(key), _MOST_BYTES)
                calls[key] = (start(call), contexts[key] or 0)
        except ForkedProcessError as error:
            self._give_up(error)
        batch = _Batch(limit, limit >= self._seconds, calls, open=len(calls))
        now = time.monotonic()
        with self._lock:
            self._counts["skipped"] += len(contexts) - len(calls)
            self._is_read = bool(calls)
            self._coming = {
                key: entry for key, entry in self._coming.items() if now - entry[1] < _UNTAKEN_SECONDS
            }
            self._coming.update({key: (batch if key in calls else None, now) for key in contexts})

    def get(self, key: str, label: Mapping[str, str], tokens: int | None = None) -> Packed | None:
        """A context that was expected, or is now; None if it is not there, not sound, or late."""
        with self._lock:
            is_expected = key in self._coming
        if not is_expected:
            self.expect({key: tokens})
        with self._lock:
            batch, _ = self._coming.pop(key, (None, 0.0))
        if batch is None:
            return None
        call, size = batch.calls[key]
        try:
            arrival = call.result(max(batch.begun + batch.limit - time.monotonic(), 0.0))
        except (TimeoutError, CancelledError) as error:
            self._end(batch, error)
            return None
        except ValueError as error:  # too large to be one
            self._refuse(key, batch, error)
            return None
        except Exception as error:  # obstore's kinds, and whatever a store of the caller's raises
            self._end(batch, error)
            return None
        if arrival is None:
            self._take(batch, None)
            self._count(misses=1)
            return None
        try:
            packed = parse_context(arrival.data, {**label, "key": key, "codec": self._codec})
        except DamagedContextError as error:
            self._refuse(key, batch, error)
            return None
        self._torn = 0
        self._reads.succeed()
        self._take(batch, (arrival, size))
        self._count(hits=1, bytes_received=len(arrival.data))
        return packed

    def drop(self, key: str) -> None:
        """Note that a context turned out not to be what it should, so that it is written anew."""
        if self._outbox is not None:
            self._outbox.unsound.add(key)

    def put(self, key: str, packed: Packed, label: Mapping[str, str]) -> None:
        """Send a context soon, if contexts are sent. Returns at once."""
        if self._outbox is not None:
            self._outbox.put(key, packed, label)

    def drain(self, seconds: float | None = None) -> str:
        """Wait until everything is sent; see `Outbox.drain`. Not for a remote that is left alone."""
        if self._outbox is None:
            return ""
        most = FLUSH_SECONDS if seconds is None else seconds
        return self._outbox.drain(min(most, self._seconds) if self._reads.is_open else most)

    def take_problem(self) -> str:
        """What is wrong with the remote, the first time this is asked after it was found out; else ""."""
        with self._lock:
            problem, self._problem = self._problem, ""
            return problem

    def _name(self, key: str) -> str:
        return object_name(key, self._codec)

    def _choose(self, contexts: Mapping[str, int | None]) -> tuple[list[str], float]:
        """(the contexts to ask for, seconds that they may take)."""
        if self._reads.is_open:
            if self._reads.take_probe():
                self._look()
            return [], 0.0
        keys = list(contexts)
        reading, transfer = self._times(contexts, keys)
        if reading is not None and transfer is not None:
            if transfer < reading:
                # No more than will be there in time; the rest is read.
                share = min(1.0, _SHARE * self._seconds / transfer)
                return keys[: math.ceil(len(keys) * share)], min(max(reading, _LEAST_SECONDS), self._seconds)
            if (self.pace.age or 0.0) < _PROBE_SECONDS:
                return [], 0.0
        few = keys[:_PROBE]
        reading, _ = self._times(contexts, few)
        limit = math.inf if reading is None else max(reading, _LEAST_SECONDS)
        return few, min(limit, self._seconds)

    def _times(
        self, contexts: Mapping[str, int | None], keys: list[str]
    ) -> tuple[float | None, float | None]:
        """Seconds that reading and bringing some contexts would take; None where that is not known."""
        counts = [contexts[key] for key in keys]
        if any(count is None for count in counts):
            return None, None
        tokens = sum(count or 0 for count in counts)
        return self.pace.reading_seconds(tokens), self.pace.transfer_seconds(tokens)

    def _take(self, batch: _Batch, arrival: tuple[Arrival, int] | None) -> None:
        """One of a batch was taken; with the last one its speed is known."""
        with self._lock:
            batch.open -= 1
            if arrival is not None:
                batch.arrivals.append(arrival)
            if batch.open or not batch.arrivals:
                return
        latency = min(arrival.latency for arrival, _ in batch.arrivals)
        end = max(arrival.end for arrival, _ in batch.arrivals)
        self._add_transfer(batch, latency, max(end - batch.begun - latency, 0.0))

    def _add_transfer(self, batch: _Batch, latency: float, seconds: float) -> None:
        size = sum(len(arrival.data) for arrival, _ in batch.arrivals)
        self.pace.add_transfer(sum(tokens for _, tokens in batch.arrivals), size, latency, seconds)

    def _end(self, batch: _Batch, error: BaseException) -> None:
        """A batch took too long or failed: what has not come of it is not waited for."""
        with self._lock:
            is_first, batch.open = batch.open > 0, 0
        for call, _ in batch.calls.values():
            call.cancel()
        is_late = isinstance(error, (TimeoutError, CancelledError))
        if is_late and not batch.is_patient:
            self._count(late=1)
        elif is_first:
            self._count(failures=1)
        if not is_first:
            return
        self._reads.fail()
        if is_late and not batch.is_patient:
            self._add_transfer(batch, 0.0, batch.limit)
            logger.info("%s is slower than reading; it is left alone for a while", self.objects.name)
        else:
            self._tell("read", f"does not answer ({reason_of(error, self._seconds)})")

    def _refuse(self, key: str, batch: _Batch, error: Exception) -> None:
        logger.warning("Not taken from %s: %s: %s", self.objects.name, self._name(key), error)
        self._take(batch, None)
        self._count(damaged=1)
        self.drop(key)
        self._torn += 1
        if self._torn >= _TORN:
            self._torn = 0
            self._reads.fail()
            self._tell("read", f"gave {_TORN} damaged contexts one after another")

    def _look(self) -> None:
        """Whether the remote answers again, found out while nobody waits."""

        def looked(call: Future[int | None]) -> None:
            if call.cancelled() or call.exception() is not None:
                self._reads.fail()
            else:
                self._reads.close()

        try:
            call = start(self.objects.head(self._name("0" * 64)))
        except ForkedProcessError as error:
            self._give_up(error)
            return
        call.add_done_callback(looked)
        # One that hangs is ended, and counts as a failure then.
        timer = threading.Timer(self._seconds, call.cancel)
        timer.daemon = True
        timer.start()

    def _give_up(self, error: ForkedProcessError) -> None:
        self._reads.fail()
        self._tell(
            "read", f"cannot be used ({error}); make the store anew in each process, or spawn processes"
        )

    def _tell(self, kind: str, words: str) -> None:
        """Say once in the life of this store what is wrong, and log it every time."""
        message = f"The remote KV store {self.objects.name!r} {words}"
        logger.warning("%s", message)
        way_out = {
            "read": "Passages are read here until it does again.",
            "written": "What is read here is not shared until then.",
        }[kind]
        with self._lock:
            if kind not in self._told:
                self._told.add(kind)
                self._problem = f"{self._problem} {message}. {way_out}".strip()

    def _count(self, **events: int) -> None:
        with self._lock:
            self._counts.update(events)
