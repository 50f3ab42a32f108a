"""`/v1/chat/completions` as openai-python sees it: citations, streams, documents, tools, refusals."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from test_server_ask import events_of

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

ZETA = [{"role": "user", "content": "What is the code of Zeta?"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up a code.",
        "parameters": {
            "type": "object",
            "properties": {"of": {"type": "string", "enum": ["Zeta", "Omega"]}},
            "required": ["of"],
        },
    },
}


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def stripped(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what differs from call to call."""
    nbce = {name: value for name, value in message["nbce"].items() if name not in ("timings", "request_id")}
    nbce["usage"] = {name: value for name, value in nbce["usage"].items() if name != "cached_tokens"}
    return {name: value for name, value in {**message, "nbce": nbce}.items() if value is not None}


def test_an_answer_from_an_index_has_citations(client: Any, server: Any) -> None:
    reply = client.chat.completions.create(model="nbce-codes", messages=ZETA)
    choice = reply.choices[0]
    assert choice.message.content == "seven blue apples"
    assert choice.finish_reason == "stop"
    [annotation] = choice.message.annotations
    cited = annotation.url_citation
    assert (cited.start_index, cited.end_index, cited.title) == (0, 17, "Zeta")
    assert cited.url == f"{server.url}/source/codes/zeta"
    assert cited.model_extra["passage_id"] == "zeta"
    nbce = choice.message.model_extra["nbce"]
    assert nbce["cited_ids"] == ["zeta"]
    assert nbce["passages"][0]["index"] == "codes"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    again = client.chat.completions.create(model="nbce-codes", messages=ZETA)
    assert again.usage.prompt_tokens_details.cached_tokens > 0


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "seed": 4}, {"logprobs": True, "top_logprobs": 2}]
)
def test_a_stream_adds_up_to_the_same_object(client: Any, options: dict[str, Any]) -> None:
    whole = client.chat.completions.create(model="nbce-codes", messages=ZETA, **options)
    wanted = whole.choices[0]
    with client.chat.completions.stream(model="nbce-codes", messages=ZETA, **options) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == wanted.finish_reason
    assert stripped(choice.message.to_dict()) == stripped(wanted.message.to_dict())
    if options.get("logprobs"):
        assert choice.logprobs.to_dict()["content"] == wanted.logprobs.to_dict()["content"]
        assert wanted.logprobs.content[0].top_logprobs[0].token == wanted.logprobs.content[0].token


def test_a_stream_comes_in_the_order_that_clients_take(server: Any) -> None:
    body = {
        "model": "nbce-codes",
        "messages": ZETA,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    events = [data for _, data in events_of(server, "/v1/chat/completions", body)]
    assert events[-1] == "[DONE]"
    *chunks, usage = events[:-1]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 0
    assert len({(c["id"], c["created"], c["model"]) for c in [*chunks, usage]}) == 1
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert sum("nbce" in delta for delta in deltas) == 1
    body.pop("stream_options")
    events = [data for _, data in events_of(server, "/v1/chat/completions", body)]
    assert all(event == "[DONE]" or event["choices"] for event in events)  # no usage that nobody asked for


@pytest.mark.parametrize(
    "document",
    [
        "The code of Sigma is 12.",
        {"id": "s", "text": "The code of Sigma is 12.", "title": "Sigma", "url": "https://example.org/s"},
        {"id": "s", "data": {"text": "The code of Sigma is 12.", "year": 3}},
        {"id": "s", "data": {"snippet": "The code of Sigma is 12."}},
    ],
)
def test_documents_come_with_the_request(client: Any, document: Any) -> None:
    question = [{"role": "user", "content": "What is the code of Sigma?"}]
    documents = [document, "The ferry leaves at noon."]
    reply = client.chat.completions.create(
        model="nbce", messages=question, extra_body={"documents": documents}
    )
    message = reply.choices[0].message
    assert message.content == "12"
    nbce = message.model_extra["nbce"]
    assert len(nbce["contexts"]) == 2
    if isinstance(document, dict):
        assert nbce["cited_ids"] == ["s"]
    if isinstance(document, dict) and "url" in document:
        assert message.annotations[0].url_citation.url == "https://example.org/s"
    both = client.chat.completions.create(
        model="nbce-codes", messages=question, extra_body={"documents": documents}
    )
    told = both.choices[0].message.model_extra["nbce"]
    assert both.choices[0].message.content == "12"
    assert [one["index"] for one in told["passages"]] == [None, None, "codes", "codes", "codes"]


def test_an_empty_list_of_documents_means_no_retrieval(client: Any) -> None:
    reply = client.chat.completions.create(model="nbce-codes", messages=ZETA, extra_body={"documents": []})
    nbce = reply.choices[0].message.model_extra["nbce"]
    assert nbce["contexts"] == []
    assert not nbce["abstained"]


def test_the_plain_model_does_not_retrieve(client: Any) -> None:
    title = [
        *ZETA,
        {"role": "assistant", "content": "seven"},
        {"role": "user", "content": "Give it a title."},
    ]
    reply = client.chat.completions.create(model="nbce", messages=title, max_tokens=5)
    assert reply.choices[0].message.model_extra["nbce"]["contexts"] == []
    assert reply.usage.completion_tokens <= 5


def test_the_nbce_object_chooses_index_search_and_options(client: Any) -> None:
    def told(**nbce: Any) -> dict[str, Any]:
        reply = client.chat.completions.create(model="nbce", messages=ZETA, extra_body={"nbce": nbce})
        message = reply.choices[0].message
        return {"content": message.content, **message.model_extra["nbce"]}

    assert told(index="codes", k=1)["rows"] == 2
    assert told(index=["codes", "laws"])["content"] == "seven blue apples"
    nothing = told(index="codes", where={"year": {"$gte": 2000}, "title": "none"})
    assert nothing["abstained"]
    assert nothing["finish_reason"] == "no_evidence"
    assert told(index="codes", fusion="min-entropy")["fusion"] == "min-entropy"
    assert told(index="codes", options={"fusion": "mean"})["fusion"] == "mean"
    assert told(index="codes", tokens=True)["tokens"][0]["weights"]
    with pytest.raises(openai.BadRequestError) as caught:
        told(index="codes", fusio="mean")
    assert caught.value.param == "nbce.fusio"
    with pytest.raises(openai.NotFoundError) as missing:
        told(index="nowhere")
    assert missing.value.code == "index_not_found"


def test_file_search_names_an_index_and_filters(client: Any) -> None:
    tool = {"type": "file_search", "vector_store_ids": ["codes"], "max_num_results": 2}
    reply = client.chat.completions.create(model="nbce", messages=ZETA, tools=[tool])
    assert len(reply.choices[0].message.model_extra["nbce"]["contexts"]) == 2
    both = {
        "type": "and",
        "filters": [
            {"type": "gte", "key": "year", "value": 1980},
            {"type": "nin", "key": "year", "value": [2001]},
        ],
    }
    reply = client.chat.completions.create(model="nbce", messages=ZETA, tools=[{**tool, "filters": both}])
    contexts = reply.choices[0].message.model_extra["nbce"]["contexts"]
    assert [context["id"] for context in contexts] == ["zeta"]


def test_a_conversation_goes_on(client: Any) -> None:
    talk = [
        {"role": "developer", "content": "You know codes."},
        {"role": "user", "content": "What is the code of Omega?"},
        {"role": "assistant", "content": "55"},
        *ZETA,
    ]
    reply = client.chat.completions.create(model="nbce-codes", messages=talk)
    nbce = reply.choices[0].message.model_extra["nbce"]
    assert nbce["query"] == "What is the code of Zeta?"
    assert nbce["contexts"]


def test_documents_stand_in_messages(client: Any) -> None:
    content = [
        {
            "type": "search_result",
            "source": "s",
            "title": "Sigma",
            "content": [{"type": "text", "text": "The code of Sigma is 12."}],
        },
        {"type": "document", "source": {"type": "text", "data": "The ferry leaves at noon."}},
        {"type": "text", "text": "What is the code of Sigma?"},
    ]
    reply = client.chat.completions.create(model="nbce", messages=[{"role": "user", "content": content}])
    assert reply.choices[0].message.content == "12"
    assert len(reply.choices[0].message.model_extra["nbce"]["contexts"]) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_is_held_by_grammar(client: Any, stream: bool) -> None:
    given: dict[str, Any] = {"model": "nbce", "messages": ZETA, "tools": [TOOL], "max_tokens": 60}
    choice = {"type": "function", "function": {"name": "look_up"}}
    if stream:
        with client.chat.completions.stream(**given, tool_choice=choice) as events:
            for _ in events:
                pass
            reply = events.get_final_completion()
    else:
        reply = client.chat.completions.create(**given, tool_choice=choice)
    [call] = reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "look_up"
    assert json.loads(call.function.arguments)["of"] in ("Zeta", "Omega")


def test_an_answer_fits_its_schema(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    reply = client.chat.completions.create(
        model="nbce-codes",
        messages=ZETA,
        max_completion_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert isinstance(json.loads(reply.choices[0].message.content)["yes"], bool)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "queen", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tool_choice": "nothing", "tools": [TOOL]}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"documents": [3]}, "documents.0"),
        ({"documents": [{"id": "x"}]}, "documents.0"),
        ({"top_p": "much"}, "top_p"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Any, change: dict[str, Any], param: str) -> None:
    reply = server.post("/v1/chat/completions", {"model": "nbce", "messages": ZETA, **change})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_what_changes_nothing_is_ignored_and_said(client: Any) -> None:
    reply = client.chat.completions.create(
        model="nbce", messages=ZETA, user="me", store=False, max_tokens=3, extra_body={"unheard_of": 3}
    )
    warnings = reply.choices[0].message.model_extra["nbce"]["warnings"]
    assert any("unheard_of" in warning for warning in warnings)
    assert not any("user" in warning.split() for warning in warnings)


def test_errors_have_one_form_on_every_address(client: Any, server: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=ZETA)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    for reply in (
        server.get("/v1/nothing"),
        server.get("/v1/chat/completions"),
        server.get("/v1/models/nbce-nothing"),
        server.post("/v1/chat/completions", content=b"{"),
        server.post("/v1/chat/completions", {"model": "nbce"}),
        server.post("/v1/ask", {"question": "x", "index": "codes", "unheard_of": 1}),
    ):
        assert 400 <= reply.status_code < 500
        assert set(reply.json()) == {"error"}, reply.text
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    long = {"model": "nbce-codes", "messages": ZETA, "stream": True, "max_tokens": 100_000}
    assert server.post("/v1/chat/completions", long).json()["error"]["code"] == "context_length_exceeded"
    lone = server.post(
        "/v1/chat/completions",
        content=b'{"model": "nbce\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    )
    assert set(lone.json()) == {"error"}


def test_open_webui_gets_its_events_where_it_asks(server: Any) -> None:
    body = {"model": "nbce-codes", "messages": ZETA, "stream": True, "nbce": {"events": "open-webui"}}
    events = [data for _, data in events_of(server, "/v1/chat/completions", body) if data != "[DONE]"]
    [source] = [event["event"] for event in events if "event" in event]
    assert source["type"] == "source"
    assert source["data"]["document"] == ["The code of Zeta is seven blue apples."]


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_are_written_where_they_are_asked_for(client: Any, stream: bool) -> None:
    given: dict[str, Any] = {
        "model": "nbce-codes",
        "messages": ZETA,
        "extra_body": {"nbce": {"marks": "numbers"}},
    }
    if stream:
        with client.chat.completions.stream(**given) as events:
            for _ in events:
                pass
            message = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**given).choices[0].message
    assert message.content == "seven blue apples [1]"
    assert message.model_extra["nbce"]["answer"] == "seven blue apples"
