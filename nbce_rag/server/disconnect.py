"""Work that ends when its client is gone, also where nothing is streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from .wire.errors import ServerError

__all__ = ["until_disconnect"]

_T = TypeVar("_T")


async def until_disconnect(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What the work gives; it is cancelled, and waited for, when the client is gone.

    Raises:
        ServerError: the client is gone; nobody will read it (499).
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ServerError(499, "The client closed the connection.")
        return working.result()
    finally:
        ends = [task for task in (working, leaving) if not task.done()]
        for task in ends:
            task.cancel()
        if ends:
            await asyncio.wait(ends)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
