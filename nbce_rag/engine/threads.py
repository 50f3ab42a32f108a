"""Blocking work beside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import TypeVar

from ..errors import remembered_caller

__all__ = ["in_thread"]

_T = TypeVar("_T")


async def in_thread(iterator: Iterator[_T]) -> AsyncGenerator[_T, None]:
    """Draw from a blocking iterator without blocking the event loop; closes it when the consumer leaves."""
    end = object()
    step: asyncio.Future[_T | object] | None = None
    try:
        while True:
            with remembered_caller():  # what warns in the thread points at who waits here
                step = asyncio.ensure_future(asyncio.to_thread(next, iterator, end))
            # Shielded: a generator that is running in the thread cannot be closed before the step ends.
            item = await asyncio.shield(step)
            if item is end:
                return
            yield item  # type: ignore[misc]
    finally:
        if step is not None and not step.done():
            await asyncio.wait([step])
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
