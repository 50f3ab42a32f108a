"""How contexts get to a device that has memory of its own, and back, and which of them stay there.

Three tiers stand before each other: the device's memory, pinned memory of the processor, from which a device
copies by itself, and the folder. The first is small and gives way: what it holds is held by the second or the
third too, or can be read anew, and nothing that a device is asked to compute may fail for its sake.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from .context import Packed
from .flat import FlatContext

__all__ = ["DeviceTier", "Staging", "closed", "give_up", "give_way", "held_bytes"]

_SHARE = 4  # of a device's free memory, one part in so many


class Staging(Protocol):
    """Moves contexts between one device and the processor's memory, beside what the device computes."""

    @property
    def device(self) -> torch.device: ...

    def free(self) -> int:
        """Bytes that can be allocated on the device now, what tiers hold there aside."""
        ...

    def upload(self, context: FlatContext) -> FlatContext:
        """The same on the device: one copy, which is not waited for."""
        ...

    def flat(self, context: Packed) -> FlatContext:
        """A context of the device in one buffer there; itself if it is in one."""
        ...

    def download(self, context: FlatContext) -> FlatContext:
        """A context of the device in pinned memory: one copy, which is not waited for."""
        ...

    def pinned(self, context: Packed) -> FlatContext:
        """A context of the processor's memory in pinned memory; itself if it is there."""
        ...


class DeviceTier:
    """Contexts on devices, least recently used out first. Safe to use from several threads.

    Args:
        max_bytes: how much to hold; None is a quarter of what is free on the device when it is first used.
    """

    def __init__(self, max_bytes: int | None) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, FlatContext] = OrderedDict()
        self._bytes: Counter[torch.device] = Counter()
        self._lock = threading.Lock()
        _tiers.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def max_bytes(self) -> int | None:
        """How much it holds at most; None while that is not known."""
        return self._max_bytes

    def get(self, key: str, device: torch.device) -> FlatContext | None:
        """The context under this key on this device, or None."""
        with self._lock:
            context = self._entries.get(key)
            if context is None or context.device != device:
                return None
            self._entries.move_to_end(key)
            return context

    def put(self, key: str, context: FlatContext, staging: Staging) -> None:
        """Hold a context that is on a device; one larger than the tier is not held."""
        with self._lock:
            if self._max_bytes is None:
                self._max_bytes = staging.free() // _SHARE
            if context.nbytes > self._max_bytes or _closed[context.device]:
                return
            self._let_go(key)
            self._entries[key] = context
            self._bytes[context.device] += context.nbytes
            while self._bytes.total() > self._max_bytes:
                self._let_go(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        """Hold it no more."""
        with self._lock:
            self._let_go(key)

    def clear(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._entries.clear()
            self._bytes.clear()

    def renew(self) -> None:
        """For a child process, which cannot use the parent's device."""
        self._lock = threading.Lock()
        self._entries, self._bytes = OrderedDict(), Counter()

    def held(self, device: torch.device) -> int:
        """Bytes held on a device."""
        return self._bytes[device]

    def give_way(self, device: torch.device) -> None:
        """Let go of the context of a device that was not used for longest."""
        with self._lock:
            oldest = next((key for key, one in self._entries.items() if one.device == device), None)
            if oldest is not None:
                self._let_go(oldest)

    def shrink(self) -> None:
        """Hold no more than half of this from now on."""
        with self._lock:
            self._max_bytes = self._bytes.total() // 2

    def _let_go(self, key: str) -> None:
        context = self._entries.pop(key, None)
        if context is not None:
            self._bytes[context.device] -= context.nbytes


# A device is shared by all stores of a process, whoever made them.
_tiers: weakref.WeakSet[DeviceTier] = weakref.WeakSet()
_closed: Counter[torch.device] = Counter()


def held_bytes(device: torch.device) -> int:
    """Bytes of a device that tiers would give way with."""
    return sum(tier.held(device) for tier in list(_tiers))


def give_way(device: torch.device, enough: Callable[[], bool]) -> None:
    """Let tiers give up contexts of a device until that is enough, or they hold nothing there."""
    for tier in list(_tiers):
        while tier.held(device) and not enough():
            tier.give_way(device)


def give_up(device: torch.device) -> None:
    """Let tiers give up all that they hold on a device, and hold less from now on: it was too much."""
    for tier in list(_tiers):
        if tier.held(device):
            tier.shrink()
    give_way(device, lambda: False)


@contextmanager
def closed(device: torch.device) -> Iterator[None]:
    """Tiers take nothing further on a device meanwhile."""
    _closed[device] += 1
    try:
        yield
    finally:
        _closed[device] -= 1
