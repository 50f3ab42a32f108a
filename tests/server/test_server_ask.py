"""`/v1/ask` and what there is to ask, on a server that runs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest

from nbce_rag import report_schema

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

ZETA = {"question": "What is the code of Zeta?", "index": "codes"}


def events_of(server: Any, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, data) of each event of a stream."""
    events, name = [], ""
    with httpx.stream("POST", server.url + path, json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                events.append((name, value if value == "[DONE]" else json.loads(value)))
    return events


def timeless(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what differs from call to call."""
    usage = {name: value for name, value in report["usage"].items() if name != "cached_tokens"}
    return {**report, "timings": None, "request_id": None, "usage": usage}


def test_it_lives_and_says_what_there_is(server: Any) -> None:
    assert server.get("/livez").json() == {"status": "alive"}
    models = [model["id"] for model in server.get("/v1/models").json()["data"]]
    assert models == ["nbce", "nbce-codes", "nbce-laws"]
    assert server.get("/v1/models/nbce-laws").json()["object"] == "model"
    indexes = server.get("/v1/indexes").json()["data"]
    assert [(index["id"], index["passages"], index["sources"]) for index in indexes] == [
        ("codes", 3, 3),
        ("laws", 1, 1),
    ]


def test_an_answer_is_its_report(server: Any) -> None:
    reply = server.post("/v1/ask", ZETA)
    assert reply.status_code == 200, reply.text
    report = reply.json()
    assert report["answer"] == "seven blue apples"
    assert report["cited_ids"] == ["zeta"]
    assert report["query"] == ZETA["question"]
    assert not report["abstained"]
    assert report["request_id"].startswith("req_")
    own = {name: value for name, value in report.items() if name in report_schema()["properties"]}
    jsonschema.validate(own, report_schema())
    assert set(report) - set(own) == {"request_id", "query", "abstained", "passages"}
    urls = {one["id"]: one["url"] for one in report["passages"]}
    assert urls["zeta"] == f"{server.url}/source/codes/zeta"
    assert urls["omega"] == "https://example.org/omega"


def test_a_stream_ends_in_the_same_report(server: Any) -> None:
    events = events_of(server, "/v1/ask", {**ZETA, "stream": True})
    names = [name for name, _ in events]
    assert names[0] == "retrieved"
    assert names[-1] == "answer"
    assert set(names[1:-1]) == {"piece"}
    retrieved, *pieces, answer = (data for _, data in events)
    assert [passage["id"] for passage in retrieved["passages"]] == [one["id"] for one in answer["passages"]]
    assert "".join(piece["text"] for piece in pieces) == answer["answer"]
    cited = [(one["start"], one["end"]) for piece in pieces for one in piece["citations"]]
    assert cited == [(one["start"], one["end"]) for one in answer["citations"]] != []
    assert "".join(token["text"] for piece in pieces for token in piece["tokens"]) == answer["answer"]
    assert timeless(answer) == timeless(server.post("/v1/ask", ZETA).json())
