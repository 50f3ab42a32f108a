"""`/v1/embeddings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from ...embedding.embedder import Embedder
from ..asking import to_its_end
from ..dependencies import Caller, PolicyOf, ServedOf
from ..disconnect import until_disconnect
from ..policy import Policy
from ..served import Served
from ..sse import JSONReply
from ..wire.embeddings import EmbeddingBody, embedding_reply, texts_of
from ..wire.errors import bad_field
from ..wire.nbce_fields import model_index
from .models import readable

__all__ = ["router"]

router = APIRouter(tags=["openai"])


@router.post("/v1/embeddings")
async def embed(
    body: EmbeddingBody, request: Request, served: ServedOf, caller: Caller, policy: PolicyOf
) -> Response:
    """Vectors of texts by the embedder of an index, each of length 1."""
    embedder = _embedder(served, body.model, readable(served, caller, policy))
    texts = texts_of(body)
    for place, text in enumerate(texts):
        policy.check_text(len(text), f"input.{place}")
    work = _read(embedder, texts, body.input_type, caller, policy)
    vectors, tokens = await until_disconnect(request, work)
    return JSONReply(embedding_reply(vectors, body, tokens))


def _embedder(served: Served, model: str, available: Sequence[str]) -> Embedder:
    name = model_index(model, available)
    names = list(available) if name is None else [name]
    embedders = {served.rags[one].index.embedder_name: served.rags[one].index.embedder for one in names}
    if len(embedders) != 1:
        told = f"there are several embedders ({', '.join(embedders)})" if embedders else "there is no index"
        raise bad_field(
            "model", f"model={model!r} names no embedder, since {told}; name an index: nbce-<index>."
        )
    return next(iter(embedders.values()))


async def _read(
    embedder: Embedder, texts: list[str], kind: str, caller: Any, policy: Policy
) -> tuple[Any, int]:
    async with policy.reading(caller, texts):
        return await to_its_end(lambda: _vectors(embedder, texts, kind))


def _vectors(embedder: Embedder, texts: list[str], kind: str) -> tuple[Any, int]:
    """Unit vectors [n, d], and how many tokens were read, as far as the embedder can tell."""
    if kind == "query":
        vectors = np.stack([np.asarray(embedder.embed_query(text)).reshape(-1) for text in texts])
    else:
        vectors = np.asarray(embedder.embed(texts))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    count = getattr(embedder, "count_tokens", None)  # not all of them have it
    tokens = sum(count(text) for text in texts) if count is not None else 0
    return (vectors / np.where(lengths > 0, lengths, 1)).tolist(), tokens
