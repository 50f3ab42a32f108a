"""`/v1/ask` and what there is to ask, on a server that runs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest

from nbce_rag import Passage, Rag, Request, report_schema

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
    assert [one for piece in pieces for one in piece["unsupported"]] == answer["unsupported"]
    assert "".join(token["text"] for piece in pieces for token in piece["tokens"]) == answer["answer"]
    assert timeless(answer) == timeless(server.post("/v1/ask", ZETA).json())


def test_it_answers_as_the_library_does(
    server: Any, reading_nbce: Any, server_indexes: dict[str, Any]
) -> None:
    rag = Rag(server_indexes["codes"], reading_nbce)
    for question in (ZETA["question"], "What is the code of Zeta?\nWhat is the code of Omega?"):
        wanted = rag.ask(question).to_dict()
        chat = {"model": "nbce-codes", "messages": [{"role": "user", "content": question}]}
        reply = server.post("/v1/chat/completions", chat).json()["choices"][0]["message"]
        report = server.post("/v1/ask", {"question": question, "index": "codes"}).json()
        assert reply["content"] == report["answer"] == wanted["answer"]
        for told in (report, reply["nbce"]):
            own = {name: told[name] for name in wanted}
            assert timeless(own) == timeless({**wanted, "request_id": None})
        streamed = events_of(server, "/v1/ask", {"question": question, "index": "codes", "stream": True})
        retrieved = [passage["id"] for passage in streamed[0][1]["passages"]]
        assert retrieved == [context["id"] for context in wanted["contexts"]]
        assert all(token["weights"] for _, data in streamed[1:-1] for token in data["tokens"])
        cited = [one["supports"][0]["passage_id"] for _, data in streamed[1:-1] for one in data["citations"]]
        assert cited == [one["passage_id"] for one in wanted["citations"]] != []


def messages_in(request: Request) -> list[str]:
    assert request.prompt is not None
    return [message["content"] for message in request.prompt.messages or ()]


def test_a_conversation_keeps_the_words_of_the_engine(reading_nbce: Any) -> None:
    from nbce_rag.server.ask import Ask, Message
    from nbce_rag.server.wording import request_of

    documents = (Passage("The code of Zeta is 7.", id="z"),)
    talk = (
        Message("user", ("Hello.",)),
        Message("assistant", ("Hello!",)),
        Message("user", (ZETA["question"],)),
    )
    request, _ = request_of(
        reading_nbce, Ask(messages=talk, documents=documents), documents, is_retrieved=True
    )
    assert request.question == ZETA["question"]
    assert request.prompt is not None
    assert request.prompt.refusal == reading_nbce.prompt.refusal
    *before, last = messages_in(request)
    assert last.startswith(reading_nbce.prompt.prefix)
    assert before == ["Hello.", "Hello!"]
    as_it_is = Ask(messages=talk, documents=documents, wording="messages")
    request, _ = request_of(reading_nbce, as_it_is, documents, is_retrieved=True)
    last = messages_in(request)[-1]
    assert last.endswith(ZETA["question"])
    assert reading_nbce.prompt.prefix not in last
    alone, _ = request_of(
        reading_nbce, Ask(messages=talk[-1:], documents=documents), documents, is_retrieved=True
    )
    assert alone.prompt is None


def test_a_conversation_is_condensed_where_that_is_asked_for(server: Any) -> None:
    talk = [
        {"role": "user", "content": "What is the code of Omega?"},
        {"role": "assistant", "content": "55"},
        {"role": "user", "content": ZETA["question"]},
    ]
    plain = server.post("/v1/ask", {"messages": talk, "index": "codes"}).json()
    assert plain["query"] == ZETA["question"]
    condensed = server.post("/v1/ask", {"messages": talk, "index": "codes", "condense": True}).json()
    assert condensed["query"] not in ("", ZETA["question"])
    assert condensed["question"] == ZETA["question"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"question": None}, "question"),
        ({"messages": []}, "question"),
        ({"options": {"fusion": "none"}}, None),
        ({"k": 0}, "k"),
        ({"mode": "guess"}, "mode"),
        ({"where": {"year": {"$like": 3}}}, None),
        ({"rerank": True}, None),
        ({"question": " "}, None),
    ],
)
def test_wrong_questions_are_refused(server: Any, change: dict[str, Any], param: str | None) -> None:
    reply = server.post("/v1/ask", {**ZETA, **change})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert reply.json()["error"]["code"] == "invalid_value"
    streamed = server.post("/v1/ask", {**ZETA, **change, "stream": True})
    assert (streamed.status_code, streamed.json()) == (400, reply.json())


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b'{"question": ', "application/json", " (Expecting value)"),
        (b'{"question": "Who?"}', "text/plain", ""),
        (b'["Who?"]', "application/json", ""),
        (b"", "application/json", ""),
    ],
)
def test_a_body_that_is_no_json_is_told_as_that(server: Any, body: bytes, kind: str, reason: str) -> None:
    reply = httpx.post(server.url + "/v1/ask", content=body, headers={"content-type": kind}, timeout=60)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, None, "invalid_value")
    told = f"The body is no JSON object{reason}; send one, with Content-Type: application/json."
    assert error["message"] == told
