"""Calls to places far away, made in one thread of this process, so that whoever waits can stop waiting.

At the end of the process what still hangs is broken off. A process that was forked behind the first call
cannot make any: obstore's own threads are gone there, and a call would never come back.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["ForkedProcessError", "start"]

T = TypeVar("T")

_STOP_SECONDS = 1.0
_SETTLE_SECONDS = 0.05


class ForkedProcessError(RuntimeError):
    """This process was forked from one that had made calls already."""


class _Background:
    """An event loop in a thread, begun with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process: int | None = None

    def start(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        # Looked at without the lock, which a thread of the parent may have held.
        if self._process not in (None, os.getpid()):
            call.close()
            raise ForkedProcessError("forked from a process that had made calls already")
        with self._lock:
            if self._loop is None:
                self._process = os.getpid()
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="nbce-kv-remote", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def stop(self) -> None:
        """Break off what is under way, so that no thread of obstore's comes back to an interpreter that is
        going down, which would abort the process."""
        loop = self._loop
        if loop is None or self._process != os.getpid():
            return

        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        with suppress(Exception):  # late, or held up: it goes down all the same
            asyncio.run_coroutine_threadsafe(cancel(), loop).result(_STOP_SECONDS)
        time.sleep(_SETTLE_SECONDS)  # Rust lets go of what it held of Python's


_background = _Background()
atexit.register(_background.stop)


def start(call: Coroutine[Any, Any, T]) -> Future[T]:
    """Begin a call; its result, or what it raised, comes by the future, and cancelling that ends the call.

    Raises:
        ForkedProcessError: no calls can be made in this process.
    """
    return _background.start(call)
