"""Contexts on their way to the remote tier of the KV store: sent from behind, bounded, and counted."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from .background import start
from .breaker import Breaker
from .context import Packed, nbytes
from .forks import renew_in_children
from .format import context_data
from .objects import Objects, object_name, reason_of

__all__ = ["FLUSH_SECONDS", "Outbox"]

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 30.0
"""How long `flush`, `close` and the end of the process wait for what is still to be sent."""

_WAITING_BYTES = 256 << 20  # to be sent, at most; what comes on top of it is not sent
_SEND_SECONDS = 60.0
_END_SECONDS = 0.5
_SEND_SPEED = 1e6  # bytes a second that a send is given beyond that


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A context to be sent; `is_probe` where it tries whether that goes again."""

    key: str
    packed: Packed
    label: Mapping[str, str]
    is_probe: bool


class Outbox:
    """Sends contexts one after another in a thread that lives as long as there are some.

    What cannot be sent is not kept: `nbce-rag kv --push` sends a folder later.

    Args:
        objects: where to.
        codec: name of what encodes them.
        tell: is told ("written", what is wrong).

    Attributes:
        unsound: keys of objects that are to be written anew, though there are some of their names.
    """

    def __init__(self, objects: Objects, codec: str, tell: Callable[[str, str], None]) -> None:
        self.unsound: set[str] = set()
        self._objects = objects
        self._codec = codec
        self._tell = tell
        self._lock = threading.Condition()
        self._breaker = Breaker()
        self._queue: deque[_Parcel] = deque()
        self._waiting: dict[str, int] = {}  # bytes by key
        self._counts: Counter[str] = Counter()
        self._sender: threading.Thread | None = None
        self._call: Future[int] | None = None  # under way
        renew_in_children(self)
        _outboxes.add(self)

    def renew(self) -> None:
        """For a child process: what waits to be sent the parent sends."""
        self._lock = threading.Condition()
        self._breaker.renew()
        self._queue.clear()
        self._waiting = {}
        self._sender = None

    @property
    def counts(self) -> dict[str, int]:
        """What was sent, was not, and waits (`RemoteStatistics`)."""
        with self._lock:
            return {**self._counts, "waiting": len(self._waiting)}

    def put(self, key: str, packed: Packed, label: Mapping[str, str]) -> None:
        """Send a context soon. Returns at once; where too much waits already, it is not sent."""
        size = nbytes(packed)
        with self._lock:
            if key in self._waiting:
                return
            is_probe = self._breaker.is_open and self._breaker.take_probe()
            is_left = self._breaker.is_open and not is_probe
            if is_left or sum(self._waiting.values()) + size > _WAITING_BYTES:
                self._counts["unsent"] += 1
                return
            self._waiting[key] = size
            self._queue.append(_Parcel(key, packed, dict(label), is_probe))
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_all, name="nbce-kv-sender", daemon=True)
                self._sender.start()

    def drain(self, seconds: float) -> str:
        """Wait until everything is sent, but not longer than so; what was not sent, in words, or ""."""
        with self._lock:
            if self._lock.wait_for(lambda: not self._waiting, seconds):
                return ""
            left, size = len(self._waiting), sum(self._waiting.values())
            self._counts["unsent"] += len(self._queue)  # the one under way counts itself
            for parcel in self._queue:
                self._waiting.pop(parcel.key, None)
            self._queue.clear()
        return (
            f"{left} contexts ({size / 1e6:.1f} MB) were not sent to the remote KV store "
            f"{self._objects.name!r} in {seconds:g} s; `nbce-rag kv DIR --push URL` sends what is missing."
        )

    def end(self) -> None:
        """Break off what is under way and wait a moment for the thread, which could abort the process if it
        were torn from its work."""
        if (call := self._call) is not None:
            call.cancel()
        if (sender := self._sender) is not None:
            sender.join(_END_SECONDS)

    def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._sender = None
                    return
                parcel = self._queue.popleft()
            is_left = self._breaker.is_open and not parcel.is_probe
            sent = 0 if is_left else self._send(parcel)
            with self._lock:
                self._counts["unsent"] += sent is None or is_left
                self._counts["sent"] += bool(sent)
                self._counts["bytes_sent"] += sent or 0
                self._waiting.pop(parcel.key, None)
                self._lock.notify_all()

    def _send(self, parcel: _Parcel) -> int | None:
        """Bytes that were sent, 0 where it was there already, None where it failed."""
        try:
            data = context_data(parcel.packed, {**parcel.label, "key": parcel.key, "codec": self._codec})
            self._call = start(self._put(parcel.key, data))
            sent = self._call.result(_SEND_SECONDS + len(data) / _SEND_SPEED)
        except (Exception, CancelledError) as error:  # whatever it is, no answer needs this
            if self._call is not None:
                self._call.cancel()
            self._breaker.fail()
            self._tell("written", f"cannot be written ({reason_of(error, _SEND_SECONDS)})")
            return None
        finally:
            self._call = None
        self._breaker.succeed()
        return sent

    async def _put(self, key: str, data: bytes) -> int:
        name = object_name(key, self._codec)
        if key not in self.unsound and await self._objects.head(name) is not None:
            return 0
        await self._objects.put(name, data)
        self.unsound.discard(key)
        return len(data)


_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


@atexit.register
def _drain_all() -> None:
    """At the end of the process: one that has something to send is held by its thread until then."""
    end = time.monotonic() + FLUSH_SECONDS
    for outbox in list(_outboxes):
        if left := outbox.drain(max(end - time.monotonic(), 0.0)):
            logger.warning("%s", left)
        outbox.end()
