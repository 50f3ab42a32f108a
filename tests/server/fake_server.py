"""A server for tests of the page: the real page and its headers, and answers that were made by hand."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from view_tools import an_answer

from nbce_rag import Passage
from nbce_rag.answers.answer import Answer
from nbce_rag.answers.report import report as report_of
from nbce_rag.evidence.conflict import Claim, Conflict
from nbce_rag.server.routes.page import router
from nbce_rag.server.wire.reply import citation_item

__all__ = ["KEY", "FakeServer", "fake_server"]

KEY = "nbce-key-for-tests"

LIGHTS = (
    Passage(
        "Skarrowmouth light was lit on 3 March 1931 by Ilse Brandt, its first keeper. It stands 41 metres "
        "above high water and shows two white flashes every ten seconds. In fog a horn is sounded from the "
        "gallery, one blast a minute.",
        id="light-1",
        title="The lights of the northern coast",
        source="corpus/lights.md",
        start=1200,
        metadata={"chapter": "Skarrowmouth"},
        score=0.71,
    ),
    Passage(
        "The harbour board paid for the lamp in 1934, three years after the keeper's cottage was roofed. "
        "Its minutes call the tower “the new light”, which has led some to date it by the payment.",
        id="board-4",
        title="Minutes of the harbour board",
        source="archive/minutes 1934.pdf",
        start=40,
        metadata={"page": 4},
        score=0.58,
    ),
    Passage(
        "Ilse Brandt kept the light alone for nineteen years. She wrote down each ship that passed, and the "
        "books are in the museum of tides.",
        id="keeper-2",
        title="Ilse Brandt, a life",
        source="corpus/brandt.txt",
        start=0,
        score=0.55,
    ),
    Passage(
        "Ferries to Karrow leave Skarrowmouth at seven, at noon and at four; in winter not on Sundays.",
        id="ferry-1",
        title="Ferry timetable",
        source="https://example.test/ferries",
        score=0.31,
    ),
    Passage("The ash otter is seldom seen south of the light.", id="otter-9", score=0.22),
)
LIGHT = (
    "Skarrowmouth light was lit on 3 March 1931 by Ilse Brandt, its first keeper. "
    "She kept the light alone for nineteen years, and wrote down each ship that passed. "
    "The harbour board paid for the lamp in 1935."
)


def _weights(count: int, runs: Sequence[tuple[int, int, float]]) -> list[list[float]]:
    """For each word the shares of passages: (words, leading passage, its share) after one another."""
    rows = []
    for words, lead, share in runs:
        rest = (1 - share) / (count - 1)
        rows += [[share if place == lead else rest for place in range(count)]] * words
    return rows


def lights() -> Answer:
    """Three sentences from three passages; a year in the last one stands in none of them."""
    answer = an_answer(
        LIGHT, LIGHTS, _weights(5, [(14, 0, 0.86), (15, 2, 0.79), (9, 1, 0.7)]), question="When was it lit?"
    )
    return replace(answer, support=0.62, grounding=1.84, timings=replace(answer.timings, retrieve=0.01))


def conflict() -> Answer:
    claims = (Claim("3 March 1931", (0,), ("light-1",), 0.61), Claim("1934", (1,), ("board-4",), 0.3))
    return replace(
        an_answer("3 March 1931", LIGHTS, _weights(5, [(3, 0, 0.9)])),
        conflicts=(Conflict("When was it lit?", claims),),
    )


def silence() -> Answer:
    answer = an_answer("The passages do not answer this question.", LIGHTS, _weights(5, [(7, 3, 0.3)]))
    return replace(answer, citations=(), tokens=(), finish_reason="no_evidence", support=0.01, grounding=None)


def code() -> Answer:
    text = "Light it like this:\n```python\nlamp.light(1931)\nlamp.turn()\n```\nThen wait."
    passages = (Passage("Light it like this: call lamp.light(1931) and lamp.turn(), then wait.", id="lamp"),)
    return an_answer(text, passages, [[1.0]])


def chinese() -> Answer:
    passages = (
        Passage("连珠水碓由陆家港的工师顾长汀设计，用了三年。😀", id="zh-1", title="水碓", source="zh.md"),
        Passage("云墨山上有一座寺。", id="zh-2", title="云墨"),
    )
    return an_answer("😀 连珠水碓由陆家港的工师顾长汀设计", passages, [[0.9, 0.1]])


SCENES = {"disagree": conflict, "nobody": silence, "code": code, "水碓": chinese}


@dataclass
class FakeServer:
    """What the tests may change, and what was asked.

    Attributes:
        url: Where it listens.
        key: What a request has to bring; None for no key.
        writable: Whether the first index takes files.
        halt: After how many pieces streams wait until this is set to more; None for not at all.
        asked: Bodies of what came, with the path under "path".
        loads: How many times it answers that it is loading still.
        left: How many streams ended because the browser went away.
    """

    url: str = ""
    key: str | None = None
    writable: bool = False
    halt: int | None = None
    asked: list[dict[str, Any]] = None  # type: ignore[assignment]
    loads: int = 0
    left: int = 0

    def reset(self) -> None:
        self.key, self.writable, self.halt, self.loads = None, False, None, 0
        self.left, self.asked = 0, []


def _error(status: int, message: str, code: str, **headers: str) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers={"x-request-id": "req-7", **headers})


def _scene(question: str) -> Answer:
    make = next((make for word, make in SCENES.items() if word in question), lights)
    return replace(make(), question=question)


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _stream(server: FakeServer, answer: Answer) -> AsyncIterator[str]:
    report = report_of(answer)
    passages = [{**context, "weight": None, "cited": 0.0} for context in report["contexts"]]
    try:
        yield ": ping\n\n"
        yield _event("retrieved", {"query": answer.question, "passages": passages})
        for place, token in enumerate(answer.tokens):
            while server.halt is not None and place >= server.halt:
                await asyncio.sleep(0.01)
            done = [citation_item(one) for one in answer.citations if token.start < one.end <= token.end]
            values = {"text": token.text, "start": token.start, "end": token.end, "weights": token.weights}
            piece = {"text": token.text, "thought": "", "tokens": [values], "citations": done}
            yield _event("piece", piece)
            if "breaks" in answer.question and place == 5:
                yield _event("error", {"error": {"message": "The model stumbled.", "code": "server_error"}})
                return
        yield _event("answer", {**report, "request_id": "req-1", "query": answer.question})
    except (asyncio.CancelledError, GeneratorExit):
        server.left += 1
        raise


def _app(server: FakeServer) -> FastAPI:
    app = FastAPI()
    app.include_router(router)

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        is_closed = server.key is not None and request.url.path.startswith("/v1/")
        if is_closed and request.headers.get("authorization") != f"Bearer {server.key}":
            return _error(401, "Incorrect API key provided.", "invalid_api_key")
        response: Response = await call_next(request)
        return response

    @app.get("/v1/indexes")
    def indexes() -> Any:
        if server.loads:
            server.loads -= 1
            return _error(503, "The model is being loaded.", "loading", **{"retry-after": "1"})
        first = {"id": "harbour", "object": "index", "passages": 1284, "writable": server.writable}
        return {"object": "list", "data": [first, {**first, "id": "law", "passages": 1, "writable": False}]}

    @app.post("/v1/ask")
    async def ask(request: Request) -> Response:
        body = await request.json()
        server.asked.append({"path": "ask", **body})
        if "busy" in body["question"]:
            return _error(429, "32 questions wait.", "rate_limit_exceeded", **{"retry-after": "7"})
        return StreamingResponse(_stream(server, _scene(body["question"])), media_type="text/event-stream")

    @app.post("/v1/compare")
    async def compare(request: Request) -> dict[str, Any]:
        body = await request.json()
        server.asked.append({"path": "compare", **body})
        contexts = report_of(lights())["contexts"]
        return {
            "question": body["question"],
            "agree": False,
            "groups": [
                {"text": "3 March 1931", "weight": 0.61, "passages": [contexts[0], contexts[2]]},
                {"text": "1934", "weight": 0.27, "passages": [contexts[1]]},
                {"text": "at seven", "weight": 0.004, "passages": [contexts[3]]},
            ],
            "silent": contexts[4:],
            "silent_weight": 0.12,
        }

    @app.get("/v1/indexes/{index}/passages/{name}")
    def passage(index: str, name: str) -> Any:
        stored = next((p for make in (lights, chinese) for p in make().passages if p.id == name), None)
        if stored is None:
            return _error(404, "No such passage.", "not_found")
        is_pdf = (stored.source or "").endswith(".pdf")
        return {
            "id": name,
            "index": index,
            "text": stored.text,
            "before": "Of the lights between the Skarrow and the cape this is the youngest.\n\n",
            "after": "\n\nThe next light to the north is that of Tamsel, which is older by a century.",
            "kind": "pdf" if is_pdf else "text",
            "url": f"source/{index}/{name}?expires=1&signature=x",
        }

    @app.get("/v1/indexes/{index}/pages/{name}")
    def pages(index: str, name: str) -> dict[str, Any]:
        return {"is_current": False, "pages": []}

    @app.post("/v1/files")
    async def add(request: Request) -> dict[str, Any]:
        server.asked.append({"path": "files", "bytes": len(await request.body())})
        return {"id": "file-1", "object": "file", "status": "processed"}

    @app.get("/v1/vector_stores/{index}/files/{file}")
    def job(index: str, file: str) -> dict[str, Any]:
        server.asked.append({"path": "job"})
        is_done = sum(one["path"] == "job" for one in server.asked) > 1
        return {
            "id": file,
            "status": "completed" if is_done else "in_progress",
            "last_error": None,
            "nbce": {"passages": 7 if is_done else 3, "total": 7},
        }

    return app


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A fake server on a free port of this machine."""
    server = FakeServer()
    server.reset()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(_app(server), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not running.started and time.monotonic() < until:
        time.sleep(0.02)
    server.url = f"http://127.0.0.1:{port}/"
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join(10)
