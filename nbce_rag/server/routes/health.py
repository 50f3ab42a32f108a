"""Whether the server lives, and whether it can answer. Open to everybody, and there before the model is."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..drain import Drain
from ..served import Opening

__all__ = ["readiness", "router"]

router = APIRouter(tags=["operation"])
_LOADING_S = "5"


@router.get("/livez")
async def live() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
@router.get("/health", include_in_schema=False)
async def ready(request: Request) -> Response:
    """Whether questions are answered: 200, or 503 with the reason."""
    state = request.app.state
    status, reason = readiness(state.opening, state.policy.drain)
    if status == "ready":
        return JSONResponse({"status": status})
    return JSONResponse({"status": status, "reason": reason}, 503, headers={"Retry-After": _LOADING_S})


def readiness(opening: Opening, drain: Drain) -> tuple[str, str]:
    """The state of a server, "ready", "loading", "failed" or "draining", and a sentence on it."""
    if drain.has_begun:
        return "draining", "The server is being shut down."
    if opening.served is not None:
        return "ready", "Questions are answered."
    if opening.error is not None:
        return "failed", "The model or an index could not be opened; the log says why."
    return "loading", "The model and the indexes are being opened."
