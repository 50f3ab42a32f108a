"""The event loop that HTTP runs in, in a thread of its own: one a process, for all servers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, Generic, TypeVar

from ...deadline import check_deadline

__all__ = ["Works", "background_loop", "submit"]

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


class Works(Generic[_T]):
    """Some pieces of work that are done side by side, from now on.

    Args:
        works: the pieces.
    """

    def __init__(self, works: Sequence[Coroutine[Any, Any, _T]]) -> None:
        self._futures = [submit(work) for work in works]

    def wait(self, seconds: float) -> bool:
        """Whether all of them are done, or one has failed, within so many seconds."""
        done, others = wait(self._futures, seconds, FIRST_EXCEPTION)
        return not others or any(future.exception() is not None for future in done)

    def results(self) -> list[_T]:
        """What they come to; waits for it.

        Raises:
            AnswerTimeoutError: the time of the answer that they are done for is over.
            Exception: that of one that failed. The others are ended then, as with any other error.
        """
        try:
            while not self.wait(_PATIENCE):
                check_deadline()
            failed = [future for future in self._futures if future.done() and future.exception() is not None]
            return [future.result() for future in failed or self._futures]
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End those that are not done."""
        for future in self._futures:
            future.cancel()


def _renew() -> None:
    """In a child process: the thread is not there."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(after_in_child=_renew)
