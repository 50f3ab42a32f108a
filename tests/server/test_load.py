"""Many at once: nobody waits for another's end, the queue keeps its promises, who leaves leaves nothing."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from paced import PacedNBCE, until

from nbce_rag.server import Served, ServerSettings, create_app
from nbce_rag.server.limits import Limits

BODY = {"question": "What is the code of Zeta?", "index": "codes"}


@pytest.fixture
def paced(reading_nbce: Any) -> Iterator[PacedNBCE]:
    nbce = PacedNBCE(reading_nbce)
    yield nbce
    nbce.go.set()


@pytest.fixture
def busy(paced: PacedNBCE, server_indexes: dict[str, Any], run_app: Callable[..., Any]) -> Callable[..., Any]:
    """`busy(max_running=2, ...)`: a server with these limits."""

    def start(ping_seconds: float = 15.0, **limits: Any) -> Any:
        settings = ServerSettings(ping_seconds=ping_seconds, limits=Limits(**limits))
        return run_app(create_app(settings, Served(paced, server_indexes)))

    return start


class Reader:
    """A client that reads a stream in a thread, until it is told to leave."""

    def __init__(self, server: Any, **body: Any) -> None:
        self.lines: list[str] = []
        self.leave = threading.Event()
        self._server, self._body = server, {**BODY, "stream": True, **body}
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with httpx.stream("POST", self._server.url + "/v1/ask", json=self._body, timeout=60) as reply:
            for line in reply.iter_lines():
                self.lines.append(line)
                if self.leave.is_set():
                    return

    def has(self, event: str) -> bool:
        return f"event: {event}" in self.lines


def admission(server: Any) -> tuple[int, int]:
    """(running, waiting)."""
    now = server.app.state.policy.admission
    return now.running, now.waiting


def test_nobody_waits_for_anothers_end_before_the_first_token(
    busy: Callable[..., Any], paced: PacedNBCE
) -> None:
    server = busy(max_running=4)
    readers = [Reader(server) for _ in range(4)]
    until(lambda: all(reader.has("piece") for reader in readers))
    assert not any(reader.has("answer") for reader in readers)
    paced.go.set()
    until(lambda: all(reader.has("answer") for reader in readers))


def test_a_stream_that_waits_for_its_turn_has_begun_and_pings(
    busy: Callable[..., Any], paced: PacedNBCE
) -> None:
    server = busy(ping_seconds=0.05, max_running=1)
    first = Reader(server)
    until(lambda: first.has("piece"))
    second = Reader(server)
    until(lambda: second.lines.count(": ping") >= 2)
    assert admission(server) == (1, 1)
    assert not second.has("retrieved")
    paced.go.set()
    until(lambda: second.has("answer"))


def test_what_the_queue_promises_it_keeps(busy: Callable[..., Any], paced: PacedNBCE) -> None:
    server = busy(max_running=2, max_waiting=3)
    paced.go.set()
    alone = server.post("/v1/ask", BODY).json()["answer"]

    def ask(number: int) -> list[httpx.Response]:
        return [server.post("/v1/ask", BODY) for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        replies = [reply for several in pool.map(ask, range(16)) for reply in several]
    assert len(replies) == 48
    assert {reply.status_code for reply in replies} <= {200, 429}
    for reply in replies:
        if reply.status_code == 200:
            assert reply.json()["answer"] == alone
        else:
            assert reply.json()["error"]["code"] == "queue_full"
            assert 1 <= int(reply.headers["retry-after"]) <= 120
    answered = sum(reply.status_code == 200 for reply in replies)
    assert answered >= 5
    assert admission(server) == (0, 0)
    assert paced.ended == answered + 1


def test_who_is_refused_is_refused_at_once(busy: Callable[..., Any], paced: PacedNBCE) -> None:
    server = busy(max_running=1, max_waiting=0)
    reader = Reader(server)
    until(lambda: reader.has("piece"))
    for stream in (False, True):
        reply = server.post("/v1/ask", {**BODY, "stream": stream})
        assert reply.status_code == 429
        assert reply.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_goes_frees_its_turn_and_its_rows(
    busy: Callable[..., Any], paced: PacedNBCE, is_stream: bool
) -> None:
    server = busy(max_running=1)
    before = paced.begun

    async def ask_and_go() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            task = asyncio.ensure_future(client.post("/v1/ask", json={**BODY, "stream": is_stream}))
            while paced.begun == before:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(ask_and_go())
    until(lambda: paced.closed == 1)
    until(lambda: admission(server) == (0, 0))
    until(lambda: paced.scheduler.load.rows == 0)
    assert paced.ended == 0


def test_a_client_that_goes_while_it_waits_leaves_the_queue(
    busy: Callable[..., Any], paced: PacedNBCE
) -> None:
    server = busy(ping_seconds=0.02, max_running=1)
    first = Reader(server)
    until(lambda: first.has("piece"))
    second = Reader(server)
    until(lambda: admission(server) == (1, 1))
    second.leave.set()
    until(lambda: admission(server) == (1, 0))
    assert paced.begun == 1


async def test_a_client_that_does_not_read_stalls_nobody(
    reading_nbce: Any, server_indexes: dict[str, Any]
) -> None:
    limits = Limits(max_running=2, max_stall=8.0)
    app = create_app(ServerSettings(limits=limits), Served(reading_nbce, server_indexes))
    stalled = Asgi(app, {**BODY, "stream": True}, reads=2)
    await stalled.has_sent(2)  # its head and one piece; what comes then, nobody takes
    other = Asgi(app, BODY)
    await asyncio.wait_for(other.task, 30)
    assert other.status == 200
    assert not stalled.task.done()
    # And it does not keep its turn for ever.
    await asyncio.wait({stalled.task}, timeout=60)
    assert stalled.task.done()
    assert app.state.policy.admission.running == 0


class Asgi:
    """A request without a network, whose client takes so many messages and no more."""

    def __init__(self, app: Any, body: dict[str, Any], reads: int | None = None) -> None:
        self.status = 0
        self._sent = 0
        self._reads = reads
        self._content = [json.dumps(body).encode()]
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/ask",
            "raw_path": b"/v1/ask",
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.task = asyncio.ensure_future(self._run(app, scope))

    async def _run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            if self._reads is None:  # of one that stalls it is what is meant to come
                raise

    async def _receive(self) -> dict[str, Any]:
        if self._content:
            return {"type": "http.request", "body": self._content.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self._sent += 1
        if self._reads is not None and self._sent > self._reads:
            await asyncio.Event().wait()

    async def has_sent(self, count: int) -> None:
        while self._sent < count:
            await asyncio.sleep(0.01)
