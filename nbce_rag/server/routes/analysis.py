"""`/v1/compare`, `/v1/attribute` and `/v1/score`: what passages say one by one, of a text, and of choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from ...request import Request as Question
from ..ask import Ask, Outcome, Retrieved
from ..asking import work_on
from ..dependencies import Caller, PolicyOf, ServedOf, reply_info
from ..disconnect import until_disconnect
from ..policy import Policy
from ..retrieval import explanation
from ..served import Served
from ..sse import JSONReply
from ..wire.errors import ServerError
from ..wire.own import AttributeBody, CompareBody, ScoreBody, ask_of, comparison_reply, scores_reply
from ..wire.reply import nbce_object
from .models import readable

__all__ = ["router"]

router = APIRouter(tags=["nbce"])
_T = TypeVar("_T")


@router.post("/v1/compare")
async def compare(
    body: CompareBody, request: Request, served: ServedOf, caller: Caller, policy: PolicyOf
) -> Response:
    """Let every passage answer for itself, and say who agrees with whom."""
    info = reply_info(request, "nbce", "compare")
    ask = ask_of(body, readable(served, caller, policy))

    def work(question: Question, retrieved: Retrieved) -> Any:
        return served.nbce.compare(question.question, _some(served, ask, question), **ask.options)

    comparison, retrieved = await _done(request, served, ask, caller, policy, work)
    return JSONReply(comparison_reply(comparison, retrieved, info))


@router.post("/v1/attribute")
async def attribute(
    body: AttributeBody, request: Request, served: ServedOf, caller: Caller, policy: PolicyOf
) -> Response:
    """Whose words a text is that somebody else wrote: a report like that of an answer, with `words`."""
    policy.check_text(len(body.text), "text")
    info = reply_info(request, "nbce", "attribute")
    ask = ask_of(body, readable(served, caller, policy))

    def work(question: Question, retrieved: Retrieved) -> Any:
        return served.nbce.attribute(
            question.question, _some(served, ask, question), body.text, **ask.options
        )

    answer, retrieved = await _done(request, served, ask, caller, policy, work)
    return JSONReply(nbce_object(Outcome(answer, retrieved), info, tokens=body.tokens))


@router.post("/v1/score")
async def score(
    body: ScoreBody, request: Request, served: ServedOf, caller: Caller, policy: PolicyOf
) -> Response:
    """How probable each of several answers is: classification, multiple choice."""
    for place, choice in enumerate(body.choices):
        policy.check_text(len(choice), f"choices.{place}")
    info = reply_info(request, "nbce", "score")
    ask = ask_of(body, readable(served, caller, policy))

    def work(question: Question, retrieved: Retrieved) -> Any:
        return served.nbce.score(question.question, question.passages, body.choices, **ask.options)

    scores, retrieved = await _done(request, served, ask, caller, policy, work)
    return JSONReply(scores_reply(scores, retrieved, info))


def _some(served: Served, ask: Ask, question: Question) -> Any:
    """The passages of a question.

    Raises:
        ServerError: there are none; the message says why.
    """
    if not question.passages:
        raise ServerError(400, f"No passage was found: {explanation(served, ask)}", code="no_passages")
    return question.passages


async def _done(
    request: Request,
    served: Served,
    ask: Ask,
    caller: Any,
    policy: Policy,
    work: Callable[[Question, Retrieved], _T],
) -> tuple[_T, Retrieved]:
    return await until_disconnect(request, work_on(served, ask, caller, policy, work))
