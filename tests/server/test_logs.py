"""Lines of the log, ids of requests, and what never stands in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from typing import Any

import pytest

from nbce_rag.server import Served, ServerSettings, create_app
from nbce_rag.server.logs import JsonFormatter, log_request, set_up_logs
from nbce_rag.server.record import CURRENT, RequestRecord
from nbce_rag.server.recording import Recording
from nbce_rag.server.request_ids import request_id

BODY = {"question": "What is the code of Zeta?", "index": "codes"}


class Lines(logging.Handler):
    """Collects what is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def lines() -> Any:
    """The lines of requests."""
    handler = Lines()
    logger = logging.getLogger("nbce_rag.server.requests")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def line_of(lines: list[dict[str, Any]], request_id: str) -> dict[str, Any]:
    """The line of a request, which is written when the client has its reply already."""
    for _ in range(500):
        if line := [line for line in lines if line["request_id"] == request_id]:
            [only] = line
            return only
        time.sleep(0.01)
    raise AssertionError(request_id)


def test_a_plain_short_id_is_kept_and_any_other_is_made_anew() -> None:
    assert request_id(b"abc-12.3:x_Y") == "abc-12.3:x_Y"
    for header in (None, b"", b"two words", b"line\nend", b"x" * 129, b"-x", "ü".encode(), b'"'):
        made = request_id(header)
        assert made.startswith("req_")
        assert len(made) == 36


def test_every_reply_has_its_id_and_errors_too(server: Any) -> None:
    for path in ("/livez", "/v1/models", "/nothing"):
        assert server.get(path).headers["x-request-id"].startswith("req_")
    reply = server.post("/v1/ask", BODY, headers={"x-request-id": "mine-1"})
    assert reply.headers.get_list("x-request-id") == ["mine-1"]
    assert reply.json()["request_id"] == "mine-1"
    assert server.post("/v1/ask", {}, headers={"x-request-id": "mine-2"}).headers["x-request-id"] == "mine-2"


def test_a_question_is_one_line_without_its_words(server: Any, lines: list[dict[str, Any]]) -> None:
    server.post("/v1/ask", BODY, headers={"x-request-id": "mine-3"})
    line = line_of(lines, "mine-3")
    assert line["endpoint"] == "/v1/ask"
    assert (line["method"], line["status"], line["key"]) == ("POST", 200, "nobody-else")
    assert line["indexes"] == ["codes"]
    assert line["rows"] >= 2
    assert line["prompt_tokens"] > line["generated_tokens"] > 0
    assert line["finish_reason"] in ("stop", "length")
    assert line["abstained"] is False
    assert line["seconds"] >= line["prefill"] > 0
    for word in ("Zeta", "apples", "seven"):
        assert word not in json.dumps(line)


def test_a_stream_is_one_line_too(server: Any, lines: list[dict[str, Any]]) -> None:
    server.post("/v1/ask", {**BODY, "stream": True}, headers={"x-request-id": "mine-4"})
    line = line_of(lines, "mine-4")
    assert line["generated_tokens"] > 0
    assert line["first_token"] > 0


def test_what_has_no_route_is_named_other(server: Any, lines: list[dict[str, Any]]) -> None:
    server.get("/v1/whatever-somebody-made-up", headers={"x-request-id": "mine-6"})
    line = line_of(lines, "mine-6")
    assert line["endpoint"] == "other"
    assert "made-up" not in json.dumps(line)
    server.get("/v1/models/nbce-codes", headers={"x-request-id": "mine-7"})
    assert line_of(lines, "mine-7")["endpoint"] == "/v1/models/{model}"


def test_contents_are_logged_only_where_they_are_wanted(lines: list[dict[str, Any]]) -> None:
    record = RequestRecord("r", question="What?", text="That.")
    log_request(record)
    assert "What?" not in json.dumps(lines[-1])
    log_request(record, contents=True)
    assert (lines[-1]["question"], lines[-1]["text"]) == ("What?", "That.")


def test_an_error_says_where_and_not_what() -> None:
    stream = io.StringIO()
    logger = logging.Logger("x")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    for contents in (False, True):
        handler.setFormatter(JsonFormatter(contents=contents))
        try:
            raise ValueError("The question 'my secret' is odd\nand has lines")
        except ValueError:
            logger.exception("A request failed")
    plain, whole = map(json.loads, stream.getvalue().splitlines())
    assert plain["error"] == "ValueError"
    assert "test_logs.py" in plain["trace"][0]
    assert "secret" not in json.dumps(plain)
    assert "secret" in whole["error_message"]


def test_lines_of_one_request_share_its_id() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("x")
    logger.addHandler(handler)
    token = CURRENT.set(RequestRecord("the-id"))
    logger.warning("within")
    CURRENT.reset(token)
    logger.warning("without")
    within, without = map(json.loads, stream.getvalue().splitlines())
    assert within["request_id"] == "the-id"
    assert "request_id" not in without


def test_an_error_that_nobody_foresaw_is_answered_with_its_id(
    reading_nbce: Any, server_indexes: dict[str, Any]
) -> None:
    app = create_app(ServerSettings(), Served(reading_nbce, server_indexes))

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("the secret")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"mine-5")]}
    asyncio.run(Recording(broken, app.state.policy)(scope, receive, send))
    assert sent[0]["status"] == 500
    assert dict(sent[0]["headers"])[b"x-request-id"] == b"mine-5"
    assert b"secret" not in sent[1]["body"]


def test_a_process_that_is_a_server_logs_json_alone() -> None:
    names = ("nbce_rag", "uvicorn", "uvicorn.access")
    before = {
        name: (list((one := logging.getLogger(name)).handlers), one.level, one.propagate) for name in names
    }
    stream = io.StringIO()
    try:
        set_up_logs(stream=stream)
        logging.getLogger("nbce_rag.server").info("hello %s", "there")
        logging.getLogger("uvicorn.error").warning("odd")
        logging.getLogger("uvicorn.access").info("GET /?question=secret")
    finally:
        for name, (handlers, level, propagate) in before.items():
            logger = logging.getLogger(name)
            logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["hello there", "odd"]
