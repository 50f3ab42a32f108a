"""Clients that leave, prompts that take long, and a server that is not ready."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from watched_model import watched

from nbce_rag.server import Served, ServerSettings, create_app
from nbce_rag.server.served import load_of

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

CHAT: dict[str, Any] = {"model": "nbce", "messages": [{"role": "user", "content": "Tell me of the ferry."}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "max_tokens": 400},
    "/v1/responses": {"model": "nbce", "input": "Tell me of the ferry.", "max_output_tokens": 400},
    "/v1/completions": {"model": "nbce", "prompt": "The ferry", "max_tokens": 400},
    "/v1/ask": {
        "question": "Who runs the ferry?",
        "documents": ["Ada runs it.", "It is old."],
        "options": {"max_tokens": 300},
    },
}


@pytest.fixture(scope="module")
def slow(tiny_loaded: Callable[..., Any], run_app: Callable[..., Any]) -> Any:
    """A server whose model never ends and takes 20 ms a step: (server, model, what is served)."""
    from nbce_rag.engine.nbce import NBCE

    nbce, model = watched(NBCE(tiny_loaded("llama", chat=True), bad_words=["</s>"]))
    model.pause = 0.02
    served = Served(nbce)
    server = run_app(create_app(ServerSettings(ping_seconds=0.2), served))
    return server, model, served


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_rows(slow: Any, path: str, stream: bool) -> None:
    server, model, served = slow
    before = len(model.steps)

    host, _, port = server.url.removeprefix("http://").partition(":")
    body = json.dumps({**BODIES[path], "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: len(model.steps) > before + 2)
    wait_for(lambda: load_of(served).running == 0)
    settled = len(model.steps)
    time.sleep(0.2)
    assert len(model.steps) == settled < before + 400


def test_a_stream_pings_while_nothing_comes(slow: Any) -> None:
    server, model, served = slow
    gate = threading.Event()
    model.before_step = lambda: gate.wait(20)
    try:
        with httpx.stream(
            "POST",
            server.url + "/v1/chat/completions",
            json={**CHAT, "max_tokens": 3, "stream": True},
            timeout=20,
        ) as reply:
            assert reply.headers["x-accel-buffering"] == "no"
            seen = []
            for line in reply.iter_lines():
                seen.append(line)
                if seen.count(": ping") == 2:
                    gate.set()
    finally:
        gate.set()
        model.before_step = None
    assert seen.count(": ping") >= 2
    assert "data: [DONE]" in seen
    wait_for(lambda: load_of(served).running == 0)


def test_it_listens_before_it_is_ready(run_app: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def fail(settings: ServerSettings) -> Served:
        gate.wait(20)
        raise RuntimeError("no model")

    monkeypatch.setattr(Served, "open", staticmethod(fail))
    server = run_app(create_app(ServerSettings()))
    try:
        assert server.get("/livez").status_code == 200
        loading = server.post("/v1/chat/completions", CHAT)
        assert (loading.status_code, loading.json()["error"]["code"]) == (503, "loading")
        assert int(loading.headers["retry-after"]) > 0
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError):  # which it asks again after, unless told not to
            client.models.list()
    finally:
        gate.set()
    wait_for(lambda: server.app.state.opening.is_done)
    assert server.get("/v1/models").json()["error"]["code"] == "unavailable"
    assert server.get("/livez").status_code == 200
