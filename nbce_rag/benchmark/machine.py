"""What this machine can do, and what a decoding step needs of it at least."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch

__all__ = ["Peak", "describe", "floor_seconds", "peak_memory", "wait_for"]

_COPIES = 7


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, cores in use, memory and versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def floor_seconds(
    weight_bytes: int, weights: int, rows: int, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """What no decoding step can be faster than.

    The longer of two: reading all weights once at the measured memory bandwidth, and multiplying all
    rows by them at the measured rate of a large matrix product (two operations a weight and row).

    Args:
        weight_bytes: bytes of all weights that a step multiplies by.
        weights: number of these.
        rows: tokens in one step.
        device: where.
        dtype: of the weights.

    Returns:
        `bandwidth` (bytes a second), `rate` (operations a second), `seconds`.
    """
    # So large that the time of a launch does not count.
    on_cpu = device.type == "cpu"
    many = torch.ones((64 if on_cpu else 512) * 2**20, dtype=torch.float32, device=device)
    seconds = _median(lambda: many.sum(), device)
    bandwidth = many.nbytes / seconds
    size = 2048 if on_cpu else 8192
    square = torch.ones(size, size, dtype=dtype, device=device)
    rate = 2 * size**3 / _median(lambda: square @ square, device)
    floor = max(weight_bytes / bandwidth, 2 * weights * rows / rate)
    return {"bandwidth": bandwidth, "rate": rate, "seconds": floor}


def wait_for(device: torch.device) -> None:
    """Until a device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _median(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_COPIES):
        start = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


class Peak:
    """What `peak_memory` found; `bytes` is final when its block has ended."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """The most memory that the block took beyond what was taken before.

    On a GPU as its allocator counts it; elsewhere the resident memory of the process, looked at every
    few milliseconds.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    process = psutil.Process()
    _give_back()
    before = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        while True:
            peak.bytes = max(peak.bytes, process.memory_info().rss - before)
            if done.wait(0.005):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _give_back() -> None:
    """Let the allocator return what it keeps for later, which would hide the next block's need."""
    with suppress(AttributeError, OSError):  # other libraries than glibc do without
        ctypes.CDLL(None).malloc_trim(0)
