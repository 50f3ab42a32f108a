"""llama.cpp's library: found, started once, and what it complains of."""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections import deque
from functools import cache
from importlib.metadata import version
from typing import Any

import psutil

from ...errors import MissingDependencyError

__all__ = ["build_name", "complaint", "forget_complaints", "free_bytes", "library"]

logger = logging.getLogger(__name__)

_WARNING, _ERROR, _CONTINUED = 3, 4, 5  # ggml's levels
_GPUS = (1, 2)  # ggml's kinds of devices: with memory of its own, and sharing the machine's

_complaints: deque[str] = deque(maxlen=20)
_callbacks: list[Any] = []  # C calls them for as long as the process lives


@cache
def library() -> Any:
    """The functions of llama.h by their own names, as `llama_cpp` binds them.

    Raises:
        MissingDependencyError: `llama_cpp` is not installed.
    """
    try:
        bound: Any = importlib.import_module("llama_cpp.llama_cpp")
    except ImportError as error:
        raise MissingDependencyError(
            f"llama.cpp cannot be used ({error}): pip install 'nbce-rag[llama-cpp]'."
        ) from error
    listener = bound.llama_log_callback(_listen)
    _callbacks.append(listener)
    bound.llama_log_set(listener, ctypes.c_void_p(0))
    bound.llama_backend_init()
    return bound


def build_name() -> str:
    """Which build computes; another one may round otherwise."""
    return f"llama.cpp {library().llama_version().decode()} ({version('llama_cpp_python')})"


def complaint() -> str:
    """The first error that the library has named since `forget_complaints`, or ""."""
    return next(iter(_complaints), "")


def forget_complaints() -> None:
    """What was complained of before is of no interest."""
    _complaints.clear()


def free_bytes(*, on_gpu: bool) -> int:
    """Bytes that can be allocated now: the machine's, or the smallest free memory of its GPUs."""
    devices = _gpu_free_bytes() if on_gpu else []
    return min(devices) if devices else int(psutil.virtual_memory().available)


def _gpu_free_bytes() -> list[int]:
    ggml: Any = importlib.import_module("llama_cpp._ggml").libggml
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    ggml.ggml_backend_dev_memory.restype = None
    free: list[int] = []
    for number in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(number)
        if ggml.ggml_backend_dev_type(device) in _GPUS:
            left, total = ctypes.c_size_t(), ctypes.c_size_t()
            ggml.ggml_backend_dev_memory(device, ctypes.byref(left), ctypes.byref(total))
            free.append(left.value)
    return free


def _listen(level: int, text: bytes, data: Any) -> None:
    """Errors and warnings are noted for whoever asks; nothing is printed."""
    if level not in (_WARNING, _ERROR, _CONTINUED):
        return
    line = text.decode(errors="replace").strip()
    if not line.strip("."):  # dots of progress
        return
    logger.debug("llama.cpp: %s", line)
    if level == _ERROR:
        _complaints.append(line)
