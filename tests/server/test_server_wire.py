"""The translation alone: no server, no model, and no web framework."""

from __future__ import annotations

import itertools
import json
import operator
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from view_tools import an_answer

from nbce_rag import errors
from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.index.filters.conditions import Fields, as_condition
from nbce_rag.passages import Passage
from nbce_rag.server.ask import Home, Outcome, Retrieved
from nbce_rag.server.links import Links
from nbce_rag.server.sse import json_text, sse_event
from nbce_rag.server.wire.chat import ChatBody, ChatChunks, chat_call, chat_reply
from nbce_rag.server.wire.documents import passages_of
from nbce_rag.server.wire.errors import ServerError, error_reply
from nbce_rag.server.wire.filters import where_of
from nbce_rag.server.wire.messages import messages_of
from nbce_rag.server.wire.reply import ReplyInfo, nbce_object
from nbce_rag.server.wire.response_events import ResponseEvents
from nbce_rag.server.wire.responses import ResponseBody, response_call, response_reply

INFO = ReplyInfo("resp_1", 5, "nbce", "req_1", Links("http://here"))
PASSAGES = (
    Passage("Ada runs the ferry at noon.", id="ferry", title="Ferry", metadata={"page": 3}),
    Passage("The market opens at eight.", id="market", source="https://example.org/m"),
)
HOMES = {PASSAGES[0].content_hash: Home("codes", "ferry"), PASSAGES[1].content_hash: Home("laws", "market")}
RETRIEVED = Retrieved("Who?", PASSAGES, HOMES, 0.1)
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {"type": "object", "properties": {"of": {"type": "string"}}},
    },
}


answers = st.builds(
    lambda words, weights, thought, reason: an_answer(
        " ".join(words), PASSAGES, weights, thought=thought, finish_reason=reason
    ),
    st.lists(
        st.sampled_from(["Ada", "runs", "the", "ferry", "at", "noon", "eight", "1931", "Bob", "船", "é"]),
        max_size=9,
    ),
    st.lists(st.sampled_from([(0.99, 0.01), (0.02, 0.98), (0.5, 0.5)]), min_size=1, max_size=9),
    st.sampled_from(["", "Well."]),
    st.sampled_from(["stop", "length", "no_evidence"]),
)


def pieces_of(answer: Answer, cuts: Sequence[int], late: bool = False) -> list[Piece]:
    """An answer cut into pieces; each carries the citations that end in it, or if `late` the last one all."""
    places = sorted({0, len(answer.text), *(cut % (len(answer.text) + 1) for cut in cuts)})
    bounds = list(itertools.pairwise(places)) or [(0, 0)]
    pieces = [Piece("", (), None, answer.thought)] if answer.thought else []
    for start, end in bounds:
        tokens = tuple(token for token in answer.tokens if start < token.end <= end)
        whole = answer if end == len(answer.text) else None
        first, last = (start, end) if not late else (0, end if whole is not None else 0)
        citations = tuple(one for one in answer.citations if first < one.end <= last)
        absent = tuple(  # of these citations
            word for word in answer.unsupported for one in citations if one.start <= word.start < one.end
        )
        pieces.append(Piece(answer.text[start:end], tokens, whole, "", citations, absent))
    return pieces


def added_up(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message of a stream, as clients add it up."""
    message: dict[str, Any] = {"content": "", "annotations": [], "tool_calls": {}, "tokens": []}
    for chunk in chunks:
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            message["content"] += delta.get("content", "")
            message["annotations"] += delta.get("annotations", [])
            message["finish_reason"] = choice["finish_reason"]
            message["tokens"] += (choice["logprobs"] or {"content": []})["content"]
            message["thought"] = message.get("thought", "") + delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", ()):
                known = message["tool_calls"].setdefault(call["index"], {"arguments": ""})
                known["name"] = known.get("name") or call["function"].get("name")
                known["arguments"] += call["function"]["arguments"]
            if "nbce" in delta:
                assert "nbce" not in message
                message["nbce"] = delta["nbce"]
    return message


@given(answers, st.lists(st.integers(0, 60), max_size=6), st.booleans(), st.booleans())
def test_chunks_add_up_to_the_reply(answer: Answer, cuts: list[int], late: bool, logprobs: bool) -> None:
    body = {"model": "nbce", "messages": [{"role": "user", "content": "Who?"}], "logprobs": logprobs}
    call = chat_call(ChatBody.model_validate(body), [])
    chunks = ChatChunks(call, INFO)
    chunks.retrieved = RETRIEVED
    made = [chunks.first()]
    for piece in pieces_of(answer, cuts, late):
        made += chunks.push(piece, ("a note",))
    message = added_up(made)
    choice = chat_reply(Outcome(answer, RETRIEVED, ("a note",)), call, INFO)["choices"][0]
    assert message["content"] == choice["message"]["content"]
    assert message["annotations"] == choice["message"]["annotations"]
    assert message["nbce"] == choice["message"]["nbce"]
    assert message["thought"] == choice["message"].get("reasoning_content", "")
    assert message["finish_reason"] == choice["finish_reason"]
    assert message["tokens"] == (choice["logprobs"] or {"content": []})["content"]
    assert "a note" in message["nbce"]["warnings"]
    assert message["nbce"]["abstained"] == (answer.finish_reason == "no_evidence")


@given(answers, st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_numbers_stand_behind_what_is_cited(answer: Answer, cuts: list[int], late: bool) -> None:
    body = {"model": "nbce", "messages": [{"role": "user", "content": "Who?"}], "nbce": {"marks": "numbers"}}
    call = chat_call(ChatBody.model_validate(body), [])
    message = chat_reply(Outcome(answer, RETRIEVED), call, INFO)["choices"][0]["message"]
    assert re.sub(r" (\[\d\])+", "", message["content"]) == answer.text
    own = [(one.text, support.passage_id) for one in answer.citations for support in one.supports]
    spans = [one["url_citation"] for one in message["annotations"]]
    shown = [message["content"][one["start_index"] : one["end_index"]] for one in spans]
    assert [
        (re.sub(r" (\[\d\])+", "", text), one["passage_id"]) for text, one in zip(shown, spans, strict=True)
    ] == own
    for one in spans:
        assert re.match(r" (\[\d\])+", message["content"][one["end_index"] :])
    chunks = ChatChunks(call, INFO)
    chunks.retrieved = RETRIEVED
    made = [chunk for piece in pieces_of(answer, cuts, late) for chunk in chunks.push(piece)]
    streamed = added_up(made)
    assert (streamed["content"], streamed["annotations"]) == (message["content"], message["annotations"])


@given(answers, st.lists(st.integers(0, 60), max_size=6), st.booleans(), st.booleans())
def test_events_add_up_to_the_response(answer: Answer, cuts: list[int], late: bool, logprobs: bool) -> None:
    include = ["message.output_text.logprobs"] if logprobs else []
    body = {
        "model": "nbce",
        "input": "Who?",
        "include": [*include, "file_search_call.results"],
        "tools": [{"type": "file_search", "vector_store_ids": ["codes"]}],
    }
    call = response_call(ResponseBody.model_validate(body), ["codes"])
    events = ResponseEvents(call, INFO)
    made = [*events.first(), *events.retrieved(RETRIEVED)]
    for piece in pieces_of(answer, cuts, late):
        made += events.push(piece)
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    whole = response_reply(Outcome(answer, RETRIEVED), call, INFO)
    assert made[-1]["response"] == whole
    assert made[-1]["type"] == f"response.{whole['status']}"
    done = [event["item"] for event in made if event["type"] == "response.output_item.done"]
    assert done == whole["output"]
    opened = [event["output_index"] for event in made if event["type"] == "response.output_item.added"]
    assert opened == list(range(len(done)))
    deltas = [event for event in made if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == answer.text
    added = [e["annotation"] for e in made if e["type"] == "response.output_text.annotation.added"]
    assert added == whole["output"][-1]["content"][0]["annotations"]


@given(st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_a_call_comes_whole_whatever_the_pieces(cuts: list[int], wrapped: bool) -> None:
    text = '{"name": "look_up", "arguments": {"of": "Zeta"}}'
    text = f"<tool_call>{text}</tool_call>" if wrapped else text
    answer = an_answer(text, PASSAGES, [(0.9, 0.1)])
    body = {"model": "nbce", "messages": [{"role": "user", "content": "Who?"}], "tools": [TOOL]}
    chunks = ChatChunks(chat_call(ChatBody.model_validate(body), []), INFO)
    chunks.retrieved = RETRIEVED
    made = [chunk for piece in pieces_of(answer, cuts) for chunk in chunks.push(piece)]
    message = added_up(made)
    assert message["tool_calls"] == {0: {"name": "look_up", "arguments": '{"of": "Zeta"}'}}
    assert (message["content"], message["finish_reason"]) == ("", "tool_calls")
    given = response_call(
        ResponseBody.model_validate({"model": "nbce", "input": "Who?", "tools": [TOOL]}), []
    )
    events = ResponseEvents(given, INFO)
    seen = [event for piece in pieces_of(answer, cuts) for event in events.push(piece)]
    [item] = seen[-1]["response"]["output"]
    assert (item["type"], item["arguments"]) == ("function_call", '{"of": "Zeta"}')


TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, among: value in among,
    "nin": lambda value, among: value not in among,
}
numbers = st.integers(0, 3)
comparisons = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(list(TESTS)[:6]), "key": st.sampled_from("ab"), "value": numbers}
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["in", "nin"]), "key": st.sampled_from("ab"), "value": st.lists(numbers)}
    ),
)
filters = st.recursive(
    comparisons,
    lambda parts: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(parts, min_size=1, max_size=3)}
    ),
    max_leaves=6,
)


def meets(one: dict[str, Any], attributes: dict[str, int]) -> bool:
    if one["type"] in ("and", "or"):
        return (all if one["type"] == "and" else any)(meets(part, attributes) for part in one["filters"])
    if one["key"] not in attributes:
        return one["type"] in ("ne", "nin")
    return TESTS[one["type"]](attributes[one["key"]], one["value"])


@given(filters, st.dictionaries(st.sampled_from("ab"), numbers))
def test_a_filter_means_what_it_says(one: dict[str, Any], attributes: dict[str, int]) -> None:
    condition = as_condition(where_of(one))
    assert condition.holds(Fields(attributes, {})) == meets(one, attributes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=8), parts, max_size=3),
    max_leaves=8,
)
KEYS = (
    "type",
    "filters",
    "key",
    "value",
    "role",
    "content",
    "text",
    "id",
    "data",
    "source",
    "tool_calls",
    "function",
)
shaped = st.recursive(
    json_values,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from(KEYS), parts, max_size=4),
    max_leaves=10,
)


@given(shaped)
def test_what_is_sent_is_understood_or_refused(value: Any) -> None:
    """Nothing else comes out of the translation than a refusal that names its place."""
    for translate in (where_of, messages_of, lambda one: passages_of([one])):
        refusal = None
        try:
            translate(value)
        except ServerError as error:
            refusal = error
        assert refusal is None or (refusal.status == 400 and refusal.param)


@given(st.text(min_size=1), st.text(max_size=9), st.text(max_size=9))
def test_the_forms_of_a_document_are_one(text: str, name: str, title: str) -> None:
    flat = {"id": name, "text": text, "title": title, "year": 3}
    cohere = {"id": name, "data": {"text": text, "title": title, "year": 3}}
    snippet = {"id": name, "data": {"snippet": text, "title": title, "year": 3}}
    one, other, third = passages_of([flat, cohere, snippet])
    assert one == other == third
    assert one.metadata == {"year": 3}
    assert passages_of([text])[0].text == Passage(text).text


@given(shaped, st.text())
def test_whatever_is_said_can_be_sent(value: Any, text: str) -> None:
    try:
        line = json_text([value, text, "\ud800"])
    except ValueError:  # NaN and infinity, which no reply holds
        return
    assert json.loads(line.encode())[1] == text
    event = sse_event([text], "piece")
    assert event.count(b"\n") == 3


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_has_its_form(name: str) -> None:
    reply = error_reply(getattr(errors, name)("Why."))
    assert 400 <= reply.status < 600
    assert set(reply.body["error"]) == {"message", "type", "param", "code"}
    assert ("Why." in reply.body["error"]["message"]) == (reply.status != 500)
    refused = error_reply(ServerError(429, "Wait.", retry_after=0.2))
    assert refused.headers == {"Retry-After": "1"}


def test_links_tell_passages_apart_and_no_paths() -> None:
    links = Links("http://here", sign=lambda path: path + "?sig=x")
    inside = Passage("a", id="a/b c", source="/etc/secret.md")
    assert links.source(inside, Home("codes", "a/b c")) == "http://here/source/codes/a%2Fb%20c?sig=x"
    assert links.source(inside, Home(None, "a b")) == "document:a%20b"
    assert links.source(PASSAGES[1], Home("laws", "market")) == "https://example.org/m"
    told = nbce_object(Outcome(an_answer("Ada", PASSAGES, [(1.0, 0.0)]), RETRIEVED), INFO)
    assert [one["index"] for one in told["passages"]] == ["codes", "laws"]


def test_no_web_framework_is_loaded_for_it() -> None:
    code = (
        "import sys, nbce_rag, nbce_rag.server; assert 'pydantic' not in sys.modules\n"
        "from nbce_rag.server.wire import chat, completions, embeddings, response_events, stores\n"
        "assert not {'fastapi', 'starlette', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
