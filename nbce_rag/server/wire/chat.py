"""/v1/chat/completions: what a request asks, and its reply, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field

from ...answers.answer import Answer, Piece
from ..ask import Ask, Outcome, Retrieved
from .annotations import chat_annotations, source_events
from .errors import bad_field
from .logprobs import token_logprobs
from .marks import marked
from .messages import messages_of
from .nbce_fields import NbceFields, retrieval_ask
from .reply import ReplyInfo, finish_reason, nbce_object, usage
from .sampling import GenerationFields, answer_options, check_refused, ignored, schema_of
from .tools import CallReader, tools_of

__all__ = ["ChatBody", "ChatCall", "ChatChunks", "chat_call", "chat_reply"]

_REFUSED = (
    "n",
    "logit_bias",
    "frequency_penalty",
    "presence_penalty",
    "audio",
    "functions",
    "function_call",
    "web_search_options",
)


class ChatBody(GenerationFields):
    """A conversation to go on with."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "nbce",
                    "messages": [{"role": "user", "content": "Who runs the ferry?"}],
                    "documents": [
                        "Ada runs the ferry.",
                        {"id": "timetable", "text": "The ferry leaves at noon."},
                    ],
                    "max_tokens": 16,
                }
            ]
        },
    )

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, description="The older name of max_completion_tokens.")
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    stream_options: dict[str, Any] | None = None
    modalities: list[str] | None = None
    nbce: NbceFields | None = None


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A request that is understood.

    Attributes:
        ask: what it asks.
        nbce: its `nbce` object.
        logprobs: whether the reply has log-probs.
        is_marked: whether numbers of sources are written into the text.
        include_usage: whether a stream ends with a chunk of usage.
    """

    ask: Ask
    nbce: NbceFields
    logprobs: bool
    is_marked: bool
    include_usage: bool


def chat_call(body: ChatBody, available: Sequence[str]) -> ChatCall:
    """What a request asks.

    Args:
        body: the request.
        available: names of the indexes that the caller may read.

    Raises:
        ServerError: what cannot be done, with the name of its parameter.
    """
    check_refused(body, _REFUSED)
    if body.modalities and body.modalities != ["text"]:
        raise bad_field(
            "modalities", f"modalities={body.modalities!r} is not supported; the model writes text."
        )
    tools = tools_of(body.tools, body.tool_choice, body.parallel_tool_calls)
    ask, nbce = retrieval_ask(
        messages_of(body.messages),
        model=body.model,
        documents=body.documents,
        nbce=body.nbce,
        file_search=tools.file_search,
        available=available,
        options=answer_options(
            body,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            stop=stop_strings(body.stop),
            top_logprobs=body.top_logprobs if body.logprobs else None,
            json_schema=tools.schema or schema_of(body.response_format, "response_format"),
        ),
        tools=tools.functions,
        is_parallel=tools.is_parallel,
        notes=ignored(body, _REFUSED),
    )
    options = body.stream_options or {}
    # What has to fit a grammar must not have more in it, and log-probs are those of the text as it came.
    is_free = not (ask.options.keys() & {"json_schema", "regex"} or ask.tools or body.logprobs)
    is_marked = nbce.marks == "numbers" and is_free
    return ChatCall(ask, nbce, bool(body.logprobs), is_marked, bool(options.get("include_usage")))


def stop_strings(stop: str | list[str] | None) -> list[str] | None:
    """Stop strings of a request, which may be one or several; empty ones end nothing."""
    if stop is None:
        return None
    return [text for text in ([stop] if isinstance(stop, str) else stop) if text]


def chat_reply(outcome: Outcome, call: ChatCall, info: ReplyInfo) -> dict[str, Any]:
    """The whole reply."""
    answer = outcome.answer
    reader = CallReader(call.ask.tools, call.ask.is_parallel)
    text = reader.push(answer.text)
    rest, calls = reader.finish()
    text += rest
    annotations = (
        [] if calls else chat_annotations(answer.citations, outcome.retrieved, info, answer.unsupported)
    )
    if call.is_marked:
        shown = marked(text, answer.citations)
        text, annotations = shown.text, shown.moved(annotations)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        "refusal": None,
        "annotations": annotations,
        "nbce": nbce_object(outcome, info, tokens=call.nbce.tokens),
    }
    if answer.thought:
        message["reasoning_content"] = answer.thought
    if calls:
        message["tool_calls"] = [_tool_call(one) for one in calls]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(answer) if call.logprobs else None,
        "finish_reason": finish_reason(answer, calls=bool(calls)),
    }
    return {
        "id": info.id,
        "object": "chat.completion",
        "created": info.created,
        "model": info.model,
        "choices": [choice],
        "usage": usage(answer),
    }


class ChatChunks:
    """Makes the chunks of a streamed reply.

    The role first, then text, annotations as soon as they are certain, the `nbce` object once, an empty delta
    with the reason of the end, and the usage if it was asked for.
    """

    def __init__(self, call: ChatCall, info: ReplyInfo) -> None:
        self._call, self._info = call, info
        self._reader = CallReader(call.ask.tools, call.ask.is_parallel)
        self._annotations = 0
        self.retrieved = Retrieved("")

    def first(self) -> dict[str, Any]:
        """The chunk before all others."""
        return self._chunk({"role": "assistant", "content": ""})

    def push(self, piece: Piece, notes: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """The chunks of a piece; of the last one, all that end the stream.

        Args:
            piece: what came.
            notes: for the `nbce` object of the last one.
        """
        answer = piece.answer
        chunks = [self._chunk({"reasoning_content": piece.thought})] if piece.thought else []
        text = "" if self._call.is_marked else self._reader.push(piece.text)
        calls: list[dict[str, Any]] = []
        if answer is not None:
            rest, calls = self._reader.finish()
            text += rest
            if self._call.is_marked:  # what is cited is known of the whole
                return [*chunks, *self._marked(answer), *self._last(answer, notes, False)]
        logprobs = {"content": token_logprobs(piece.tokens), "refusal": None} if self._call.logprobs else None
        if text or (logprobs and piece.tokens):
            chunks.append(self._chunk({"content": text}, logprobs=logprobs))
        chunks += [self._chunk({"tool_calls": deltas}) for call in calls for deltas in _deltas(call, calls)]
        # What might have become a call is cited when it is known to be none.
        told = answer if self._call.ask.tools else piece
        if told is not None and told.citations and not calls and not self._call.is_marked:
            chunks += self._annotated(told)
        if answer is not None:
            chunks += self._last(answer, notes, bool(calls))
        return chunks

    def _marked(self, answer: Answer) -> list[dict[str, Any]]:
        shown = marked(answer.text, answer.citations)
        annotations = chat_annotations(answer.citations, self.retrieved, self._info, answer.unsupported)
        self._annotations = len(annotations)
        deltas: list[dict[str, Any]] = [{"content": shown.text}] if shown.text else []
        deltas += [{"annotations": shown.moved(annotations)}] if annotations else []
        return [self._chunk(delta) for delta in deltas]

    def _annotated(self, told: Piece | Answer) -> list[dict[str, Any]]:
        annotations = chat_annotations(
            told.citations, self.retrieved, self._info, told.unsupported, self._annotations
        )
        self._annotations += len(annotations)
        return [self._chunk({"annotations": annotations})]

    def _last(self, answer: Answer, notes: tuple[str, ...], has_calls: bool) -> list[dict[str, Any]]:
        outcome = Outcome(answer, self.retrieved, notes)
        told = nbce_object(outcome, self._info, tokens=self._call.nbce.tokens)
        last = {"nbce": told} if self._annotations else {"annotations": [], "nbce": told}
        chunks = [self._chunk(last)]
        if self._call.nbce.events == "open-webui":
            chunks += source_events(answer.citations, self.retrieved, self._info)
        chunks.append(self._chunk({}, finish=finish_reason(answer, calls=has_calls)))
        if self._call.include_usage:
            chunks.append({**self._head(), "choices": [], "usage": usage(answer)})
        return chunks

    def _chunk(
        self, delta: dict[str, Any], *, logprobs: dict[str, Any] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head(), "choices": [choice]}

    def _head(self) -> dict[str, Any]:
        info = self._info
        return {
            "id": info.id,
            "object": "chat.completion.chunk",
            "created": info.created,
            "model": info.model,
        }


def _deltas(call: dict[str, Any], calls: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """A call as a stream has it: its name first, then its arguments."""
    index = calls.index(call)
    head = {"index": index, **_tool_call({**call, "arguments": ""})}
    return [[head], [{"index": index, "function": {"arguments": call["arguments"]}}]]


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"id": call["id"], "type": "function", "function": function}


def _logprobs(answer: Answer) -> dict[str, Any]:
    return {"content": token_logprobs(answer.tokens), "refusal": None}
