"""A pretended accelerator: real numbers in ordinary memory, judged by the rules of a GPU.

On a CPU nothing tells whether code would run on a GPU, or how often it would stop there to wait. Here tensors
live on a device "strict" of their own: each wraps one on the CPU, which does the arithmetic, and every
operation is looked at on its way::

    with StrictDevice() as device:
        model.to("strict")              # RefusedError where a GPU would refuse
        with device.tally() as tally:
            rows.step(ids)
        tally.waits, tally.kernels      # where the processor waits, what is launched
        with device.capture():          # refuses every wait, as a CUDA graph does while it is recorded
            step()

A *wait* is a number that has to come to the processor before it can go on (`item`, `nonzero`, a mask as an
index, a copy to the CPU) or ordinary memory that is copied to the device. A *kernel* is one operation of
torch that is no view. *Pinned* memory (`pin_memory`) is copied without a wait where that is asked for; what
comes down so is garbage until an event behind the copy was waited for. *Streams* are held apart: what one has
written another may use only behind an event of it (`torch.get_device_module("strict")`, as `torch.cuda` has
them). Not seen: which kernels a GPU has and how they round, memory that is handed out again too early, speed.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["RefusedError", "StrictDevice", "Tally", "is_supported"]

NAME = "strict"
_ops = torch.ops.aten
# How much there is of the result, or what it is, has to be known before anything else can be launched.
_ASKING = {
    _ops._local_scalar_dense,
    _ops.bincount,
    _ops.equal,
    _ops.is_nonzero,
    _ops.masked_select,
    _ops.nonzero,
    _ops.repeat_interleave,
    _ops.unique_consecutive,
    _ops.unique_dim,
    _ops._unique2,
}
_COPIES = {_ops._to_copy, _ops.copy, _ops.copy_}
_INDEXED = {_ops.index, _ops.index_put, _ops.index_put_, _ops._index_put_impl_}
_LAUNCHES_NOTHING = {
    _ops._local_scalar_dense,
    _ops.detach,
    _ops.empty,
    _ops.empty_like,
    _ops.empty_strided,
    _ops.lift_fresh,
    _ops.new_empty,
}
_LIKE = {_ops.empty_like, _ops.zeros_like, _ops.new_empty, _ops.new_zeros}
# Taken apart, attention is many kernels, and a product with a vector changes a shape in place.
_WHOLE = {
    torch.nn.functional.scaled_dot_product_attention,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
}


class RefusedError(RuntimeError):
    """A GPU would not do this."""


class Tally:
    """What happened within a block.

    Attributes:
        kernels: operations that were launched.
        waits: how often the processor waited, by (operation, where).
        copies: copies between the device and pinned memory that were not waited for, by (direction, where).
    """

    def __init__(self) -> None:
        self.kernels = 0
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()


class _OnDevice(Tensor):
    """A tensor of the device; `host` holds its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor, requires_grad: bool = False) -> _OnDevice:
        if isinstance(host, _OnDevice):  # as accelerate makes a parameter of a tensor
            return host
        made: _OnDevice = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        made.host = host
        return made

    def record_stream(self, stream: Any) -> None:
        """Nothing: memory is not handed out again here while anything holds it."""

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"strict:{self.host!r}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, op: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if (device := StrictDevice.active) is None:
            raise RefusedError(f"{op}: the device is gone")
        return device.apply(op, args, kwargs or {})  # from threads that the mode does not reach


class _Stream:
    """A queue of operations; its clock says how far those of every stream are known to be done."""

    def __init__(self, device: object = None) -> None:
        self.count = 0
        self.clock: dict[_Stream, int] = {}

    def advance(self) -> int:
        """One more operation; its number."""
        self.count += 1
        self.clock[self] = self.count
        return self.count

    def record_event(self, event: _Event | None = None) -> _Event:
        event = event or _Event()
        event.clock = dict(self.clock)
        return event

    def wait_event(self, event: _Event) -> None:
        for stream, count in event.clock.items():
            self.clock[stream] = max(count, self.clock.get(stream, 0))

    def wait_stream(self, other: _Stream) -> None:
        self.wait_event(other.record_event())

    def synchronize(self) -> None:
        self.record_event().synchronize()


class _Event:
    """A point in a stream."""

    def __init__(self, **_: Any) -> None:
        self.clock: dict[_Stream, int] = {}

    def record(self, stream: _Stream | None = None) -> None:
        (stream or _current_stream()).record_event(self)

    def wait(self, stream: _Stream | None = None) -> None:
        (stream or _current_stream()).wait_event(self)

    def synchronize(self) -> None:
        if StrictDevice.active is not None:
            StrictDevice.active.waited("an event")
        for delivery in _coming:
            if self.clock.get(delivery.stream, 0) >= delivery.number:
                delivery.arrive()


class _Delivery:
    """Numbers that the device was told to copy into pinned memory."""

    def __init__(self, stream: _Stream, number: int, target: Tensor, numbers: Tensor) -> None:
        self.stream, self.number, self.target, self.numbers = stream, number, target, numbers
        self.place = target.untyped_storage().data_ptr()

    def arrive(self) -> None:
        """Now they are there."""
        with suppress(ValueError):  # another thread was faster
            _coming.remove(self)
            with _disable_current_modes():
                self.target.copy_(self.numbers)


_coming: list[_Delivery] = []


_main_stream = _Stream()
_threads = threading.local()


def _current_stream(device: object = None) -> _Stream:
    stream: _Stream = getattr(_threads, "stream", _main_stream)
    return stream


@contextmanager
def _stream(stream: _Stream) -> Iterator[None]:
    before = _current_stream()
    _threads.stream = stream
    try:
        yield
    finally:
        _threads.stream = before


def is_supported() -> bool:
    """Whether this torch has the hook that makes a device out of Python."""
    from torch.utils import backend_registration

    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class _Dispatch(TorchDispatchMode):
    """Hands operations of a further thread on to the device."""

    def __init__(self, device: StrictDevice) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._device.apply(op, args, kwargs or {})


class StrictDevice(TorchDispatchMode):
    """The device, for the length of a block; one at a time.

    Args:
        float64: False refuses it, as Apple's devices do.

    Attributes:
        can_pin: False where the system has no more memory to pin.
    """

    active: StrictDevice | None = None
    _is_registered = False

    def __init__(self, *, float64: bool = True) -> None:
        self._register()
        super().__init__()  # type: ignore[no-untyped-call]
        self._float64 = float64
        self._tallies: list[Tally] = []
        self._capturing = 0
        self._calls = _Calls(self)
        self.can_pin = True
        self._pinned: list[Tensor] = []  # held, so that no other memory is taken for theirs
        self._written: dict[int, tuple[_Stream, int]] = {}  # by whom memory was written last

    @classmethod
    def _register(cls) -> None:
        if cls._is_registered:
            return
        from torch.utils import backend_registration

        class Backend(backend_registration._DummyBackendModule):
            def get_amp_supported_dtype(self) -> list[torch.dtype]:
                return [torch.bfloat16]

            def is_autocast_enabled(self) -> bool:
                return False

            Stream, Event = _Stream, _Event
            current_stream = staticmethod(_current_stream)
            stream = staticmethod(_stream)

        backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
        cls._is_registered = True

    def __enter__(self) -> StrictDevice:
        StrictDevice.active = self
        _threads.counts = True
        self._calls.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._calls.__exit__(*error)  # type: ignore[no-untyped-call]
        StrictDevice.active = None

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """The device in another thread than the one of the block, which modes of torch belong to."""
        _threads.counts = True
        with _Calls(self), _Dispatch(self):
            yield

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Count what happens within the block."""
        tally = Tally()
        self._tallies.append(tally)
        try:
            yield tally
        finally:
            self._tallies.remove(tally)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Refuse every wait within the block."""
        self._capturing += 1
        try:
            yield
        finally:
            self._capturing -= 1

    def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.apply(op, args, kwargs or {})

    def apply(self, op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation: judged, done on the CPU, and its results on the device."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        target = kwargs.get("device")
        ours = any(isinstance(tensor, _OnDevice) for tensor in inputs)
        stays = ours if target is None else torch.device(target).type == NAME
        if not ours and not stays:
            return op(*args, **kwargs)
        is_async = self._judge(op, inputs, args, kwargs, stays)
        if is_async and op.overloadpacket is _ops.copy_ and not isinstance(args[0], _OnDevice):
            return self._bring_down(args[0], args[1])
        if is_async:
            self._arrive(args[1] if op.overloadpacket is _ops.copy_ else args[0])
        on_host = tree_map(_host, kwargs)
        if target is not None:
            on_host["device"] = "meta" if torch.device(target).type == "meta" else "cpu"
        if "pin_memory" in on_host:
            on_host["pin_memory"] = False
        result = op(*tree_map(_host, args), **on_host)
        written = [
            args[place] if place < len(args) else kwargs[argument.name]
            for place, argument in enumerate(op._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        if not written:
            result = tree_map(self._back, result) if stays else result
            if not _is_view(op):
                self._note(leaf for leaf in tree_leaves(result) if isinstance(leaf, _OnDevice))
            return result
        self._note(tensor for tensor in written if isinstance(tensor, _OnDevice))
        if any(isinstance(tensor, _OnDevice) and tensor.shape != tensor.host.shape for tensor in written):
            raise NotImplementedError(f"{op} gives a tensor another shape in place")
        if not op._schema.returns:
            return None
        return written[0] if len(written) == 1 else tuple(written)

    def _note(self, tensors: Iterable[_OnDevice]) -> None:
        """What the current stream has written with its last operation."""
        stream = _current_stream()
        for tensor in tensors:
            self._written[tensor.host.untyped_storage().data_ptr()] = (stream, stream.count)

    def _check_streams(self, op: Any, inputs: list[Tensor]) -> None:
        stream = _current_stream()
        for tensor in inputs:
            if isinstance(tensor, _OnDevice) and tensor.numel():
                writer, count = self._written.get(tensor.host.untyped_storage().data_ptr(), (stream, 0))
                if writer is not stream and stream.clock.get(writer, 0) < count:
                    self._refuse(f"{op}: another stream may be writing it")
        stream.advance()

    def _bring_down(self, target: Tensor, source: _OnDevice) -> Tensor:
        """A copy that arrives some time."""
        numbers = source.host.clone()
        with _disable_current_modes():
            target.fill_(85)
        stream = _current_stream()
        _coming.append(_Delivery(stream, stream.count, target, numbers))
        return target

    def _arrive(self, source: Tensor) -> None:
        """What is still to come into pinned memory, for a stream that copies it on behind."""
        place = source.untyped_storage().data_ptr()
        for delivery in [one for one in _coming if one.place == place]:
            if _current_stream().clock.get(delivery.stream, 0) < delivery.number:
                self._refuse("pinned memory: another stream may be writing it")
            delivery.arrive()

    def pin(self, tensor: Tensor) -> Tensor:
        """Take a tensor's memory for pinned."""
        self._pinned.append(tensor)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor's memory is pinned."""
        place = tensor.untyped_storage().data_ptr()
        return any(one.untyped_storage().data_ptr() == place for one in self._pinned)

    def _judge(self, op: Any, inputs: list[Tensor], args: Any, kwargs: dict[str, Any], stays: bool) -> bool:
        """Raise or count; whether the operation is a copy that nobody waits for."""
        kind, name = op.overloadpacket, str(op.overloadpacket)
        is_async = False
        foreign = [tensor for tensor in inputs if not isinstance(tensor, _OnDevice)]
        if kind in _COPIES:
            into_existing = kind is not _ops._to_copy
            source = args[1] if into_existing else args[0]
            arrives = isinstance(args[0], _OnDevice) if into_existing else stays
            if isinstance(source, _OnDevice) != arrives and source.numel():
                # A lone number, as in `tensor[0] = 1.0`, goes along with the launch.
                is_argument = arrives and into_existing and source.dim() == 0
                direction = f"{name} to the {'device' if arrives else 'CPU'}"
                there = source if arrives else (args[0] if into_existing else None)
                is_asked = kwargs.get("non_blocking", len(args) > 2 and args[2])
                is_async = bool(is_asked) and there is not None and self.is_pinned(there)
                if is_async:
                    for tally in self._tallies:
                        tally.copies[direction, _where()] += 1
                elif not is_argument:
                    self._wait(direction)
        elif kind in _INDEXED and isinstance(args[0], _OnDevice):
            indexes = [index for index in args[1] if index is not None]
            values = args[2] if len(args) > 2 else None
            is_fill = values is not None and values.numel() == 1
            if not is_fill and any(index.dtype in (torch.bool, torch.uint8) for index in indexes):
                self._wait(f"{name} by a mask")
            if any(not isinstance(index, _OnDevice) for index in indexes):
                self._wait(f"{name} by an index on the CPU")
            if isinstance(values, Tensor) and not isinstance(values, _OnDevice) and values.dim():
                self._refuse(f"{name}: values on the CPU")
        elif kind in _LIKE:
            pass  # only the shape is looked at, which tensors without numbers have too
        elif any(tensor.dim() for tensor in foreign):
            self._refuse(f"{name}: tensors of two devices")
        elif foreign and torch.Tag.pointwise not in op.tags:
            self._refuse(f"{name}: a lone number on the CPU, which only pointwise operations take")
        if kind in _ASKING:
            self._wait(name)
        if not _is_view(op):
            self._check_streams(op, inputs)
            if kind not in _LAUNCHES_NOTHING:
                self.launch()
        return is_async

    def _back(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.dtype == torch.float64 and not self._float64:
            self._refuse("float64")
        return leaf if isinstance(leaf, _OnDevice) else _OnDevice(leaf)

    def call(self, name: str, inputs: list[Tensor]) -> None:
        """Judge and count a call that is one kernel."""
        self._check_streams(name, inputs)
        self.launch()

    def launch(self) -> None:
        """Count a kernel."""
        for tally in self._tallies:
            tally.kernels += 1

    def _wait(self, what: str) -> None:
        if self._capturing:
            self._refuse(f"{what}: the processor waits")
        where = _where()
        for tally in self._tallies:
            tally.waits[what, where] += 1

    def waited(self, what: str) -> None:
        """A wait by other means than an operation; threads that do not compute may wait as they like."""
        if getattr(_threads, "counts", False):
            self._wait(what)

    def _refuse(self, what: str) -> None:
        raise RefusedError(f"{what} ({_where()})")

    def refuse(self, what: str) -> None:
        """Raise a `RefusedError`."""
        self._refuse(what)


class _Calls(TorchFunctionMode):
    """What C++ would do past the dispatcher, or take apart for a device that it does not know."""

    def __init__(self, device: StrictDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, call: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if call in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return call(*args, **kwargs).to(device)
        first = args[0] if args else None
        if call is torch.empty and kwargs.pop("pin_memory", False):
            if not self._device.can_pin:
                raise RuntimeError("CUDA error: out of memory")
            return self._device.pin(call(*args, **kwargs))
        if call is Tensor.pin_memory:
            return self._device.pin(args[0].clone())
        if isinstance(first, _OnDevice):
            if call in (Tensor.__getitem__, Tensor.__setitem__):
                args = (first, _as_tensors(args[1]), *args[2:])
            elif call is Tensor.tolist:
                return first.cpu().tolist()
            elif call is Tensor.numpy:
                self._device.refuse("numpy of a tensor on the device")
        return self._whole(call, args, kwargs) if call in _WHOLE else call(*args, **kwargs)

    def _whole(self, call: Callable[..., Tensor], args: Any, kwargs: dict[str, Any]) -> Tensor:
        """A call that is one kernel on a GPU."""
        places = {
            isinstance(leaf, _OnDevice) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        if True not in places:
            return call(*args, **kwargs)
        if len(places) > 1:
            self._device.refuse(f"{call.__name__}: tensors of two devices")
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._device.call(call.__name__, inputs)
        with _disable_current_modes():
            return _OnDevice(call(*tree_map(_host, args), **tree_map(_host, kwargs)))


def _is_view(op: Any) -> bool:
    returns = op._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _host(leaf: Any) -> Any:
    return leaf.host if isinstance(leaf, _OnDevice) else leaf


def _as_tensors(index: Any) -> Any:
    """Lists in an index as the tensors that they are for torch, which would make them out of sight."""
    if isinstance(index, list):
        return torch.tensor(index)
    return tuple(_as_tensors(part) for part in index) if isinstance(index, tuple) else index


def _where() -> str:
    """The innermost line outside of torch and of this file."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and "/torch/" not in path and not path.startswith("<"):
            return f"{'/'.join(path.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
