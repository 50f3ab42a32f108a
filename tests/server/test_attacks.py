"""What somebody may send who means ill, or whose client is broken: none of it is a fault of the server."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from nbce_rag.errors import InputError
from nbce_rag.server.access import NOBODY_ELSE
from nbce_rag.server.hosts import HostCheck
from nbce_rag.server.idle import IdleConnections
from nbce_rag.server.jobs import Jobs
from nbce_rag.server.limits import Limits
from nbce_rag.server.settings import ServerSettings
from nbce_rag.server.sse import json_text
from nbce_rag.server.stored_file import StoredFile
from nbce_rag.server.uploads import Uploads
from nbce_rag.server.wire.errors import ServerError

ASK: dict[str, Any] = {"question": "What is the code of Zeta?", "index": "codes"}
REQUEST: dict[str, Any] = {"version": 1, "request": {"question": "Who?", "passages": [{"text": "Ada."}]}}
CHIEF = {"authorization": "Bearer chief-key"}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "nbce-codes", "messages": [{"role": "user", "content": ASK["question"]}], **fields}


def schema_of(schema: Any) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def part_of(part: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": [part, {"type": "text", "text": "Who?"}]}])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/ask", {**ASK, "options": {"regex": "\ud800"}}),
        ("/v1/ask", {**ASK, "options": {"chat_template_kwargs": {"self": 1}}}),
        ("/v1/ask", {**ASK, "options": {"chat_template_kwargs": {"conversations": 1}}}),
        ("/v1/ask", {**ASK, "options": {"stop": ["x"] * 1001}}),
        ("/v1/ask", {**ASK, "options": {"bad_words": ["x"] * 1001}}),
        ("/v1/attribute", {**ASK, "text": "x" * 200_001}),
        ("/v1/score", {**ASK, "choices": ["x" * 200_001]}),
        ("/v1/embeddings", {"model": "nbce-codes", "input": ["x" * 200_001]}),
        ("/v1/engine/tokens", {"text": "x" * 200_001}),
        ("/v1/requests/attribute", {**REQUEST, "text": "x" * 200_001}),
        ("/v1/requests/score", {**REQUEST, "choices": ["x" * 200_001]}),
        ("/v1/requests/score", {**REQUEST, "choices": ["x"] * 257}),
        ("/v1/chat/completions", schema_of({"const": "\ud800"})),
        ("/v1/chat/completions", schema_of({"type": "integer", "minimum": 10**400})),
        ("/v1/chat/completions", part_of({"type": "search_result", "content": 5})),
        ("/v1/chat/completions", part_of({"type": "search_result", "content": [5, None]})),
        (
            "/v1/chat/completions",
            part_of({"type": "document", "source": {"type": "content", "content": {"a": 1}}}),
        ),
        ("/v1/chat/completions", chat(messages=chat()["messages"] * 1001)),
    ],
)
def test_what_cannot_be_used_is_refused_and_no_fault(server: Any, path: str, body: dict[str, Any]) -> None:
    reply = server.post(path, None, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text[:300]
    assert reply.json()["error"]["message"]


def test_documents_of_any_name_are_read_and_told_apart(server: Any) -> None:
    documents = [{"id": name, "text": f"The code of Zeta is {name!r}."} for name in ("\ud800", "\ud801")]
    body = json.dumps({"question": ASK["question"], "documents": documents})
    reply = server.post("/v1/ask", None, content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 200
    urls = [passage["url"] for passage in reply.json()["passages"]]
    assert len(set(urls)) == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/engine/tokens", {"text": "a \ud800"}),
        ("/v1/embeddings", {"model": "nbce-codes", "input": "\ud800 a"}),
    ],
)
def test_half_a_surrogate_pair_is_read_as_the_sign_for_what_is_unknown(
    server: Any, path: str, body: dict[str, Any]
) -> None:
    name = next(name for name, value in body.items() if "\ud800" in value)
    mended = {**body, name: body[name].replace("\ud800", "\ufffd")}
    reply = server.post(path, None, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code == 200
    assert reply.json() == server.post(path, mended).json()


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_that_json_lacks_come_back_as_null(server: Any, stream: bool) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "x": float("nan")}}
    body = {"model": "nbce-codes", "input": ASK["question"], "tools": [tool], "stream": stream}
    raw = json.dumps(body)
    reply = server.post("/v1/responses", None, content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 200
    assert '"x":null' in reply.text
    assert '"error"' not in reply.text.replace('"error":null', "")


def test_json_is_json_whatever_stands_in_it() -> None:
    value = {"a": [float("inf"), (1, float("nan"))], "b": "\ud800", "c": 2.5}
    assert json.loads(json_text(value)) == {"a": [None, [1, None]], "b": "\ud800", "c": 2.5}


@pytest.mark.parametrize("attributes", ['{"a": NaN}', '{"a": "\\ud800"}', '{"\\ud800": 1}'])
def test_attributes_that_cannot_be_kept_are_refused_at_once(keyed_server: Any, attributes: str) -> None:
    stored = keyed_server.post("/v1/files", files={"file": ("a.txt", b"Some words.")}, headers=CHIEF)
    raw = f'{{"file_id": "{stored.json()["id"]}", "attributes": {attributes}}}'
    head = {**CHIEF, "content-type": "application/json"}
    reply = keyed_server.post("/v1/vector_stores/laws/files", None, content=raw, headers=head)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "attributes")
    assert keyed_server.get("/v1/vector_stores/laws/files", headers=CHIEF).status_code == 200


def test_an_upload_of_a_key_that_may_not_write_is_not_read(server: Any) -> None:
    head = f"POST /v1/files HTTP/1.1\r\nHost: {server.url[7:]}\r\nContent-Length: 9000000\r\n\r\n"
    assert b" 403 " in _raw(server.url, head.encode()).partition(b"\r\n")[0]  # nothing of the 9 MB was sent


def test_a_length_that_is_said_twice_ends_the_connection(server: Any) -> None:
    head = (
        f"POST /v1/ask HTTP/1.1\r\nHost: {server.url[7:]}\r\nContent-Length: 5\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    reply = _raw(server.url, head.encode())
    assert b" 400 " in reply.partition(b"\r\n")[0]
    assert b"alive" not in reply


def test_a_body_that_stands_still_is_let_go(reading_nbce: Any, server_indexes: Any, run_app: Any) -> None:
    from nbce_rag.server import Served, create_app

    settings = ServerSettings(limits=Limits(max_stall=0.3))
    running = run_app(create_app(settings, Served(reading_nbce, server_indexes)))
    for length in ("Content-Length: 100", "Transfer-Encoding: chunked"):
        head = (
            f"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
        )
        reply = _raw(running.url, head.encode())
        assert b" 408 " in reply.partition(b"\r\n")[0], reply
        assert b"max_stall" in reply
    assert running.app.state.policy.under_way == 0


@pytest.mark.parametrize("origin", ["http://[", "http://a]b", "null", "file://", ""])
def test_an_origin_that_is_none_may_not_ask(origin: str) -> None:
    check = HostCheck(ServerSettings())
    for host in ("localhost", "", None):
        with pytest.raises(ServerError) as refused:
            check.check_origin(origin, host)
        assert refused.value.status == 403


@pytest.mark.parametrize("fields", [{"api_key": ""}, {"api_key": " "}, {"link_secret": ""}])
def test_a_secret_that_is_none_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(fields))} must have"):
        ServerSettings(host="0.0.0.0", no_auth=True, **fields)  # type: ignore[arg-type]


def test_a_file_that_is_cancelled_can_be_asked_for_again(tmp_path: Path, server_indexes: Any) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Some words.", encoding="utf-8")
    file = StoredFile("file-a", "a.txt", "chief", 11, 0, "assistants")
    jobs = Jobs(Limits())
    try:
        [first] = jobs.begin("laws", server_indexes["laws"], [(file, path)], {})
        jobs.cancel(first)
        [second] = jobs.begin("laws", server_indexes["laws"], [(file, path)], {})
        assert not second.is_cancelled
    finally:
        jobs.close()
        server_indexes["laws"].delete(source=path)


def test_an_upload_that_no_index_takes_now_is_not_kept(
    reading_nbce: Any, server_indexes: Any, run_app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbce_rag.server import Served, create_app

    settings = ServerSettings(allow_write=True, files=tmp_path / "files")
    running = run_app(create_app(settings, Served(reading_nbce, server_indexes)))

    def full(*args: Any) -> None:
        raise ServerError(429, "full", code="jobs_full")

    monkeypatch.setattr(running.app.state.policy.jobs, "begin", full)
    files = {"file": ("a.txt", io.BytesIO(b"Some words."))}
    assert running.post("/v1/files", files=files, data={"index": "laws"}).status_code == 429
    assert running.get("/v1/files").json()["data"] == []


@pytest.mark.skipif(os.name != "posix", reason="other systems have other rights")
def test_an_uploaded_file_is_for_nobody_else_on_the_machine(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "files", Limits())
    file = uploads.add(NOBODY_ELSE, "a.txt", io.BytesIO(b"Some words."), "assistants")
    assert stat.S_IMODE(uploads.path(file).parent.stat().st_mode) == 0o700


def test_embeddings_wait_for_their_turn(
    reading_nbce: Any, server_indexes: Any, run_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbce_rag.server import Served, create_app

    settings = ServerSettings(limits=Limits(max_running=1, max_waiting=0))
    running = run_app(create_app(settings, Served(reading_nbce, server_indexes)))
    admission = running.app.state.policy.admission
    monkeypatch.setattr(admission, "_running", 1)
    body = {"model": "nbce-codes", "input": ["The code."]}
    assert running.post("/v1/embeddings", body).status_code == 429
    monkeypatch.setattr(admission, "_running", 0)
    assert running.post("/v1/embeddings", body).status_code == 200
    assert (admission.running, admission.waiting) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_search_whose_client_left_keeps_its_turn_until_it_is_over(
    reading_nbce: Any, server_indexes: Any, run_app: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    from nbce_rag.server import Served, asking, create_app, retrieval

    begun, may_end, real = threading.Event(), threading.Event(), retrieval.retrieve

    def slow(*args: Any) -> Any:
        begun.set()
        assert may_end.wait(20)
        return real(*args)

    monkeypatch.setattr(asking, "retrieve", slow)
    running = run_app(create_app(ServerSettings(), Served(reading_nbce, server_indexes)))
    admission = running.app.state.policy.admission
    with pytest.raises(httpx.TimeoutException):
        httpx.post(
            f"{running.url}/v1/ask", json={**ASK, "stream": stream}, timeout=httpx.Timeout(5, read=0.5)
        )
    assert begun.is_set()
    time.sleep(0.3)
    assert admission.running == 1  # else whoever asks and leaves has more searches than turns
    may_end.set()
    end = time.monotonic() + 10
    while admission.running and time.monotonic() < end:
        time.sleep(0.02)
    assert admission.running == 0


class _Connection:
    """As much of uvicorn's protocol as is looked at."""

    def __init__(self) -> None:
        self.cycle: Any = None
        self.transport = self
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def test_connections_without_a_whole_request_are_let_go() -> None:
    now = [0.0]
    idle = IdleConnections(10, clock=lambda: now[0])
    silent, busy, lively, done = connections = [_Connection() for _ in range(4)]
    busy.cycle = SimpleNamespace(response_complete=False)
    done.cycle = SimpleNamespace(response_complete=True)
    for now[0] in range(0, 30, 3):
        lively.cycle = SimpleNamespace(response_complete=True)  # a request since the last look
        idle.sweep(connections)
        assert silent.is_closed == (now[0] >= 10)
    assert (busy.is_closed, lively.is_closed, done.is_closed) == (False, False, True)


def _raw(url: str, data: bytes) -> bytes:
    """What a server sends until it closes, or for two seconds."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=2) as sock:
        sock.sendall(data)
        reply = b""
        try:
            while chunk := sock.recv(65536):
                reply += chunk
        except TimeoutError:
            pass
    return reply
