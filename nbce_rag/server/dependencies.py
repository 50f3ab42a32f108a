"""What routes need of the application and of a request."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from fastapi import Depends, Request

from .links import Links
from .policy import Policy
from .served import Opening, Served
from .settings import ServerSettings
from .wire.errors import ServerError
from .wire.reply import ReplyInfo

__all__ = ["Caller", "PolicyOf", "ServedOf", "SettingsOf", "links_of", "reply_info", "request_id_of"]

_LOADING_SECONDS = 5.0


def served_of(request: Request) -> Served:
    """What is served.

    Raises:
        ServerError: it is not loaded yet, or could not be (503).
    """
    opening: Opening = request.app.state.opening
    if opening.served is not None:
        return opening.served
    if opening.error is not None:
        raise ServerError(503, "The server could not load what it is to serve; its log says why.")
    raise ServerError(
        503, "The model is being loaded; try again in a moment.", code="loading", retry_after=_LOADING_SECONDS
    )


def policy_of(request: Request) -> Policy:
    """Who may do what."""
    policy: Policy = request.app.state.policy
    return policy


def caller_of(request: Request) -> Any:
    """Who asks, as whatever authenticates left it in `request.state.caller`; None for anybody."""
    return getattr(request.state, "caller", None)


def settings_of(request: Request) -> ServerSettings:
    """What the server was told."""
    settings: ServerSettings = request.app.state.settings
    return settings


ServedOf = Annotated[Served, Depends(served_of)]
PolicyOf = Annotated[Policy, Depends(policy_of)]
Caller = Annotated[Any, Depends(caller_of)]
SettingsOf = Annotated[ServerSettings, Depends(settings_of)]


def request_id_of(request: Request) -> str:
    """The id of a request, one of its own made if nobody gave it one."""
    given: str | None = getattr(request.state, "request_id", None)
    if given is None:
        given = request.state.request_id = f"req_{uuid.uuid4().hex}"
    return given


def links_of(request: Request) -> Links:
    """Addresses of sources, under the server's public address or the one by which it was reached."""
    settings: ServerSettings = request.app.state.settings
    base = settings.public_url or str(request.base_url)
    return Links(base.rstrip("/"), request.app.state.sign)


def reply_info(request: Request, model: str, kind: str, *, separator: str = "-") -> ReplyInfo:
    """What a reply says beside its answer; its id begins with `kind`."""
    return ReplyInfo(
        id=f"{kind}{separator}{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model,
        request_id=request_id_of(request),
        links=links_of(request),
    )
