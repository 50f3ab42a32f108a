"""`/v1/ask`: a question and its report, whole or as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from ..ask import Outcome, Retrieved
from ..asking import Answering, begin, gather
from ..dependencies import Caller, PolicyOf, ServedOf, SettingsOf, reply_info
from ..disconnect import until_disconnect
from ..openapi import REPORT_REPLY
from ..sse import EventStream, JSONReply, sse_event
from ..wire.own import AskBody, ask_of, retrieved_reply
from ..wire.reply import ReplyInfo, citation_item, nbce_object, token_item, unsupported_item
from .failures import guarded
from .models import readable

__all__ = ["router"]

router = APIRouter(tags=["nbce"])


@router.post("/v1/ask", responses=REPORT_REPLY)
async def ask(
    body: AskBody, request: Request, served: ServedOf, caller: Caller, policy: PolicyOf, settings: SettingsOf
) -> Response:
    """Answer a question from an index, from documents that come with it, or from both.

    The reply is the report of the answer, with `request_id`, `query` and `passages`. With `stream` it is
    events: `retrieved`, then `piece` by piece, then `answer` with the report; or `error`.
    """
    info = reply_info(request, "nbce", "ask")
    question = ask_of(body, readable(served, caller, policy))
    answering = await begin(served, question, caller, policy)
    if body.stream:
        events = guarded(_events(answering, info, body.tokens), lambda error: sse_event(error, "error"))
        return EventStream(events, answering, ping_seconds=settings.ping_seconds)
    outcome = await until_disconnect(request, gather(answering))
    return JSONReply(nbce_object(outcome, info, tokens=body.tokens))


async def _events(answering: Answering, info: ReplyInfo, tokens: bool) -> AsyncGenerator[bytes, None]:
    async for event in answering:
        if isinstance(event, Retrieved):
            yield sse_event(retrieved_reply(event, info), "retrieved")
            continue
        piece = {
            "text": event.text,
            "thought": event.thought,
            "tokens": [token_item(token) for token in event.tokens],
            "citations": [citation_item(one) for one in event.citations],
            "unsupported": [unsupported_item(one) for one in event.unsupported],
        }
        yield sse_event(piece, "piece")
        if event.answer is not None:
            outcome = Outcome(event.answer, answering.retrieved, answering.notes)
            yield sse_event(nbce_object(outcome, info, tokens=tokens), "answer")
