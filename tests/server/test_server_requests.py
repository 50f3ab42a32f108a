"""An engine over HTTP gives what the engine itself gives, errors included."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from nbce_rag import (
    Answer,
    Answerer,
    ContextLengthError,
    InputError,
    MinEntropy,
    Options,
    Passage,
    Prompt,
    RemoteError,
    RemoteNBCE,
    Request,
    StreamError,
    UnsupportedError,
)

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

QUESTION = "What is the code of Zeta?"
PASSAGES = [
    Passage("The code of Zeta is seven blue apples.", id="zeta", title="Zeta", metadata={"year": 1990}),
    Passage("The code of Omega is 55.", id="omega", score=0.3),
]


@pytest.fixture(scope="module")
def remote(server: Any) -> RemoteNBCE:
    return RemoteNBCE(server.url)


def timeless(answer: Answer) -> Answer:
    """An answer without what differs from call to call."""
    timings = dataclasses.replace(answer.timings, prefill=0.0, first_token=None, decode=0.0, total=0.0)
    usage = dataclasses.replace(answer.usage, cached_tokens=0)
    parts = tuple(map(timeless, answer.parts))
    return dataclasses.replace(answer, timings=timings, usage=usage, parts=parts)


def test_it_is_what_the_engine_is(remote: RemoteNBCE, reading_nbce: Any) -> None:
    assert isinstance(remote, Answerer)
    assert isinstance(reading_nbce, Answerer)
    assert remote.options == reading_nbce.options
    assert remote.window == reading_nbce.window
    assert remote.prompt == reading_nbce.prompt
    assert remote.updated(style="short").prompt == reading_nbce.updated(style="short").prompt
    assert remote.model.fingerprint == reading_nbce.model.fingerprint
    assert remote.model.tokenizer.has_chat_template
    assert remote.model.tokenizer.encode("The code") == reading_nbce.model.tokenizer.encode("The code")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": MinEntropy(beta=0.5)},
        {"top_logprobs": 2, "entropies": True},
        {"temperature": 0.7, "seed": 3},
        {"prompt": Prompt([{"role": "user", "content": "\ufdd3" + QUESTION}])},
        {"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
    ],
)
def test_answers_are_the_same(remote: RemoteNBCE, reading_nbce: Any, options: dict[str, Any]) -> None:
    mine = remote.answer(QUESTION, PASSAGES, **options)
    local = reading_nbce.answer(QUESTION, PASSAGES, **options)
    assert timeless(mine) == timeless(local)
    assert [token.row_log_probs for token in mine.tokens] == [token.row_log_probs for token in local.tokens]
    assert mine.spelling == local.spelling
    assert mine.request is not None
    # The server has a limit of its own to how long it may take.
    assert mine.request.options.updated(max_seconds=None) == local.request.options


def test_streams_are_the_same(remote: RemoteNBCE, reading_nbce: Any) -> None:
    pieces = list(remote.stream(QUESTION, PASSAGES))
    local = list(reading_nbce.stream(QUESTION, PASSAGES))
    assert [(piece.text, piece.tokens) for piece in pieces] == [(piece.text, piece.tokens) for piece in local]
    assert timeless(pieces[-1].answer) == timeless(local[-1].answer)  # type: ignore[arg-type]
    assert all(piece.answer is None for piece in pieces[:-1])


async def test_async_streams_and_batches(remote: RemoteNBCE, reading_nbce: Any) -> None:
    text = "".join([piece.text async for piece in remote.astream(QUESTION, PASSAGES)])
    assert text == "seven blue apples"
    questions = [QUESTION, "What is the code of Omega?", QUESTION]
    answers = await remote.abatch([remote.request(one, PASSAGES) for one in questions])
    assert [answer.text for answer in answers] == ["seven blue apples", "55", "seven blue apples"]
    local = await reading_nbce.abatch([reading_nbce.request(one, PASSAGES) for one in questions])
    assert [timeless(answer) for answer in answers] == [timeless(answer) for answer in local]


def test_it_works_on_several_event_loops(remote: RemoteNBCE) -> None:
    for _ in range(2):
        assert asyncio.run(remote.aanswer(QUESTION, PASSAGES)).text == "seven blue apples"


def test_other_questions_of_passages(remote: RemoteNBCE, reading_nbce: Any) -> None:
    assert remote.rerank(QUESTION, PASSAGES, 1) == reading_nbce.rerank(QUESTION, PASSAGES, 1)
    assert remote.score(QUESTION, PASSAGES, ["55", "nine"]) == reading_nbce.score(
        QUESTION, PASSAGES, ["55", "nine"]
    )
    mine, local = (one.compare(QUESTION, PASSAGES) for one in (remote, reading_nbce))
    assert [(group.text, group.weight, group.passages) for group in mine.groups] == [
        (group.text, group.weight, group.passages) for group in local.groups
    ]
    mine, local = (one.attribute(QUESTION, PASSAGES, "seven blue apples") for one in (remote, reading_nbce))
    assert timeless(mine) == timeless(local)
    assert mine.words
    assert remote.ablate(mine).ablation == reading_nbce.ablate(local).ablation is not None


def test_metadata_that_json_lacks_stay_with_their_passages(remote: RemoteNBCE) -> None:
    node = object()
    passage = dataclasses.replace(PASSAGES[0], metadata={"node": node, "year": 1990, "pair": (1, 2)})
    answer = remote.answer(QUESTION, [passage])
    assert answer.passages[0].metadata == {"node": node, "year": 1990, "pair": (1, 2)}
    assert remote.rerank(QUESTION, [passage])[0].metadata["node"] is node


def test_errors_are_those_of_the_engine(remote: RemoteNBCE, reading_nbce: Any) -> None:
    with pytest.raises(InputError, match="is empty"):
        remote.answer("  ", PASSAGES)
    with pytest.raises(InputError, match="Unknown option anser"):
        remote.answer(QUESTION, PASSAGES, anser=1)
    long = Prompt([{"role": "user", "content": "long " * (2 * remote.window)}])
    messages = []
    for one in (reading_nbce, remote):
        request = one.request(QUESTION, PASSAGES, prompt=long)
        with pytest.raises(ContextLengthError) as error:
            one.batch([request])
        messages.append(str(error.value))
        with pytest.raises(ContextLengthError) as error:
            list(one.stream(request))
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    with pytest.raises(InputError, match="choices"):
        remote.score(QUESTION, PASSAGES, [])


def test_what_belongs_to_the_server_is_refused_here(remote: RemoteNBCE) -> None:
    class Vote:
        def fuse(self, log_probs: Any, state: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(UnsupportedError, match="rule of your own"):
        remote.answer(QUESTION, PASSAGES, fusion=Vote())
    with pytest.raises(UnsupportedError, match=r"window of 64 beside base_url"):
        remote.updated(window=64)
    assert remote.updated(max_tokens=2).answer(QUESTION, PASSAGES).finish_reason == "length"
    assert remote.options.max_tokens == 24


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://host", "http://"])
def test_no_url(url: str) -> None:
    with pytest.raises(InputError, match="base_url="):
        RemoteNBCE(url)


def test_the_version_may_stand_in_the_url(server: Any) -> None:
    assert RemoteNBCE(f"{server.url}/v1/").base_url == server.url


def test_nobody_there() -> None:
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9 cannot be reached.*nbce-rag serve"):
        RemoteNBCE("http://127.0.0.1:9", max_retries=0)


def test_wrong_requests_are_named_by_their_place(server: Any) -> None:
    reply = server.post("/v1/requests", {"version": 1, "requests": [{"question": "a"}, {"question": 2}]})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "requests.1: Request.question is 2; it must be a text."
    assert reply.json()["error"]["kind"] == "InputError"
    for body in (
        {"version": 2, "requests": [{"question": "a"}]},
        {"version": 1, "requests": []},
        {},
        {"version": 1},
    ):
        reply = server.post("/v1/requests", body)
        assert reply.status_code == 400
        assert set(reply.json()["error"]) >= {"message", "type", "param", "code"}
    assert server.post("/v1/requests/sing", {"version": 1, "request": {"question": "a"}}).status_code == 400


def test_a_whole_reply_without_a_stream(server: Any, reading_nbce: Any) -> None:
    from nbce_rag.answers.wire import from_wire, to_wire

    request = reading_nbce.request(QUESTION, PASSAGES)
    reply = server.post("/v1/requests", {"version": 1, "requests": [to_wire(request)]}).json()
    [answer] = [from_wire(Answer, one) for one in reply["answers"]]
    assert timeless(answer) == timeless(reading_nbce.batch([request])[0])


def test_limits_of_the_server_hold(reading_nbce: Any, run_app: Callable[..., Any], tmp_path: Any) -> None:
    from nbce_rag.server import Served, ServerSettings, create_app
    from nbce_rag.server.limits import Limits

    limits = Limits(max_running=1, max_waiting=1, max_tokens=2, max_rows=2)
    settings = ServerSettings(api_key="secret", limits=limits)
    running = run_app(create_app(settings, Served(reading_nbce)))
    with pytest.raises(RemoteError, match=r"answers 401: .*give a key of the server's as api_key"):
        RemoteNBCE(running.url)
    with pytest.raises(RemoteError, match="answers 401"):
        RemoteNBCE(running.url, "wrong")
    remote = RemoteNBCE(running.url, "secret")
    # More of them than may be answered, or wait, at once: they take turns.
    answers = remote.batch([remote.request(QUESTION, PASSAGES) for _ in range(4)])
    assert [answer.usage.generated_tokens for answer in answers] == [2] * 4
    assert any("lowered to 2" in note for note in answers[0].warnings)
    with pytest.raises(RemoteError, match="max_rows"):
        remote.answer(QUESTION, [*PASSAGES, "one more"])


def test_leaving_a_stream_frees_its_rows(server: Any, remote: RemoteNBCE) -> None:
    from nbce_rag.server.served import load_of

    served = server.app.state.opening.served
    stream = remote.stream(QUESTION, PASSAGES, max_tokens=200, temperature=5.0, seed=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 20
    while load_of(served).running and time.monotonic() < until:
        time.sleep(0.02)
    assert load_of(served).running == 0


def test_it_loads_no_torch(server: Any) -> None:
    """Nor faiss: where requests are made, no model and no index is."""
    code = f"""
import json, sys
from nbce_rag import RemoteNBCE
answer = RemoteNBCE({server.url!r}).answer({QUESTION!r}, ["The code of Zeta is seven blue apples."])
print(json.dumps([answer.text, [name for name in ("torch", "faiss", "transformers") if name in sys.modules]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == ["seven blue apples", []]


class Flaky:
    """An application that answers as it is told, one reply a request."""

    def __init__(self, *replies: tuple[int, dict[str, str], bytes]) -> None:
        self.replies = list(replies)
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, headers, body = self.replies[min(self.requests, len(self.replies) - 1)]
        self.requests += 1
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def description(server: Any) -> bytes:
    return bytes(server.get("/v1/engine").content)


def test_a_full_queue_is_waited_for(run_app: Callable[..., Any], description: bytes) -> None:
    full = (429, {"retry-after": "0.2"}, b'{"error": {"message": "the queue is full"}}')
    app = Flaky(full, (503, {"retry-after": "0"}, b""), (200, {}, description))
    started = time.monotonic()
    RemoteNBCE(run_plain(run_app, app))
    assert app.requests == 3
    assert time.monotonic() - started >= 0.2


def test_a_full_queue_is_not_waited_for_ever(run_app: Callable[..., Any]) -> None:
    app = Flaky((429, {"retry-after": "0"}, b'{"error": {"message": "The queue is full."}}'))
    with pytest.raises(RemoteError, match="answers 429: The queue is full; its queue is full: ask later"):
        RemoteNBCE(run_plain(run_app, app), max_retries=1)
    assert app.requests == 2


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            401,
            b'{"error": {"message": "No key."}}',
            "answers 401: No key; give a key of the server's as api_key",
        ),
        (404, b"<html>", "answers 404: '<html>'; base_url has to be"),
        (200, b"<html>", "not JSON; base_url has to be that of"),
        (200, b'{"version": 7}', "speaks version 7 of requests, and this package 1"),
        (200, b"[]", "speaks version None"),
    ],
)
def test_servers_of_another_kind(run_app: Callable[..., Any], status: int, body: bytes, message: str) -> None:
    app = Flaky((status, {}, body))
    with pytest.raises(RemoteError, match=message):
        RemoteNBCE(run_plain(run_app, app))
    assert app.requests == 1


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", StreamError, "ended without 1 of the answers"),
        (b"event: piece\ndata: {\n\n", StreamError, "holds no JSON"),
        (b"event: news\ndata: 1\n\n", StreamError, "an event 'news'"),
        (b'event: error\ndata: {"error": {"message": "No.", "kind": "InputError"}}\n\n', InputError, "No."),
        (b'event: error\ndata: {"error": {"message": "No.", "kind": "warn"}}\n\n', RemoteError, "No."),
        (b"event: error\ndata: 1\n\n", RemoteError, "says nothing"),
    ],
)
def test_streams_that_go_wrong(
    run_app: Callable[..., Any], description: bytes, body: bytes, kind: type[Exception], message: str
) -> None:
    remote = RemoteNBCE(run_plain(run_app, Flaky((200, {}, description), (200, {}, body))))
    with pytest.raises(kind, match=message):
        remote.answer(QUESTION)


def test_a_request_has_its_options_already(remote: RemoteNBCE) -> None:
    with pytest.raises(InputError, match="already"):
        next(iter(remote.stream(Request("a", options=Options()), max_tokens=2)))
    with pytest.raises(InputError, match="is no request"):
        remote.batch(["a"])  # type: ignore[list-item]
    assert remote.batch([]) == []


def run_plain(run_app: Callable[..., Any], app: Any) -> str:
    """The address of an application without a lifespan."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await app(scope, receive, send)

    return str(run_app(wrapped).url)
