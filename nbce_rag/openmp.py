"""OpenMP's threads, of which every thread that computes has a team of its own.

GNU's runtime counts the threads of all teams. While they are more than the processors, a team waits asleep
for its next piece of work (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html), and to wake it
takes longer than most products of a decoding step. So a thread that has computed, and leaves the rest to
another one, gives its team back; it gets the next one, in less than a millisecond, when it computes again.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["give_back_team"]

_SOFT = 1  # omp_pause_soft, OpenMP 5.0
_LIBRARIES = Path("/proc/self/maps")
_HERE = os.getpid()


def give_back_team() -> None:
    """End the calling thread's OpenMP team, if it has one; its next product makes another.

    Nothing happens where torch does not use GNU's runtime, or is not loaded yet, and in a forked child, which
    has none of the threads that its parent's team still counts.
    """
    if "torch" in sys.modules and os.getpid() == _HERE:
        for pause in _runtimes():
            pause(_SOFT)


@functools.cache
def _runtimes() -> list[Callable[[int], int]]:
    """`omp_pause_resource_all` of each GNU runtime that is loaded: there it ends the caller's team alone."""
    if not _LIBRARIES.exists():
        return []
    files = {
        line.split(maxsplit=5)[-1].strip()
        for line in _LIBRARIES.read_text().splitlines()
        if "libgomp" in line
    }
    libraries = [ctypes.CDLL(file) for file in sorted(files)]
    return [
        library.omp_pause_resource_all for library in libraries if hasattr(library, "omp_pause_resource_all")
    ]
