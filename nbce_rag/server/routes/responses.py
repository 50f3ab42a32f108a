"""`/v1/responses`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any

from fastapi import APIRouter, Request, Response

from ..ask import Retrieved
from ..asking import Answering, begin, gather
from ..dependencies import Caller, PolicyOf, ServedOf, SettingsOf, reply_info
from ..disconnect import until_disconnect
from ..openapi import STREAM_REPLY
from ..sse import EventStream, JSONReply, sse_event
from ..wire.response_events import ResponseEvents
from ..wire.responses import ResponseBody, response_call, response_reply
from .failures import guarded
from .models import readable

__all__ = ["router"]

router = APIRouter(tags=["openai"])


@router.post("/v1/responses", responses=STREAM_REPLY)
async def respond(
    body: ResponseBody,
    request: Request,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
    settings: SettingsOf,
) -> Response:
    """Answer an input, from an index (`nbce-<index>`, or `file_search`), from `documents`, or from neither.

    Nothing is stored. Citations are annotations of the text, streamed too; `nbce` has all that is known.
    """
    info = reply_info(request, body.model, "resp", separator="_")
    call = response_call(body, readable(served, caller, policy))
    answering = await begin(served, call.ask, caller, policy)
    if body.stream:
        made = ResponseEvents(call, info)
        events = guarded(_events(answering, made), lambda error: _bytes(made.failed(error)))
        return EventStream(events, answering, ping_seconds=settings.ping_seconds)
    outcome = await until_disconnect(request, gather(answering))
    return JSONReply(response_reply(outcome, call, info))


async def _events(answering: Answering, made: ResponseEvents) -> AsyncGenerator[bytes, None]:
    yield _bytes(made.first())
    async for event in answering:
        if isinstance(event, Retrieved):
            yield _bytes(made.retrieved(event))
        else:
            yield _bytes(made.push(event, answering.notes))


def _bytes(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(sse_event(event, event["type"]) for event in events)
