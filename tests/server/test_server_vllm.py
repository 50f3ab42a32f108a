"""`nbce-rag serve` over a model that vLLM serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_tools import FakeVllm, Fault

from nbce_rag import NBCE, load_model
from nbce_rag.server import Served, create_app


@pytest.fixture
def fake(tiny_loaded: Callable[..., Any], tiny_folder: Callable[..., Path]) -> Iterator[FakeVllm]:
    with FakeVllm(tiny_loaded("llama", chat=True), str(tiny_folder("llama", chat=True))) as server:
        yield server


@pytest.fixture
def served(fake: FakeVllm, server_indexes: dict[str, Any], run_app: Callable[..., Any]) -> Any:
    nbce = NBCE(load_model(fake.url, max_retries=1), max_tokens=6)
    return run_app(create_app(served=Served(nbce, server_indexes)))


CHAT = {"model": "nbce-codes", "messages": [{"role": "user", "content": "Who runs the ferry?"}]}


def test_answers_and_streams(served: Any) -> None:
    answer = served.post("/v1/chat/completions", CHAT).json()
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    streamed = served.post("/v1/chat/completions", {**CHAT, "stream": True}).text
    assert streamed.rstrip().endswith("[DONE]")


def test_what_it_cannot_do_is_a_wrong_request(served: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    reply = served.post("/v1/chat/completions", {**CHAT, "response_format": schema})
    assert reply.status_code == 400
    assert "json_schema" in reply.json()["error"]["message"]


def test_servers_that_are_away_are_a_matter_of_time_and_not_named(fake: FakeVllm, served: Any) -> None:
    fake.reading_faults += [Fault("status", 503)] * 2
    reply = served.post("/v1/chat/completions", CHAT)
    assert reply.status_code == 503
    assert "cannot answer now" in reply.json()["error"]["message"]
    assert fake.url not in reply.text
    assert served.post("/v1/chat/completions", CHAT).status_code == 200
