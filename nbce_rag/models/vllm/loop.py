"""The event loop that HTTP runs in, in a thread of its own: one a process, for all servers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, TypeVar

from ...deadline import check_deadline

__all__ = ["background_loop", "results", "submit"]

_T = TypeVar("_T")
_PATIENCE = 0.1  # seconds between two looks at whether anybody still waits


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop, which runs."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="nbce-vllm", daemon=True).start()
        return _loop


def submit(work: Coroutine[Any, Any, _T]) -> Future[_T]:
    """Begin a piece of work in the loop; cancelling the future ends it."""
    return asyncio.run_coroutine_threadsafe(work, background_loop())


def results(works: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """What some pieces of work come to, done side by side.

    Raises:
        AnswerTimeoutError: the time of the answer that they are done for is over.
        Exception: that of the first one that fails. The others are ended then, as with any other error.
    """
    futures = [submit(work) for work in works]
    try:
        while True:
            done, others = wait(futures, _PATIENCE, FIRST_EXCEPTION)
            for future in done:
                future.result()
            if not others:
                return [future.result() for future in futures]
            check_deadline()
    finally:
        for future in futures:
            future.cancel()


def _renew() -> None:
    """In a child process: the thread is not there."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(after_in_child=_renew)
