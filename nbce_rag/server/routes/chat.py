"""`/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from ..ask import Retrieved
from ..asking import Answering, begin, gather
from ..dependencies import Caller, PolicyOf, ServedOf, SettingsOf, reply_info
from ..disconnect import until_disconnect
from ..openapi import STREAM_REPLY
from ..sse import EventStream, JSONReply, sse_event
from ..wire.chat import ChatBody, ChatChunks, chat_call, chat_reply
from .failures import guarded
from .models import readable

__all__ = ["router"]

router = APIRouter(tags=["openai"])


@router.post("/v1/chat/completions", responses=STREAM_REPLY)
async def chat(
    body: ChatBody,
    request: Request,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
    settings: SettingsOf,
) -> Response:
    """Go on with a conversation, from an index (`nbce-<index>`), from `documents`, or from neither (`nbce`).

    Citations are `annotations` of the message, and all that is known of them stands under `nbce`.
    """
    info = reply_info(request, body.model, "chatcmpl")
    call = chat_call(body, readable(served, caller, policy))
    answering = await begin(served, call.ask, caller, policy)
    if body.stream:
        events = guarded(_events(answering, ChatChunks(call, info)), sse_event)
        return EventStream(events, answering, ping_seconds=settings.ping_seconds)
    outcome = await until_disconnect(request, gather(answering))
    return JSONReply(chat_reply(outcome, call, info))


async def _events(answering: Answering, chunks: ChatChunks) -> AsyncGenerator[bytes, None]:
    yield sse_event(chunks.first())
    async for event in answering:
        if isinstance(event, Retrieved):
            chunks.retrieved = event
            continue
        for chunk in chunks.push(event, answering.notes):
            yield sse_event(chunk)
    yield sse_event("[DONE]")
