"""Figures for Prometheus. With keys, those of an admin see them; to others there is nothing here."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..access import Caller
from ..metrics import CONTENT_TYPE
from ..operation import Operation
from ..wire.errors import not_found

__all__ = ["router"]

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """All figures, as text."""
    operation: Operation = request.app.state.policy
    caller: Caller = request.state.caller
    if not (operation.settings.metrics and caller.admin):
        raise not_found("There is nothing at /metrics; GET /openapi.json says what there is.")
    return Response(operation.metrics.text(), media_type=CONTENT_TYPE)
