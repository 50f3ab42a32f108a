"""Contexts to a GPU and back, by copies that run beside its computation.

Each direction has a stream of its own. A copy takes one launch and is waited for by nobody but what needs its
result: a stream of the GPU by an event, the processor only where it looks at numbers that come down.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...kv.context import Packed, kinds
from ...kv.flat import FlatContext, Kinds, filled
from ...kv.staging import closed, give_up, give_way, held_bytes
from .devices import free_bytes

__all__ = ["DeviceStaging", "has_own_memory", "on_device", "with_room"]

T = TypeVar("T")

_SHARED = ("cpu", "meta", "mps")  # devices whose memory is the processor's, or none


def has_own_memory(device: torch.device) -> bool:
    """Whether numbers have to be copied to a device, which can be done beside what it computes."""
    return device.type not in _SHARED and _has_streams(device.type)


@cache
def _has_streams(kind: str) -> bool:
    try:
        return hasattr(torch.get_device_module(kind), "Stream")
    except RuntimeError:  # torch does not know it
        return False


def on_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers on a device, for which the processor does not wait if they come from its memory."""
    if numbers.device.type == "cpu" and has_own_memory(device):
        return numbers.pin_memory().to(device, non_blocking=True)
    return numbers.to(device)


def with_room(
    device: torch.device | None, work: Callable[[], T], needed: Callable[[], int] | None = None
) -> T:
    """What some work on a device comes to, for which stores give up what they hold there if need be.

    Args:
        device: where; None where there are several, on which stores hold nothing.
        work: may be done twice.
        needed: about the bytes that it takes, asked where that matters; None if it is not known. Where there
            are not enough after all, the work is done once more.
    """
    if device is None or not has_own_memory(device):
        return work()
    most = 0 if needed is None else needed()
    is_tight = most > 0 and most > free_bytes(device)
    if is_tight:
        give_way(device, lambda: most <= free_bytes(device))
    try:
        with closed(device) if is_tight else nullcontext():
            return work()
    except torch.OutOfMemoryError:
        if not held_bytes(device):
            raise
    give_up(device)  # out here, where the error holds no tensors any more
    with closed(device):
        return work()


@dataclass(frozen=True, slots=True)
class _Arrival:
    """The end of a copy, as `nbce_rag.kv.flat.Event`; torch's own would wait in a stream of the device that
    is the current one, which need not be this."""

    event: Any
    streams: Any
    device: torch.device

    def wait(self) -> None:
        self.event.wait(self.streams.current_stream(self.device))

    def synchronize(self) -> None:
        self.event.synchronize()


class DeviceStaging:
    """A `nbce_rag.kv.staging.Staging` for one device that torch has streams for.

    Args:
        device: with memory of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams: Any = torch.get_device_module(device)
        self._up, self._down = self._streams.Stream(device), self._streams.Stream(device)

    def free(self) -> int:
        """See `nbce_rag.kv.staging.Staging.free`."""
        return free_bytes(self.device)

    def upload(self, context: FlatContext) -> FlatContext:
        """See `nbce_rag.kv.staging.Staging.upload`."""
        # Allocated for the stream that computes, so that it is not handed out again before that is done.
        buffer = self.memory(context.kinds)
        self._up.wait_stream(self._streams.current_stream(self.device))
        with self._streams.stream(self._up):
            buffer.copy_(context.in_stream(), non_blocking=True)
            end = self._end_of(self._up)
        buffer.record_stream(self._up)
        return FlatContext(buffer, context.kinds, end)

    def flat(self, context: Packed) -> FlatContext:
        """See `nbce_rag.kv.staging.Staging.flat`."""
        if isinstance(context, FlatContext):
            return context
        return filled(context, self.memory(kinds(context)))

    def memory(self, what: Kinds) -> Tensor:
        """A buffer on the device for such tensors."""
        return torch.empty(FlatContext.bytes_of(what), dtype=torch.uint8, device=self.device)

    def download(self, context: FlatContext) -> FlatContext:
        """See `nbce_rag.kv.staging.Staging.download`."""
        source = context.buffer
        target = _pinned_memory(len(source))
        self._down.wait_stream(self._streams.current_stream(self.device))
        with self._streams.stream(self._down):
            target.copy_(source, non_blocking=True)
            end = self._end_of(self._down)
        source.record_stream(self._down)
        return FlatContext(target, context.kinds, end)

    def pinned(self, context: Packed) -> FlatContext:
        """See `nbce_rag.kv.staging.Staging.pinned`."""
        if isinstance(context, FlatContext):
            return context
        return filled(context, _pinned_memory(FlatContext.bytes_of(kinds(context))))

    def _end_of(self, stream: Any) -> _Arrival:
        return _Arrival(stream.record_event(), self._streams, self.device)


def _pinned_memory(size: int) -> Tensor:
    """[size] bytes; ordinary ones where the system pins no more."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)
