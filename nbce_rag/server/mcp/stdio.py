"""The tools over stdio: stdout belongs to the protocol, and everything else goes to stderr."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ...errors import NbceWarning
from ..policy import OpenPolicy
from ..served import Opening
from ..settings import ServerSettings
from .server import make_server

__all__ = ["run_stdio"]

_NEEDS_IT = ("tools/call", "resources/read", "prompts/get")
_log = logging.getLogger("nbce_rag.server")


def run_stdio(settings: ServerSettings) -> None:
    """Serves until stdin ends, or until it is told to go (SIGTERM, SIGINT).

    What is to be asked is opened in a thread once the first message has been answered, so that a client
    that starts many servers waits for none.
    """
    # Answers carry them, and those who read them are elsewhere.
    warnings.filterwarnings("ignore", category=NbceWarning)
    opening = Opening(settings)
    asyncio.run(_serve(opening))
    _leave(opening)


async def _serve(opening: Opening) -> None:
    policy = OpenPolicy()
    server = make_server(opening, lambda: policy)
    is_started = False

    def start() -> None:
        nonlocal is_started
        if not is_started:
            is_started = True
            opening.start()

    async def open_behind(ctx: Any, call_next: Callable[..., Awaitable[Any]]) -> Any:
        if ctx.method in _NEEDS_IT:
            start()
        try:
            return await call_next(ctx)
        finally:
            start()

    server.middleware.append(open_behind)
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT"):
        with suppress(AttributeError, NotImplementedError, ValueError):  # not everywhere
            # Stdin is read in a thread that nothing but its end wakes, so that the process cannot unwind.
            loop.add_signal_handler(getattr(signal, name), lambda: _leave(opening, now=True))
    await server.run_stdio_async()


def _leave(opening: Opening, *, now: bool = False) -> None:
    """Lets go of what is open; what is still being loaded is left to end with the process."""
    is_open = opening.served is not None
    if is_open:
        try:
            opening.close()
        except Exception:
            _log.exception("Closing failed")
    if now or (not is_open and opening.error is None):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)
