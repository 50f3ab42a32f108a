"""`/v1/responses` as openai-python sees it: citations, events of streams, file search, calls of tools."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from test_server_ask import events_of
from test_server_chat import TOOL, client

__all__ = ["client"]

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

ZETA = "What is the code of Zeta?"
FUNCTION: dict[str, Any] = {"type": "function", **TOOL["function"]}


def stripped(response: Any) -> dict[str, Any]:
    """A response without what differs from call to call."""
    told: dict[str, Any] = json.loads(json.dumps(response.to_dict()), object_hook=_without_ids)
    told.pop("parsed", None)
    told["usage"].pop("input_tokens_details")
    told["nbce"]["usage"].pop("cached_tokens")
    return told


def _without_ids(value: dict[str, Any]) -> dict[str, Any]:
    left_out = ("created_at", "timings", "request_id", "call_id", "parsed", "parsed_arguments")
    return {
        name: "" if name == "id" and str(one)[:3] in ("msg", "res", "fs_", "fc_", "rs_") else one
        for name, one in value.items()
        if name not in left_out and one is not None
    }


def test_a_response_has_citations(client: Any, server: Any) -> None:
    response = client.responses.create(model="nbce-codes", input=ZETA)
    assert response.output_text == "seven blue apples"
    assert response.status == "completed"
    [message] = response.output
    [annotation] = message.content[0].annotations
    assert annotation.type == "url_citation"
    assert (annotation.start_index, annotation.end_index) == (0, 17)
    assert annotation.url == f"{server.url}/source/codes/zeta"
    assert annotation.model_extra["passage_id"] == "zeta"
    assert response.model_extra["nbce"]["cited_ids"] == ["zeta"]
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


ASKED: dict[str, dict[str, Any]] = {
    "plain": {"input": ZETA},
    "sampled": {"input": ZETA, "temperature": 0.7, "seed": 3},
    "logprobs": {"input": ZETA, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "cut": {"input": ZETA, "max_output_tokens": 2},
    "search": {
        "model": "nbce",
        "input": ZETA,
        "tools": [{"type": "file_search", "vector_store_ids": ["codes"]}],
        "include": ["file_search_call.results"],
    },
    "call": {"input": ZETA, "tools": [FUNCTION], "tool_choice": "required", "max_output_tokens": 60},
    "not called": {"input": ZETA, "tools": [FUNCTION]},
}


@pytest.mark.parametrize("name", ASKED)
def test_a_stream_gives_the_same_object(client: Any, name: str) -> None:
    extra = {key: value for key, value in ASKED[name].items() if key == "seed"}
    given = {"model": "nbce-codes", **{k: v for k, v in ASKED[name].items() if k not in extra}}
    whole = client.responses.create(**given, extra_body=extra)
    seen = []
    last: Any = None
    for event in client.responses.create(**given, extra_body=extra, stream=True):
        seen.append(event)
        if event.type in ("response.completed", "response.incomplete"):
            last = event.response
    assert stripped(last) == stripped(whole)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    deltas = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert deltas == whole.output_text
    added = [event.annotation for event in seen if event.type == "response.output_text.annotation.added"]
    messages = [item for item in whole.output if item.type == "message"]
    assert added == [one.to_dict() for item in messages for one in item.content[0].annotations]
    if name == "cut":
        assert whole.incomplete_details.reason == "max_output_tokens"
    elif name == "search":
        assert whole.output[0].results[0].text
        assert whole.output[0].queries == [ZETA]
    elif name == "call":
        [call] = whole.output
        assert call.type == "function_call"
        assert json.loads(call.arguments)["of"] in ("Zeta", "Omega")


def test_the_streams_helper_reads_it(client: Any) -> None:
    with client.responses.stream(model="nbce-codes", input=ZETA) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "seven blue apples"
    order = [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind]
    assert order == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_conversation_with_calls_goes_on(client: Any) -> None:
    talk: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is the code of Omega?"}]},
        {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": '{"of": "Omega"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "55"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "55"}]},
        {"role": "user", "content": ZETA},
    ]
    response = client.responses.create(model="nbce-codes", instructions="Be brief.", input=talk)
    nbce = response.model_extra["nbce"]
    assert nbce["query"] == ZETA
    assert response.instructions == "Be brief."


def test_an_answer_fits_its_schema(client: Any) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    response = client.responses.create(
        model="nbce-codes",
        input=ZETA,
        max_output_tokens=40,
        text={
            "format": {
                "type": "json_schema",
                "name": "a",
                "schema": {**schema, "additionalProperties": False},
            }
        },
    )
    assert isinstance(json.loads(response.output_text)["yes"], bool)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools.0"),
        ({"tools": [{"type": "file_search"}]}, "tools.0.vector_store_ids"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Any, change: dict[str, Any], param: str) -> None:
    reply = server.post("/v1/responses", {"model": "nbce", "input": ZETA, **change})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith(param)


def test_a_failure_in_a_stream_is_told_in_it(
    server: Any, reading_nbce: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbce_rag.answers.answer import Piece
    from nbce_rag.errors import NumericalError

    async def fail(request: Any) -> Any:
        for text in ("one", ""):
            if not text:
                raise NumericalError("NaN")
            yield Piece(text, (), None)

    monkeypatch.setattr(reading_nbce, "astream", fail, raising=False)
    body = {"model": "nbce-codes", "input": ZETA, "stream": True}
    events = events_of(server, "/v1/responses", body)
    assert [name for name, _ in events][-2:] == ["response.failed", "error"]
    assert events[-2][1]["response"]["status"] == "failed"
    chat: dict[str, Any] = {"model": "nbce", "messages": [{"role": "user", "content": ZETA}], "stream": True}
    events = events_of(server, "/v1/chat/completions", chat)
    assert set(events[-1][1]) == {"error"}
    whole = server.post("/v1/responses", {"model": "nbce-codes", "input": ZETA})
    assert whole.status_code == 500
    assert whole.json()["error"]["code"] == "internal_error"
    with pytest.raises(openai.APIError):
        for _ in openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="x", max_retries=0
        ).chat.completions.create(model="nbce", messages=chat["messages"], stream=True):
            pass
