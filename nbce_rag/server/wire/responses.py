"""/v1/responses: what a request asks, and the response that answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field

from ..ask import Ask, Outcome, Retrieved
from .annotations import flat_annotations
from .logprobs import token_logprobs
from .nbce_fields import NbceFields, retrieval_ask
from .reply import ReplyInfo, nbce_object
from .response_input import input_messages
from .sampling import GenerationFields, answer_options, check_refused, ignored, schema_of
from .tools import CallReader, tools_of

__all__ = [
    "ResponseBody",
    "ResponseCall",
    "call_item",
    "message_item",
    "reasoning_item",
    "response_call",
    "response_object",
    "response_reply",
    "search_item",
    "text_part",
]

_REFUSED = (
    "previous_response_id",
    "conversation",
    "background",
    "prompt",
    "max_tool_calls",
    "logit_bias",
    "frequency_penalty",
    "presence_penalty",
)


class ResponseBody(GenerationFields):
    """Input to answer. Nothing is stored."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "nbce",
                    "input": "Who runs the ferry?",
                    "documents": [
                        "Ada runs the ferry.",
                        {"id": "timetable", "text": "The ferry leaves at noon."},
                    ],
                    "max_output_tokens": 16,
                }
            ]
        },
    )

    input: str | list[dict[str, Any]] = Field(min_length=1)
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    include: list[str] | None = None
    store: bool | None = None
    reasoning: dict[str, Any] | None = None
    truncation: str | None = None
    metadata: dict[str, Any] | None = None
    nbce: NbceFields | None = None


@dataclass(frozen=True, slots=True)
class ResponseCall:
    """A request that is understood.

    Attributes:
        body: the request, some of whose fields stand in the response again.
        ask: what it asks.
        nbce: its `nbce` object.
        has_search: whether it names indexes by a `file_search` tool.
        gives_results: whether what that found is wanted too.
        logprobs: whether the text has log-probs.
    """

    body: ResponseBody
    ask: Ask
    nbce: NbceFields
    has_search: bool
    gives_results: bool
    logprobs: bool


def response_call(body: ResponseBody, available: Sequence[str]) -> ResponseCall:
    """What a request asks.

    Args:
        body: the request.
        available: names of the indexes that the caller may read.

    Raises:
        ServerError: what cannot be done, with the name of its parameter.
    """
    check_refused(body, _REFUSED)
    tools = tools_of(body.tools, body.tool_choice, body.parallel_tool_calls)
    include = body.include or []
    notes = ignored(body, _REFUSED)
    if body.store:
        notes += ("The response is not stored, whatever store says.",)
    if (body.reasoning or {}).get("effort") not in (None, "none"):
        notes += ("reasoning.effort was ignored; nbce.options.thinking switches thinking on.",)
    logprobs = "message.output_text.logprobs" in include or bool(body.top_logprobs)
    ask, nbce = retrieval_ask(
        input_messages(body.input, body.instructions),
        model=body.model,
        documents=body.documents,
        nbce=body.nbce,
        file_search=tools.file_search,
        available=available,
        options=answer_options(
            body,
            max_tokens=body.max_output_tokens,
            top_logprobs=body.top_logprobs,
            # The schema stands flat here, where chat has it within.
            json_schema=tools.schema or schema_of((body.text or {}).get("format"), "text.format"),
        ),
        tools=tools.functions,
        is_parallel=tools.is_parallel,
        notes=notes,
    )
    gives_results = "file_search_call.results" in include
    return ResponseCall(body, ask, nbce, bool(tools.file_search), gives_results, logprobs)


def response_reply(outcome: Outcome, call: ResponseCall, info: ReplyInfo) -> dict[str, Any]:
    """The whole response."""
    answer, retrieved = outcome.answer, outcome.retrieved
    reader = CallReader(call.ask.tools, call.ask.is_parallel)
    text = reader.push(answer.text)
    rest, calls = reader.finish()
    text += rest
    items = []
    if call.has_search:
        items.append(search_item(call, retrieved, info))
    if answer.thought:
        items.append(reasoning_item(answer.thought, info))
    if text or not calls:
        annotations = [] if calls else flat_annotations(answer.citations, retrieved, info, answer.unsupported)
        logprobs = token_logprobs(answer.tokens) if call.logprobs else []
        items.append(message_item([text_part(text, annotations, logprobs)], info))
    items += [call_item(one, place, info) for place, one in enumerate(calls)]
    return response_object(call, info, items, outcome)


def response_object(
    call: ResponseCall,
    info: ReplyInfo,
    items: Sequence[Mapping[str, Any]] = (),
    outcome: Outcome | None = None,
) -> dict[str, Any]:
    """A response with some items of output; without an outcome it is still under way."""
    body = call.body
    made: dict[str, Any] = {
        "id": info.id,
        "object": "response",
        "created_at": info.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {name: str(value) for name, value in (body.metadata or {}).items()},
        "model": info.model,
        "output": list(items),
        "parallel_tool_calls": call.ask.is_parallel,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": body.temperature or 0.0,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
    }
    if outcome is None:
        return made
    answer = outcome.answer
    if answer.finish_reason == "length":
        made |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    else:
        made["status"] = "completed"
    counts = answer.usage
    made["usage"] = {
        "input_tokens": int(counts.prompt_tokens),
        "input_tokens_details": {"cached_tokens": int(counts.cached_tokens), "cache_write_tokens": 0},
        "output_tokens": int(counts.generated_tokens),
        "output_tokens_details": {"reasoning_tokens": int(counts.thought_tokens)},
        "total_tokens": int(counts.prompt_tokens + counts.generated_tokens),
    }
    made["nbce"] = nbce_object(outcome, info, tokens=call.nbce.tokens)
    return made


def text_part(
    text: str, annotations: Sequence[Mapping[str, Any]] = (), logprobs: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The text of a message, with its citations."""
    return {
        "type": "output_text",
        "text": text,
        "annotations": list(annotations),
        "logprobs": list(logprobs),
    }


def message_item(
    parts: Sequence[Mapping[str, Any]], info: ReplyInfo, status: str = "completed"
) -> dict[str, Any]:
    """The message of a response."""
    return {
        "id": _item_id("msg", info),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": list(parts),
    }


def reasoning_item(thought: str | None, info: ReplyInfo) -> dict[str, Any]:
    """What was thought before the answer; None for one that has just begun."""
    summary = [] if thought is None else [{"type": "summary_text", "text": thought}]
    return {"id": _item_id("rs", info), "type": "reasoning", "summary": summary}


def call_item(
    call: Mapping[str, Any], place: int, info: ReplyInfo, status: str = "completed"
) -> dict[str, Any]:
    """A call of a tool; `call` as `CallReader` gives it."""
    return {
        "id": f"{_item_id('fc', info)}_{place}",
        "type": "function_call",
        "status": status,
        "call_id": call["id"],
        "name": call["name"],
        "arguments": call["arguments"] if status == "completed" else "",
    }


def search_item(
    call: ResponseCall, retrieved: Retrieved, info: ReplyInfo, status: str = "completed"
) -> dict[str, Any]:
    """What a `file_search` tool looked for and, if that is wanted, found."""
    results = None
    if call.gives_results and status == "completed":
        results = [
            {
                "file_id": passage.id,
                "filename": passage.source or passage.title or passage.id,
                "score": passage.score,
                "text": passage.text,
                "attributes": {
                    name: value
                    for name, value in passage.metadata.items()
                    if isinstance(value, str | int | float | bool)
                },
            }
            for passage in retrieved.passages
        ]
    return {
        "id": _item_id("fs", info),
        "type": "file_search_call",
        "status": status,
        "queries": [retrieved.query] if retrieved.query else [],
        "results": results,
    }


def _item_id(kind: str, info: ReplyInfo) -> str:
    return f"{kind}_{info.id.partition('_')[2]}"
