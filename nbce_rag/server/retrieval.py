"""Passages for a question: from indexes, from the request itself, or from both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..engine.rag import Rag
from ..errors import ContextLengthError, InputError
from ..noncharacters import strip_marks
from ..passages import Passage
from ..prompts.prompt import Prompt
from ..request import Request
from .ask import Ask, Home, Retrieved
from .policy import Policy
from .served import Served
from .wire.errors import not_found
from .wording import request_of

__all__ = ["check", "explanation", "rags_of", "retrieve"]

_CONDENSE = (
    "Rewrite the last question of this conversation so that it can be understood without the rest of it. "
    "Reply with the question alone.\n\n"
)
_CONDENSED_TOKENS = 64


def rags_of(served: Served, names: Sequence[str], caller: Any, policy: Policy) -> dict[str, Rag]:
    """The indexes of these names.

    Raises:
        ServerError: one of them is not there, or the caller may not know of it, which is the same.
        InputError: they were made with different embedders, whose scores cannot be compared.
    """
    rags = {}
    for name in names:
        rag = served.rags.get(name)
        if rag is None or not policy.may_read(caller, name):
            raise not_found(
                f"There is no index {name!r}; GET /v1/indexes lists those that there are.",
                param="index",
                code="index_not_found",
            )
        rags[name] = rag
    embedders = {name: rag.index.embedder_name for name, rag in rags.items()}
    if len(set(embedders.values())) > 1:
        told = ", ".join(f"{name} by {embedder}" for name, embedder in embedders.items())
        raise InputError(f"These indexes were made with different embedders ({told}); ask them one by one.")
    return rags


def check(served: Served, ask: Ask, caller: Any, policy: Policy) -> Request:
    """The request of a question, without what is yet to be found; says what is wrong with it, if anything is.

    Raises:
        ServerError: an index that is not there.
        InputError: an empty question, unknown or impossible options.
        ContextLengthError: it does not fit into the model's window even without passages.
    """
    for rag in rags_of(served, ask.indexes, caller, policy).values():
        rag.retrieve([], **_search(served, ask))
    request, _ = request_of(served.nbce, ask, ask.documents, is_retrieved=_looks(ask))
    if request.options.thinking is not True:  # a thought gives way where there is little room
        _check_window(served, request)
    return request


def retrieve(served: Served, ask: Ask, rags: Mapping[str, Rag]) -> tuple[Request, Retrieved, tuple[str, ...]]:
    """A question's request with its passages; what was retrieved; and notes. Searches, so it takes a while.

    From one index alone, each part of a question is searched for (`Rag`). Passages of several indexes are
    put together by their scores, and those that came with the request stand before them.

    Raises:
        NbceError: what a search raises.
    """
    request, notes = request_of(served.nbce, ask, ask.documents, is_retrieved=_looks(ask))
    if not rags:
        return request, Retrieved(request.question, tuple(request.passages)), notes
    started = time.perf_counter()
    query = _condensed(served, ask, request) if ask.condense else request.question
    search = _search(served, ask)
    own = tuple(request.passages)
    if len(rags) == 1 and not own and query == request.question:
        [(name, rag)] = rags.items()
        [request], seconds = rag.retrieve([request], **search)
        homes = {passage.content_hash: Home(name, passage.id) for passage in request.passages}
        return request, Retrieved(query, tuple(request.passages), homes, seconds), notes
    asked = replace(request, question=query, passages=(), options=request.options.updated(parts=False))
    found: list[tuple[Passage, str]] = []
    for name, rag in rags.items():
        [one], _ = rag.retrieve([asked], **search)
        found += [(passage, name) for passage in one.passages]
    if len(rags) > 1:
        most = max((sum(name == one for _, one in found) for name in rags), default=0)
        found = sorted(found, key=lambda pair: -(pair[0].score or 0.0))[:most]
    homes = {passage.content_hash: Home(None, passage.id) for passage in own}
    for passage, name in found:
        clean = replace(passage, text=strip_marks(passage.text))
        homes.setdefault(clean.content_hash, Home(name, passage.id))
    contexts = [*own, *(passage for passage, _ in found)]
    request, notes = request_of(served.nbce, ask, contexts, is_retrieved=True)
    seconds = time.perf_counter() - started
    return request, Retrieved(query, tuple(request.passages), homes, seconds), notes


def _check_window(served: Served, request: Request) -> None:
    most, window = request.options.max_tokens, served.nbce.window
    needed = served.nbce.window_needed(replace(request, passages=()))
    if needed > window:
        raise ContextLengthError(
            f"The conversation and an answer of up to {most} tokens need {needed} tokens, and the model's "
            f"window has {window}. Shorten it, or lower max_tokens."
        )


def explanation(served: Served, ask: Ask) -> str:
    """Why nothing was found, in a sentence."""
    search = {name: value for name, value in _search(served, ask).items() if name not in ("k", "rerank")}
    reasons = [served.rags[name].explain(**search) for name in ask.indexes]
    return " ".join(dict.fromkeys(reasons)) or "No documents were given, and no index was named."


def _looks(ask: Ask) -> bool:
    """Whether there are passages, or a place to look for them, outside of the messages."""
    return bool(ask.indexes) or bool(ask.documents)


def _search(served: Served, ask: Ask) -> dict[str, Any]:
    """Options of the search, with the server's reranker where one is asked for."""
    search = dict(ask.search)
    rerank = search.pop("rerank", None)
    if rerank:
        if served.reranker is None:
            raise InputError("rerank=true needs a reranker, and the server has none; leave it out.")
        search["rerank"] = served.reranker
    return search


def _condensed(served: Served, ask: Ask, request: Request) -> str:
    """The last question as the model words it so that it stands alone; itself where nothing stands before."""
    told = [message for message in ask.messages if message.role in ("user", "assistant")]
    if len(told) < 2:
        return request.question
    lines = [
        f"{message.role}: {''.join(part for part in message.parts if isinstance(part, str)).strip()}"
        for message in told
    ]
    prompt = Prompt([{"role": "user", "content": _CONDENSE + "\n".join(lines)}])
    answer = served.nbce.answer(
        request.question,
        prompt=prompt,
        max_tokens=_CONDENSED_TOKENS,
        max_seconds=request.options.max_seconds,
    )
    return " ".join(answer.text.split()) or request.question
