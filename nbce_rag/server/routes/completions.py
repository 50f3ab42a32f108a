"""`/v1/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response

from ..ask import Ask, Outcome, Retrieved
from ..asking import Answering, begin, gather
from ..dependencies import Caller, PolicyOf, ServedOf, SettingsOf, reply_info
from ..disconnect import until_disconnect
from ..openapi import STREAM_REPLY
from ..policy import Policy
from ..served import Served
from ..sse import EventStream, JSONReply, sse_event
from ..wire.completions import (
    CompletionBody,
    CompletionCall,
    completion_call,
    completion_chunks,
    completion_reply,
)
from ..wire.reply import ReplyInfo
from .failures import guarded
from .models import readable

__all__ = ["router"]

router = APIRouter(tags=["openai"])


@router.post("/v1/completions", responses=STREAM_REPLY)
async def complete(
    body: CompletionBody,
    request: Request,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
    settings: SettingsOf,
) -> Response:
    """Go on from a prompt as it stands; from an index or documents, answer it as a question."""
    info = reply_info(request, body.model, "cmpl")
    call = completion_call(body, readable(served, caller, policy))
    if body.stream:
        answering = await begin(served, call.asks[0], caller, policy)
        events = guarded(_events(answering, call, info), sse_event)
        return EventStream(events, answering, ping_seconds=settings.ping_seconds)
    outcomes = await until_disconnect(request, _all(served, call.asks, caller, policy))
    return JSONReply(completion_reply(outcomes, call, info))


async def _all(served: Served, asks: tuple[Ask, ...], caller: Any, policy: Policy) -> list[Outcome]:
    async def one(ask: Ask) -> Outcome:
        return await gather(await begin(served, ask, caller, policy))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(ask)) for ask in asks]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]


async def _events(answering: Answering, call: CompletionCall, info: ReplyInfo) -> AsyncGenerator[bytes, None]:
    async for event in answering:
        if isinstance(event, Retrieved):
            continue
        for chunk in completion_chunks(event, answering.retrieved, answering.notes, call, info):
            yield sse_event(chunk)
    yield sse_event("[DONE]")
