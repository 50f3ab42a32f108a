"""From the thread that computes to the one, or the coroutine, that waits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from ..answers.answer import Piece

__all__ = ["Mailbox", "Note"]

Note = str
"""Something that who waits is to be warned of."""

Item = tuple[int, Piece] | Note | BaseException


class Mailbox:
    """Pieces of questions that were asked together; a `nbce_rag.engine.jobs.Sink`.

    It takes as many as come: an answer is written to its end, or until the mailbox is closed, however slowly
    it is read, since the answers that are decoded with it do not wait. `max_tokens` is its bound.

    Args:
        count: how many questions.

    Attributes:
        is_closed: whether nobody takes anything any more.
    """

    def __init__(self, count: int) -> None:
        self.is_closed = False
        self._items: deque[Item] = deque()
        self._open = count  # questions whose answer has not come
        self._changed = threading.Condition()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def put(self, index: int, piece: Piece) -> None:
        """See `Sink.put`."""
        with self._changed:
            if not self.is_closed:
                self._open -= piece.answer is not None
                self._add((index, piece))

    def fail(self, index: int, error: BaseException) -> None:
        """See `Sink.fail`. It ends all questions that were asked together."""
        with self._changed:
            if not self.is_closed:
                self.is_closed = True
                self._add(error)

    def note(self, message: str) -> None:
        """See `Sink.note`."""
        with self._changed:
            if not self.is_closed:
                self._add(message)

    def abandon(self) -> None:
        """`close`, also where locks are held, and where nobody can be waiting."""
        self.is_closed = True
        self._items.clear()

    def close(self) -> None:
        """Nobody takes anything any more; whoever waits waits no longer."""
        self.abandon()
        with self._changed:
            self._wake()

    def take(self) -> Item | None:
        """What comes next, None behind the last; waits for it."""
        with self._changed:
            while not self._items and not self._is_done:
                self._changed.wait()
            return self._next()

    async def atake(self) -> Item | None:
        """`take` of a coroutine, one at a time."""
        while True:
            with self._changed:
                if self._items or self._is_done:
                    return self._next()
                loop = asyncio.get_running_loop()
                ready: asyncio.Future[None] = loop.create_future()
                self._waiting = (loop, ready)
            try:
                await ready
            finally:
                self._waiting = None

    def _next(self) -> Item | None:
        try:
            return self._items.popleft()
        except IndexError:  # none, or `abandon` was faster
            return None

    @property
    def _is_done(self) -> bool:
        return self._open <= 0 or self.is_closed

    def _add(self, item: Item) -> None:
        self._items.append(item)
        self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiting is not None:
            loop, ready = self._waiting
            try:
                loop.call_soon_threadsafe(_set, ready)
            except RuntimeError:  # the loop was closed, and nobody waits
                self.is_closed = True


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
