"""/v1/completions: a plain prompt that is gone on from, or a question to an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ConfigDict, Field

from ...answers.answer import Piece
from ..ask import Ask, Message, Outcome, Retrieved
from .annotations import chat_annotations
from .chat import stop_strings
from .errors import bad_field
from .logprobs import completion_logprobs
from .nbce_fields import NbceFields, retrieval_ask
from .reply import ReplyInfo, finish_reason, nbce_object, usage
from .sampling import GenerationFields, answer_options, check_refused, ignored

__all__ = ["CompletionBody", "CompletionCall", "completion_call", "completion_chunks", "completion_reply"]

_REFUSED = ("n", "best_of", "logit_bias", "frequency_penalty", "presence_penalty", "suffix", "echo")
_MOST = 16  # prompts of one request
_AS_IT_STANDS = (
    "The prompt was gone on from as it stands; /v1/chat/completions words questions for the model "
    "(in LlamaIndex: is_chat_model=True)."
)


class CompletionBody(GenerationFields):
    """A text to go on from. From an index or documents it is a question, which the engine words."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "nbce",
                    "prompt": "Who runs the ferry?",
                    "documents": [
                        "Ada runs the ferry.",
                        {"id": "timetable", "text": "The ferry leaves at noon."},
                    ],
                    "max_tokens": 16,
                }
            ]
        },
    )

    prompt: str | list[Any] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    stream_options: dict[str, Any] | None = None
    nbce: NbceFields | None = None


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A request that is understood: a question for each prompt."""

    asks: tuple[Ask, ...]
    nbce: NbceFields
    logprobs: bool
    include_usage: bool


def completion_call(body: CompletionBody, available: Sequence[str]) -> CompletionCall:
    """What a request asks.

    Raises:
        ServerError: what cannot be done, with the name of its parameter.
    """
    check_refused(body, _REFUSED)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise bad_field("prompt", "prompt must be a text, or several; token ids are not taken.")
    if len(prompts) > (1 if body.stream else _MOST):
        most = "one prompt can be streamed" if body.stream else f"{_MOST} prompts are the most"
        raise bad_field("prompt", f"prompt has {len(prompts)} texts; {most}.")
    ask, nbce = retrieval_ask(
        (),
        model=body.model,
        documents=body.documents,
        nbce=body.nbce,
        file_search=(),
        available=available,
        options=answer_options(
            body, max_tokens=body.max_tokens, stop=stop_strings(body.stop), top_logprobs=body.logprobs
        ),
        notes=ignored(body, _REFUSED),
    )
    if not ask.indexes and not ask.documents:
        ask = replace(ask, wording="text", notes=(*ask.notes, _AS_IT_STANDS))
    asks = tuple(replace(ask, messages=(Message("user", (prompt,)),)) for prompt in prompts)
    include_usage = bool((body.stream_options or {}).get("include_usage"))
    return CompletionCall(asks, nbce, body.logprobs is not None, include_usage)


def completion_reply(outcomes: Sequence[Outcome], call: CompletionCall, info: ReplyInfo) -> dict[str, Any]:
    """The whole reply, a choice for each prompt."""
    counts = [usage(outcome.answer) for outcome in outcomes]
    total = {
        name: sum(one[name] for one in counts)
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in counts)
    return {
        **_head(info),
        "choices": [_choice(outcome, place, call, info) for place, outcome in enumerate(outcomes)],
        "usage": {**total, "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0}},
    }


def completion_chunks(
    piece: Piece, retrieved: Retrieved, notes: tuple[str, ...], call: CompletionCall, info: ReplyInfo
) -> list[dict[str, Any]]:
    """The chunks of a piece; of the last one, all that end the stream."""
    logprobs = completion_logprobs(piece.tokens) if call.logprobs else None
    chunks = []
    if piece.text or (logprobs and piece.tokens):
        choice = {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": None}
        chunks.append({**_head(info), "choices": [choice]})
    if piece.answer is not None:
        whole = _choice(Outcome(piece.answer, retrieved, notes), 0, call, info)
        chunks.append({**_head(info), "choices": [{**whole, "text": "", "logprobs": None}]})
        if call.include_usage:
            chunks.append({**_head(info), "choices": [], "usage": usage(piece.answer)})
    return chunks


def _choice(outcome: Outcome, place: int, call: CompletionCall, info: ReplyInfo) -> dict[str, Any]:
    answer = outcome.answer
    return {
        "index": place,
        "text": answer.text,
        "logprobs": completion_logprobs(answer.tokens) if call.logprobs else None,
        "finish_reason": finish_reason(answer),
        "annotations": chat_annotations(answer.citations, outcome.retrieved, info, answer.unsupported),
        "nbce": nbce_object(outcome, info, tokens=call.nbce.tokens),
    }


def _head(info: ReplyInfo) -> dict[str, Any]:
    return {"id": info.id, "object": "text_completion", "created": info.created, "model": info.model}
