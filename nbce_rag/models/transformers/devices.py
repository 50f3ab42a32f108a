"""Where a model's numbers lie, and how many bits they have."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from ...errors import InputError
from .gguf import first_line

__all__ = ["device_of", "dtype_of", "execution_device", "free_bytes"]

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def device_of(device: str | None) -> torch.device:
    """The device of this name; None is the best that there is.

    Raises:
        InputError: there is none of this name, or nothing can be put on it.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={device!r} cannot be used here: {first_line(error)} Try 'cpu'.") from error
    if found.type == "meta":
        raise InputError("device='meta' holds no numbers. Try 'cpu'.")
    return found


def dtype_of(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of this name, as torch calls it; "auto" is the fastest that a device computes well in.

    Raises:
        InputError: no dtype that models are read in.
    """
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype != "auto":
        known = _DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else None
        if known is None:
            raise InputError(f"dtype={dtype!r} is not known; choose auto, {', '.join(_DTYPES)}.")
        return known
    if device.type == "cuda":
        # Older cards emulate bfloat16.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float32
    if device.type == "cpu":
        # Emulated bfloat16 is many times slower than float32; only these two compute in it.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


def free_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on a device now; on a GPU with what torch has reserved and has free."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return int(psutil.virtual_memory().available)


def execution_device(model: Any) -> torch.device:
    """Where a transformers model wants its token ids."""
    device = torch.device(model.device)
    if device.type != "meta":
        return device
    # Its first weights lie elsewhere until they are needed; accelerate knows where that is.
    hook = getattr(model, "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):
        target = getattr(one, "execution_device", None)
        if target is not None:
            return torch.device(target)
    return device
