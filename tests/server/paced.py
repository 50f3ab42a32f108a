"""An engine whose answers come when a test lets them, and a server process without the process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx

from nbce_rag.answers.answer import Piece
from nbce_rag.engine.nbce import NBCE


class PacedNBCE(NBCE):
    """Gives the first piece of each answer at once, and the rest when `go` is set.

    Attributes:
        begun, ended, closed: answers that were begun, that came to their end, and that were left before.
    """

    def __init__(self, nbce: NBCE) -> None:
        super().__init__(nbce.model, max_tokens=24)
        self.go = threading.Event()
        self.begun = self.ended = self.closed = 0

    async def astream(self, question: Any, passages: Any = (), **options: Any) -> AsyncGenerator[Piece, None]:
        self.begun += 1
        try:
            async with aclosing(super().astream(question, passages, **options)) as pieces:
                async for piece in pieces:
                    yield piece
                    while not self.go.is_set():
                        await asyncio.sleep(0.005)
        except BaseException:
            self.closed += 1
            raise
        self.ended += 1


class Ending:
    """An `EndingServer` in a thread, which signals do not reach: they are called.

    Attributes:
        url: its address.
        codes: with which it would have ended the process at once.
    """

    def __init__(self, app: Any, **settings: Any) -> None:
        import uvicorn

        from nbce_rag.server.process import EndingServer, address_of, listening_socket

        self.codes: list[int] = []
        self._socket = listening_socket("127.0.0.1", 0)
        self.url = address_of(self._socket)
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2)
        self.server = EndingServer(config, app.state.policy, app.state.opening, self.codes.append)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self.thread.start()
        until(lambda: self.server.started)

    def signal(self, number: int) -> None:
        self.server.handle_exit(number, None)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def is_over(self) -> bool:
        """Whether it has ended, waited for."""
        self.thread.join(30)
        return not self.thread.is_alive()


def until(condition: Any, seconds: float = 60.0) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)
