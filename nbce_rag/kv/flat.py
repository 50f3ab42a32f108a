"""A context in one buffer, so that one copy moves all of it between a device and the processor's memory.

Such a copy is asked for and not waited for; whoever takes a tensor out of the buffer waits then, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Event", "FlatContext", "Kinds", "filled"]

Kinds = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of the tensors of a context, by name, in their order."""


class Event(Protocol):
    """A point in what a device was asked to do, as `torch.cuda.Event` is one."""

    def wait(self) -> None:
        """Whatever the device is asked to do from now on, in this thread's stream, comes after it."""
        ...

    def synchronize(self) -> None:
        """Wait for it."""
        ...


class FlatContext(Mapping[str, Tensor]):
    """A context (`nbce_rag.kv.context.Packed`) whose tensors lie one behind another in one buffer.

    Args:
        buffer: [n] uint8, on any device.
        kinds: of the tensors, in the order in which they lie there.
        event: when the buffer is filled; None where it is.
    """

    def __init__(self, buffer: Tensor, kinds: Kinds, event: Event | None = None) -> None:
        self._buffer, self.kinds, self._event = buffer, kinds, event
        self._begins, _ = _placed(kinds)

    @staticmethod
    def bytes_of(kinds: Kinds) -> int:
        """Length of the buffer that such tensors need."""
        return _placed(kinds)[1]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        return sum(_bytes(*kind) for kind in self.kinds.values())

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._buffer.device

    @property
    def buffer(self) -> Tensor:
        """[n] uint8, filled for whoever works in this thread's stream."""
        if self._event is not None:
            if self._buffer.device.type == "cpu":
                self._event.synchronize()
                self._event = None
            else:
                self._event.wait()
        return self._buffer

    def in_stream(self) -> Tensor:
        """The buffer for a copy by a device in this thread's stream, which waits in the processor's place."""
        if self._event is not None:
            self._event.wait()
        return self._buffer

    def stack(self, names: Sequence[str]) -> Tensor | None:
        """The tensors of some names as one, [names, *shape]; None where they do not lie so."""
        wanted = [self.kinds.get(name) for name in names]
        first = wanted[0] if wanted else None
        if first is None or any(kind != first for kind in wanted):
            return None
        shape, dtype = first
        size = _bytes(shape, dtype)
        begin = self._begins[names[0]]
        if any(self._begins[name] != begin + place * size for place, name in enumerate(names)):
            return None
        return self.buffer[begin : begin + len(names) * size].view(dtype).view(len(names), *shape)

    def __getitem__(self, name: str) -> Tensor:
        shape, dtype = self.kinds[name]
        begin = self._begins[name]
        return self.buffer[begin : begin + _bytes(shape, dtype)].view(dtype).view(shape)

    def __contains__(self, name: object) -> bool:
        return name in self.kinds

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)


def filled(context: Mapping[str, Tensor], buffer: Tensor) -> FlatContext:
    """A context in a buffer of at least `FlatContext.bytes_of` bytes, into which its tensors are copied.

    Tensors that are alike are laid behind one another, and copied in one go.
    """
    alike: dict[tuple[tuple[int, ...], torch.dtype], list[str]] = {}
    for name, tensor in context.items():
        alike.setdefault((tuple(tensor.shape), tensor.dtype), []).append(name)
    flat = FlatContext(buffer, {name: kind for kind, names in alike.items() for name in names})
    for names in alike.values():
        stack = flat.stack(names)
        assert stack is not None
        torch.stack([context[name] for name in names], out=stack)
    return flat


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return prod(shape) * dtype.itemsize


def _placed(kinds: Kinds) -> tuple[dict[str, int], int]:
    """(where each tensor begins, bytes of all): without gaps between tensors of one dtype."""
    begins, end = {}, 0
    for name, (shape, dtype) in kinds.items():
        begins[name] = end + -end % dtype.itemsize
        end = begins[name] + _bytes(shape, dtype)
    return begins, end
