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
torch that is no view. Not seen: which kernels a GPU has and how they round, streams, memory, speed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """

    def __init__(self) -> None:
        self.kernels = 0
        self.waits: Counter[tuple[str, str]] = Counter()


class _OnDevice(Tensor):
    """A tensor of the device; `host` holds its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> _OnDevice:
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

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"strict:{self.host!r}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, op: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if (device := StrictDevice.active) is None:
            raise RefusedError(f"{op}: the device is gone")
        return device.apply(op, args, kwargs or {})  # from threads that the mode does not reach


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

        backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
        cls._is_registered = True

    def __enter__(self) -> StrictDevice:
        StrictDevice.active = self
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
        self._judge(op, inputs, args, stays)
        on_host = tree_map(_host, kwargs)
        if target is not None:
            on_host["device"] = "cpu"
        if "pin_memory" in on_host:
            on_host["pin_memory"] = False
        result = op(*tree_map(_host, args), **on_host)
        written = [
            args[place] if place < len(args) else kwargs[argument.name]
            for place, argument in enumerate(op._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        if not written:
            return tree_map(self._back, result) if stays else result
        if any(isinstance(tensor, _OnDevice) and tensor.shape != tensor.host.shape for tensor in written):
            raise NotImplementedError(f"{op} gives a tensor another shape in place")
        if not op._schema.returns:
            return None
        return written[0] if len(written) == 1 else tuple(written)

    def _judge(self, op: Any, inputs: list[Tensor], args: Any, stays: bool) -> None:
        kind, name = op.overloadpacket, str(op.overloadpacket)
        foreign = [tensor for tensor in inputs if not isinstance(tensor, _OnDevice)]
        if kind in _COPIES:
            into_existing = kind is not _ops._to_copy
            source = args[1] if into_existing else args[0]
            arrives = isinstance(args[0], _OnDevice) if into_existing else stays
            if isinstance(source, _OnDevice) != arrives and source.numel():
                # A lone number, as in `tensor[0] = 1.0`, goes along with the launch.
                is_argument = arrives and into_existing and source.dim() == 0
                if not is_argument:
                    self._wait(f"{name} to the {'device' if arrives else 'CPU'}")
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
        elif any(tensor.dim() for tensor in foreign):
            self._refuse(f"{name}: tensors of two devices")
        elif foreign and torch.Tag.pointwise not in op.tags:
            self._refuse(f"{name}: a lone number on the CPU, which only pointwise operations take")
        if kind in _ASKING:
            self._wait(name)
        returns = op._schema.returns
        is_view = bool(returns) and all(
            r.alias_info is not None and not r.alias_info.is_write for r in returns
        )
        if not is_view and kind not in _LAUNCHES_NOTHING:
            self.launch()

    def _back(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.dtype == torch.float64 and not self._float64:
            self._refuse("float64")
        return leaf if isinstance(leaf, _OnDevice) else _OnDevice(leaf)

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
        self._device.launch()
        with _disable_current_modes():
            return _OnDevice(call(*tree_map(_host, args), **tree_map(_host, kwargs)))


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
