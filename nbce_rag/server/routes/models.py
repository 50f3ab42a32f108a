"""`/v1/models` and `/v1/indexes`: what there is to ask."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from ..dependencies import Caller, PolicyOf, ServedOf, SettingsOf
from ..policy import Policy
from ..served import PLAIN, Served, model_id
from ..wire.errors import not_found

__all__ = ["readable", "router"]

router = APIRouter(tags=["models"])
_CREATED = 1764201600  # a moment for all of them: what is served does not change while it is


def readable(served: Served, caller: Any, policy: Policy) -> list[str]:
    """Names of the indexes that a caller may read."""
    return [name for name in served.rags if policy.may_read(caller, name)]


@router.get("/v1/models")
async def list_models(served: ServedOf, caller: Caller, policy: PolicyOf) -> dict[str, Any]:
    """The models: `nbce` answers without retrieval, `nbce-<index>` from an index."""
    names = [None, *readable(served, caller, policy)]
    return {"object": "list", "data": [_model(model_id(name)) for name in names]}


@router.get("/v1/models/{model}")
async def get_model(model: str, served: ServedOf, caller: Caller, policy: PolicyOf) -> dict[str, Any]:
    """One model."""
    if model != PLAIN and model not in map(model_id, readable(served, caller, policy)):
        raise not_found(
            f"The model {model!r} does not exist; GET /v1/models lists those that do.",
            param="model",
            code="model_not_found",
        )
    return _model(model)


@router.get("/v1/indexes")
async def list_indexes(
    served: ServedOf, caller: Caller, policy: PolicyOf, settings: SettingsOf
) -> dict[str, Any]:
    """The indexes, with their models, passages and sources, and whether they take files of this caller."""
    names = readable(served, caller, policy)
    writable = settings.allow_write and caller is not None and caller.write
    return {"object": "list", "data": await asyncio.to_thread(_indexes, served, names, writable)}


def _indexes(served: Served, names: list[str], writable: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "object": "index",
            "model": model_id(name),
            "passages": len(index),
            "sources": len(index.sources()),
            "embedder": index.embedder_name,
            "dimension": index.dimension,
            "writable": writable,
        }
        for name in names
        for index in [served.rags[name].index]
    ]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "nbce-rag"}
