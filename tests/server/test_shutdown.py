"""How a server ends: nobody new, answers may end, then they are told; and what systemd hears of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from paced import Ending, PacedNBCE, until

from nbce_rag.errors import InputError
from nbce_rag.server import Served, ServerSettings, create_app
from nbce_rag.server.drain import Drain
from nbce_rag.server.process import check_single, listening_socket
from nbce_rag.server.systemd import notify
from nbce_rag.server.wire.errors import ServerError

BODY = {"question": "What is the code of Zeta?", "index": "codes", "stream": True}


@pytest.fixture
def paced(reading_nbce: Any) -> Iterator[PacedNBCE]:
    nbce = PacedNBCE(reading_nbce)
    yield nbce
    nbce.go.set()


@pytest.fixture
def ending(paced: PacedNBCE, server_indexes: dict[str, Any]) -> Callable[..., Ending]:
    """`ending(shutdown_timeout=...)`: a server that is to end."""

    def start(**settings: Any) -> Ending:
        return Ending(create_app(ServerSettings(**settings), Served(paced, server_indexes)))

    return start


class Stream:
    """A stream that is read in a thread; `lines` is what has come."""

    def __init__(self, url: str) -> None:
        self.lines: list[str] = []
        self._url = url
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with httpx.stream("POST", self._url + "/v1/ask", json=BODY, timeout=60) as reply:
            self.lines.extend(line for line in reply.iter_lines() if line)

    @property
    def events(self) -> list[str]:
        return [line[7:] for line in self.lines if line.startswith("event: ")]


def test_running_answers_end_and_nobody_new_is_let_in(
    ending: Callable[..., Ending], paced: PacedNBCE
) -> None:
    server = ending()
    assert server.get("/readyz").status_code == 200
    stream = Stream(server.url)
    until(lambda: paced.begun)
    server.signal(signal.SIGTERM)
    ready = server.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert server.get("/livez").status_code == 200
    reply = httpx.post(server.url + "/v1/ask", json=BODY, timeout=60)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "draining"
    assert int(reply.headers["retry-after"]) >= 1
    assert server.thread.is_alive()
    paced.go.set()
    assert server.is_over()
    stream.thread.join(10)
    assert stream.events[-1] == "answer"
    assert (paced.ended, paced.closed) == (1, 0)
    assert server.codes == []


def test_what_takes_too_long_is_told_so_and_let_go(ending: Callable[..., Ending], paced: PacedNBCE) -> None:
    server = ending(shutdown_timeout=0.2)
    stream = Stream(server.url)
    until(lambda: paced.begun)
    server.signal(signal.SIGTERM)
    assert server.is_over()
    stream.thread.join(10)
    assert stream.events[0] == "retrieved"
    assert stream.events[-1] == "error"
    error = json.loads(stream.lines[-1].removeprefix("data: "))["error"]
    assert error["code"] == "shut_down"
    until(lambda: paced.closed == 1)  # its rows are free


def test_an_idle_server_ends_at_once(ending: Callable[..., Ending]) -> None:
    server = ending(shutdown_timeout=1000)
    server.get("/livez")
    server.signal(signal.SIGINT)
    assert server.is_over()
    with pytest.raises(httpx.ConnectError):
        server.get("/livez")


def test_the_second_interrupt_ends_the_process(ending: Callable[..., Ending], paced: PacedNBCE) -> None:
    server = ending(shutdown_timeout=1000)
    Stream(server.url)
    until(lambda: paced.begun)
    server.signal(signal.SIGINT)
    assert server.codes == []
    server.signal(signal.SIGTERM)  # a supervisor may say it too
    assert server.codes == []
    server.signal(signal.SIGINT)
    assert server.codes == [130]


def test_nobody_waits_for_a_model_that_is_being_loaded() -> None:
    app = create_app(ServerSettings())
    app.state.opening.start = lambda: None  # and never comes to its end
    server = Ending(app)
    ready = server.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "loading")
    assert server.get("/livez").status_code == 200
    reply = server.get("/v1/models")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "loading"
    server.signal(signal.SIGTERM)
    assert server.is_over()
    assert server.codes == [0]


def test_a_server_that_has_nothing_to_serve_says_why_and_ends(tmp_path: Path) -> None:
    app = create_app(ServerSettings(indexes={"none": tmp_path / "none"}))
    server = Ending(app)
    assert server.is_over()
    assert "none" in str(app.state.opening.error)


async def test_work_that_is_done_when_the_end_comes_is_given() -> None:
    drain = Drain()

    async def work() -> str:
        drain.end()
        return "done"

    assert await drain.watch(work()) == "done"
    with pytest.raises(ServerError) as caught:
        await drain.watch(_for_ever())
    assert caught.value.status == 503


async def test_an_error_of_the_work_is_the_error() -> None:
    async def work() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await Drain().watch(work())


async def _for_ever() -> None:
    import asyncio

    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("workers", "environ", "place"),
    [(2, {}, "--workers=2"), (None, {"WEB_CONCURRENCY": "4"}, "WEB_CONCURRENCY=4"), (0, {}, "--workers=0")],
)
def test_several_processes_are_refused_and_why(
    workers: int | None, environ: dict[str, str], place: str
) -> None:
    with pytest.raises(InputError, match=f"{place}: one process holds the model"):
        check_single(workers, environ)


def test_one_process_is_not() -> None:
    check_single(None, {})
    check_single(1, {"WEB_CONCURRENCY": "4"})
    check_single(None, {"WEB_CONCURRENCY": "1"})


def test_a_port_that_is_taken_is_named() -> None:
    with listening_socket("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            listening_socket("127.0.0.1", port)
    with pytest.raises(InputError, match="no-such-host"):
        listening_socket("no-such-host.invalid", 0)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no sockets of this kind here")
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5)
        path = os.path.relpath(tmp_path / "notify") if len(str(tmp_path)) > 80 else str(tmp_path / "notify")
        channel.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1\nSTATUS=Questions are answered.")
        assert channel.recv(200) == b"READY=1\nSTATUS=Questions are answered."
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:1:2")
    assert not notify("READY=1")
