"""Every route of the application: behind keys, closed to foreign ones, and for this server's names only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from nbce_rag.server import Served, ServerSettings, create_app
from nbce_rag.server.access import Caller
from nbce_rag.server.gate import HEALTH, OPEN, OPEN_FOLDERS, Gate
from nbce_rag.server.operation import Operation
from nbce_rag.server.signatures import Signer

QUESTION = "What is the code of Zeta?"
BODY = {"question": QUESTION, "index": "codes"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/ask": BODY,
    "/v1/compare": BODY,
    "/v1/attribute": {**BODY, "text": "seven"},
    "/v1/score": {**BODY, "choices": ["seven", "nine"]},
    "/v1/search": {"query": QUESTION, "index": "codes"},
    "/v1/chat/completions": {"model": "nbce-codes", "messages": [{"role": "user", "content": QUESTION}]},
    "/v1/responses": {"model": "nbce-codes", "input": QUESTION},
    "/v1/completions": {"model": "nbce-codes", "prompt": QUESTION},
    "/v1/vector_stores/{vector_store_id}/search": {"query": QUESTION},
    "/v1/vector_stores/{vector_store_id}/files": {"file_id": "file-0"},
    "/v1/vector_stores/{vector_store_id}/file_batches": {"file_ids": ["file-0"]},
    "/v1/embeddings": {"model": "nbce-codes", "input": "x"},
}
NAMES_NO_INDEX = {
    "/v1/models": "lists what the caller may read",
    "/v1/indexes": "lists what the caller may read",
    "/v1/vector_stores": "lists what the caller may read",
    "/v1/files": "has the caller's own files",
    "/v1/requests": "brings its passages with it",
    "/v1/requests/{what}": "brings its passages with it",
    "/v1/engine": "says what the model is",
    "/v1/engine/tokens": "counts tokens of what comes with it",
    "/mcp": "its tools have a test of their own",
    "/docs/oauth2-redirect": "a page of FastAPI's",
}
PARAMETERS = {
    "index": "codes",
    "vector_store_id": "codes",
    "model": "nbce-codes",
    "id": "zeta",
    "passage_id": "zeta",
    "passage": "zeta",
    "file": "file-0",
    "file_id": "file-0",
    "batch": "vsfb_0",
    "batch_id": "vsfb_0",
    "version": "0",
    "path": "app.js",
    "what": "score",
}
SECRETS = ("codes", "seven blue apples", "Zeta")


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}-key"}


def routes(app: Any) -> Iterator[tuple[str, str, str]]:
    """(method, pattern, path) of all that the application has; the index in each is `codes`."""
    for context in iter_route_contexts(app.routes):
        pattern = context.path or ""
        path = re.sub(r"{(\w+)(:\w+)?}", lambda match: PARAMETERS[match[1]], pattern)
        methods = getattr(context, "methods", None) or {"GET", "POST"}
        for method in sorted(set(methods) - {"HEAD", "OPTIONS"}):
            yield method, pattern, path


def is_open(path: str) -> bool:
    return path in HEALTH | OPEN or path.startswith(OPEN_FOLDERS)


def ask(server: Any, method: str, pattern: str, path: str, **options: Any) -> httpx.Response:
    body = BODIES.get(pattern) if method == "POST" else None
    return httpx.request(method, server.url + path, json=body, timeout=60, **options)


def test_the_walk_sees_the_routes(keyed_server: Any) -> None:
    seen = {pattern for _, pattern, _ in routes(keyed_server.app)}
    assert {"/livez", "/readyz", "/v1/ask", "/v1/models", "/v1/indexes", "/metrics"} <= seen


def test_no_route_answers_without_a_key_but_those_named_open(keyed_server: Any) -> None:
    for method, pattern, path in routes(keyed_server.app):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
            reply = ask(keyed_server, method, pattern, path, headers=headers)
            if is_open(path):
                assert reply.status_code in (200, 404, 405), (method, pattern)
                continue
            assert reply.status_code == 401, (method, pattern, headers)
            assert reply.headers["www-authenticate"] == "Bearer"
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
            assert not any(secret in reply.text for secret in SECRETS)


def test_what_is_not_there_wants_a_key_too(keyed_server: Any) -> None:
    assert keyed_server.get("/v1/nothing").status_code == 401
    assert keyed_server.get("/v1/nothing", headers=key("chief")).status_code == 404


def test_to_a_foreign_key_an_index_is_not_there(keyed_server: Any) -> None:
    for method, pattern, path in routes(keyed_server.app):
        if is_open(path):
            continue
        reply = ask(keyed_server, method, pattern, path, headers=key("stranger"))
        text = reply.text.replace(path, "").replace("'codes'", "").replace("'nbce-codes'", "")
        assert not any(secret in text for secret in SECRETS), (method, pattern)
        if pattern not in NAMES_NO_INDEX:
            assert reply.status_code == 404, (method, pattern, reply.text)


def test_a_foreign_index_and_none_look_the_same(keyed_server: Any) -> None:
    replies = [
        keyed_server.post("/v1/ask", {"question": QUESTION, "index": name}, headers=key("stranger"))
        for name in ("codes", "sedoc")
    ]
    first, second = (reply.json()["error"] for reply in replies)
    assert first == {**second, "message": second["message"].replace("sedoc", "codes")}


def test_its_own_index_is_there(keyed_server: Any) -> None:
    body = {"question": "What is the code of Theta?"}
    reply = keyed_server.post("/v1/ask", body, headers={"x-api-key": "stranger-key"})
    assert reply.status_code == 200
    assert [
        model["id"] for model in keyed_server.get("/v1/models", headers=key("stranger")).json()["data"]
    ] == [
        "nbce",
        "nbce-laws",
    ]


def test_a_key_caps_the_tokens_of_answers(keyed_server: Any) -> None:
    body = {"question": "What is the code of Theta?", "index": "laws", "options": {"max_tokens": 20}}
    report = keyed_server.post("/v1/ask", body, headers=key("stranger")).json()
    assert report["usage"]["generated_tokens"] <= 3
    assert any("max_tokens=20 was lowered to 3" in warning for warning in report["warnings"])


def test_a_key_may_ask_so_often(keyed_server: Any) -> None:
    body = {"query": "Theta", "question": "Theta?", "index": "none"}
    statuses = [keyed_server.post("/v1/ask", body, headers=key("hasty")).status_code for _ in range(3)]
    assert statuses[2] == 429
    reply = keyed_server.post("/v1/ask", body, headers=key("hasty"))
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(reply.headers["retry-after"]) <= 30
    assert keyed_server.get("/v1/models", headers=key("hasty")).status_code == 200  # looking is free


def test_metrics_are_for_admins(keyed_server: Any) -> None:
    assert keyed_server.get("/metrics", headers=key("stranger")).status_code == 404
    assert keyed_server.get("/metrics", headers=key("chief")).status_code == 200


def test_health_is_open_under_any_name(server: Any, keyed_server: Any) -> None:
    for one in (server, keyed_server):
        for path in ("/livez", "/readyz", "/health"):
            reply = one.get(path, headers={"host": "rebound.example"})
            assert reply.status_code == 200
            assert reply.json()["status"] in ("alive", "ready")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8000", "192.168.7.7"])
def test_without_keys_own_names_and_numbers_are_answered(server: Any, host: str) -> None:
    assert server.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["rebound.example", "localhost.example:8000", "127.0.0.1.example", ""])
def test_without_keys_other_names_are_not(server: Any, host: str) -> None:
    reply = server.get("/v1/models", headers={"host": host})
    assert reply.status_code == 421
    assert reply.json()["error"]["code"] == "unknown_host"


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://localhost:1"])
def test_without_keys_other_pages_may_not_ask(server: Any, origin: str) -> None:
    reply = server.post("/v1/ask", BODY, headers={"origin": origin})
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers
    assert server.post("/v1/ask", BODY, headers={"origin": server.url}).status_code == 200


@pytest.fixture
def with_settings(
    reading_nbce: Any, server_indexes: dict[str, Any], run_app: Callable[..., Any]
) -> Callable[..., Any]:
    """`with_settings(max_rows=2, ...)`: a server of these settings."""

    def start(**settings: Any) -> Any:
        return run_app(create_app(ServerSettings(**settings), Served(reading_nbce, server_indexes)))

    return start


def test_names_and_origins_that_are_allowed_are(with_settings: Callable[..., Any]) -> None:
    server = with_settings(
        allowed_hosts=("my.example",),
        public_url="https://rag.example/x",
        cors_origins=("https://page.example",),
    )
    for host in ("my.example", "rag.example:443"):
        assert server.get("/v1/models", headers={"host": host}).status_code == 200
    asks = {"origin": "https://page.example", "access-control-request-method": "POST"}
    preflight = httpx.options(server.url + "/v1/ask", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-credentials" not in preflight.headers
    reply = server.post("/v1/ask", BODY, headers={"origin": "https://page.example"})
    assert reply.headers["access-control-allow-origin"] == "https://page.example"
    other = server.post("/v1/ask", BODY, headers={"origin": "https://other.example"})
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers


def test_what_is_too_much_is_refused_by_name(with_settings: Callable[..., Any]) -> None:
    from nbce_rag.server.limits import Limits

    limits = Limits(max_body_bytes=2000, max_rows=3, max_documents=2, max_document_characters=100)
    server = with_settings(limits=limits)
    for body, status, word in (
        ({**BODY, "k": 4}, 400, "max_rows"),
        ({"question": "x?", "documents": ["a", "b", "c"]}, 400, "max_documents"),
        ({"question": "x?", "documents": ["a" * 101]}, 400, "max_document_characters"),
        ({**BODY, "question": "x" * 101}, 400, "max_document_characters"),
        ({**BODY, "question": "x" * 2000}, 413, ""),
    ):
        reply = server.post("/v1/ask", body)
        assert reply.status_code == status, reply.text
        assert word in reply.json()["error"]["message"]
    assert server.post("/v1/ask", {**BODY, "k": 2}).status_code == 200

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    reply = httpx.post(server.url + "/v1/ask", content=chunks())  # without a length
    assert reply.status_code == 413
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_an_address_that_is_signed_opens_for_a_while() -> None:
    now = [1000.0]
    signer = Signer("secret", 60.0, lambda: now[0])
    path, _, query = signer.sign("/source/codes/zeta%20x").partition("?")
    assert signer.opens(path, query)
    assert Signer("secret", 60.0, lambda: now[0]).opens(path, query)
    assert not Signer(None, 60.0, lambda: now[0]).opens(path, query)
    assert not signer.opens("/source/codes/omega", query)
    assert not signer.opens(path, query.replace("exp=1060", "exp=9999"))
    assert not signer.opens(path, "exp=1060")
    assert not signer.opens(path, "exp=x&sig=y")
    assert not signer.opens(path, "")
    now[0] = 1060.0
    assert not signer.opens(path, query)


@pytest.mark.parametrize("root", ["", "/nbce"])
def test_a_signed_address_is_for_its_index_alone(root: str) -> None:
    operation = Operation(ServerSettings(api_key="secret"))
    callers: list[Caller] = []
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        callers.append(scope["state"]["caller"])

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def get(path: str, query: str) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": unquote(root + path),
            "raw_path": (root + path).encode(),
            "root_path": root,
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost")],
        }
        await Gate(app, operation)(scope, receive, send)

    path, _, query = operation.signer.sign("/source/old%20maps/a%2Fb").partition("?")
    asyncio.run(get(path, query))
    [caller] = callers
    assert (caller.indexes, caller.write, caller.admin) == (frozenset({"old maps"}), False, False)
    asyncio.run(get("/source/old%20maps/other", query))
    asyncio.run(get("/v1/models", query))
    asyncio.run(get("/source/law/a%2Fb", query))
    assert statuses == [401, 401, 401]
    assert len(callers) == 1
