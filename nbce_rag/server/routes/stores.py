"""`/v1/search` and `/v1/vector_stores/{id}/search`: passages alone."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from ..ask import Ask, Retrieved
from ..asking import work_on
from ..dependencies import Caller, PolicyOf, ServedOf, reply_info
from ..disconnect import until_disconnect
from ..policy import Policy
from ..retrieval import explanation
from ..served import Served
from ..sse import JSONReply
from ..wire.own import SearchBody, ask_of, retrieved_reply
from ..wire.stores import StoreSearchBody, store_ask, store_reply
from .models import readable

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/search", tags=["nbce"])
async def search(
    body: SearchBody, request: Request, served: ServedOf, caller: Caller, policy: PolicyOf
) -> Response:
    """Find passages without asking the model; `explanation` says why there are none."""
    info = reply_info(request, "nbce", "search")
    ask = ask_of(body, readable(served, caller, policy))
    retrieved = await _found(request, served, ask, caller, policy)
    why = None if retrieved.passages else await asyncio.to_thread(explanation, served, ask)
    return JSONReply({"request_id": info.request_id, **retrieved_reply(retrieved, info), "explanation": why})


@router.post("/v1/vector_stores/{vector_store_id}/search", tags=["openai"])
async def search_store(
    vector_store_id: str,
    body: StoreSearchBody,
    request: Request,
    served: ServedOf,
    caller: Caller,
    policy: PolicyOf,
) -> Response:
    """Search an index as OpenAI's clients search a vector store; its id is the index's name."""
    info = reply_info(request, "nbce", "search")
    ask = store_ask(body, vector_store_id)
    return JSONReply(store_reply(await _found(request, served, ask, caller, policy), info))


async def _found(request: Request, served: Served, ask: Ask, caller: Any, policy: Policy) -> Retrieved:
    _, retrieved = await until_disconnect(
        request, work_on(served, ask, caller, policy, lambda request, retrieved: None)
    )
    return retrieved
