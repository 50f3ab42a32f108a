"""`/v1/engine` and `/v1/requests`: the engine as it is, for `nbce_rag.RemoteNBCE` and the adapters over it.

Requests and answers are those of `nbce_rag.answers.wire`, with nothing left out. Who asks brings the
passages; no index is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import PurePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ... import errors
from ...answers.answer import Answer
from ...answers.wire import VERSION, from_wire, to_wire
from ...client.description import EngineDescription
from ...engine.nbce import NBCE
from ...errors import InputError, NbceError
from ...prompts.template import STYLES, PromptTemplate
from ...request import Request as EngineRequest
from ...values import mended
from ..dependencies import Caller, PolicyOf, ServedOf, SettingsOf
from ..disconnect import until_disconnect
from ..sse import EventStream, JSONReply, sse_event
from ..together import Together, begin_together, within_limits
from ..wire.errors import ServerError, error_reply
from .failures import guarded

__all__ = ["router"]

router = APIRouter(tags=["engine"])
_MOST = 256  # requests at once


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    version: Literal[1] = Field(description="Of nbce_rag.answers.wire.")


class TextBody(BaseModel):
    """A text to be made token ids of."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"text": "Who runs the ferry?"}]}
    )

    text: str


class RequestsBody(_Body):
    """Requests to be answered together."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "version": 1,
                    "requests": [
                        {"question": "Who runs the ferry?", "passages": [{"text": "Ada runs the ferry."}]}
                    ],
                }
            ]
        },
    )

    requests: Annotated[list[Any], Field(min_length=1, max_length=_MOST)]
    stream: bool = Field(False, description="Events, each a piece of one of the answers.")
    pieces: bool = Field(
        True, description="With stream: false sends the last pieces alone, with the answers."
    )


class RequestBody(_Body):
    """A request that something else than an answer is asked of."""

    request: Any
    k: int | None = Field(None, description="rerank: how many passages.")
    choices: list[str] | None = Field(
        None, max_length=_MOST, description="score: the answers to choose from."
    )
    text: str | None = Field(None, description="attribute: the answer that somebody else wrote.")
    answer: Any = Field(None, description="ablate: an answer of this engine.")


@router.get("/v1/engine")
async def engine(served: ServedOf) -> Response:
    """What must be known of the engine where requests are made."""
    return JSONReply(to_wire(_description(served.nbce)))


@router.post("/v1/engine/tokens")
async def tokens(body: TextBody, served: ServedOf, policy: PolicyOf) -> Response:
    """Token ids of a text, without special tokens."""
    policy.check_text(len(body.text), "text")
    ids = await asyncio.to_thread(served.nbce.model.tokenizer.encode, mended(body.text))
    return JSONReply({"ids": list(ids)})


@router.post("/v1/requests")
async def requests(
    body: RequestsBody,
    request: Request,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
    settings: SettingsOf,
) -> Response:
    """Answer requests, with all their evidence.

    With `stream` it is events `piece` (`{"request": place, "piece": {...}}`), or `error`; the last piece of
    each request holds its answer.
    """

    async def answered() -> Response:
        asked = [_request(one, f"requests.{place}") for place, one in enumerate(body.requests)]
        together = await begin_together(served, asked, caller, policy)
        if body.stream:
            events = _events(together, whole=not body.pieces)
            guarded_events = guarded(events, lambda error: sse_event(error, "error"))
            return EventStream(guarded_events, together, ping_seconds=settings.ping_seconds)
        answers = await until_disconnect(request, _answers(together, len(asked)))
        return JSONReply({"version": VERSION, "answers": [to_wire(answer) for answer in answers]})

    return await _with_kinds(answered)


@router.post("/v1/requests/{what}", include_in_schema=False)
async def asked_of(
    what: Literal["ablate", "attribute", "compare", "rerank", "score"],
    body: RequestBody,
    request: Request,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
) -> Response:
    """Compare, score, rerank or attribute over a request's passages, or ablate an answer of it."""

    async def answered() -> Response:
        policy.check_text(len(body.text or ""), "text")
        for place, choice in enumerate(body.choices or ()):
            policy.check_text(len(choice), f"choices.{place}")
        one, _ = within_limits(policy, caller, _request(body.request, "request"))
        result = await until_disconnect(request, _done(what, one))
        return JSONReply({"version": VERSION, "result": to_wire(result)})

    async def _done(what: str, one: EngineRequest) -> Any:
        async with policy.admitted(caller, one):
            working = asyncio.ensure_future(asyncio.to_thread(_WORK[what], served.nbce, one, body))
            try:
                return await asyncio.shield(working)
            finally:
                if not working.done():  # a thread cannot be interrupted
                    await asyncio.wait([working])

    return await _with_kinds(answered)


async def _with_kinds(answered: Callable[[], Awaitable[Response]]) -> Response:
    """A reply in which errors name their class, so that the other side can raise the same."""
    try:
        return await answered()
    except ServerError:
        raise
    except NbceError as error:
        reply = error_reply(error)
        if reply.status >= 500 and reply.status != 504:
            raise  # whose reason is logged, and not told
        return JSONReply(_with_kind(reply.body, error), status_code=reply.status, headers=reply.headers)


def _with_kind(body: dict[str, Any], error: NbceError) -> dict[str, Any]:
    kind = next(one.__name__ for one in type(error).__mro__ if one.__name__ in errors.__all__)
    return {"error": {**body["error"], "kind": kind}}


async def _events(together: Together, *, whole: bool) -> AsyncGenerator[bytes, None]:
    async with aclosing(together):
        try:
            async for place, piece in together:
                if piece.answer is None and whole:
                    continue
                if whole:
                    piece = replace(piece, text="", tokens=(), thought="")
                yield sse_event({"request": place, "piece": to_wire(piece)}, "piece")
        except NbceError as error:
            reply = error_reply(error)
            if reply.status >= 500 and reply.status != 504:
                raise
            yield sse_event(_with_kind(reply.body, error), "error")


async def _answers(together: Together, count: int) -> list[Answer]:
    async with aclosing(together):
        answers = {place: piece.answer async for place, piece in together if piece.answer is not None}
    return [answers[place] for place in range(count)]


def _request(value: Any, param: str) -> EngineRequest:
    try:
        return from_wire(EngineRequest, value)
    except InputError as error:
        raise type(error)(f"{param}: {error}") from error


def _arguments(request: EngineRequest) -> dict[str, Any]:
    """What `NBCE.request` makes the same of, beside question and passages."""
    options = {field.name: getattr(request.options, field.name) for field in fields(request.options)}
    return {"prompt": request.prompt, **options}


def _compare(nbce: NBCE, request: EngineRequest, body: RequestBody) -> Any:
    return nbce.compare(request.question, request.passages, **_arguments(request))


def _rerank(nbce: NBCE, request: EngineRequest, body: RequestBody) -> Any:
    return nbce.rerank(request.question, request.passages, body.k, **_arguments(request))


def _score(nbce: NBCE, request: EngineRequest, body: RequestBody) -> Any:
    return nbce.score(request.question, request.passages, body.choices or [], **_arguments(request))


def _attribute(nbce: NBCE, request: EngineRequest, body: RequestBody) -> Any:
    return nbce.attribute(request, text=body.text or "")


def _ablate(nbce: NBCE, request: EngineRequest, body: RequestBody) -> Any:
    return nbce.ablate(replace(from_wire(Answer, body.answer), request=request))


_WORK: dict[str, Callable[[NBCE, EngineRequest, RequestBody], Any]] = {
    "ablate": _ablate,
    "attribute": _attribute,
    "compare": _compare,
    "rerank": _rerank,
    "score": _score,
}


def _description(nbce: NBCE) -> EngineDescription:
    model = nbce.model
    if nbce.has_own_prompt:
        prompts = dict.fromkeys(("", *STYLES), nbce.prompt)
    else:
        prompts = {style: PromptTemplate.for_tokenizer(model.tokenizer, style) for style in STYLES}
        prompts[""] = PromptTemplate.for_tokenizer(model.tokenizer)
    return EngineDescription(
        version=VERSION,
        model=PurePath(model.name).name,  # where it lies on the server is nobody's business
        fingerprint=model.fingerprint,
        window=nbce.window,
        has_chat_template=model.tokenizer.has_chat_template,
        can=replace(model.can, grammar=model.can.grammar and find_spec("llguidance") is not None),
        options=nbce.options,
        prompts=prompts,
        has_own_prompt=nbce.has_own_prompt,
    )
