"""Which cache of rows a model takes."""

from __future__ import annotations

from collections.abc import Sequence

from .banded_cache import BandedRowCache
from .bands import BandedMemory
from .cache import RowCache
from .memory import RowMemory

__all__ = ["row_cache"]


def row_cache(memory: RowMemory, rows: Sequence[int], length: int, *, fresh: bool = False) -> RowCache:
    """The `RowCache` that the model takes; arguments as there."""
    if isinstance(memory, BandedMemory):
        return BandedRowCache(memory, rows, length)
    if any(name == "linear" for _, name, _ in memory.layout.parts()):
        from .linear_cache import LinearRowCache

        return LinearRowCache(memory, rows, length, fresh=fresh)
    return RowCache(memory, rows, length, fresh=fresh)
