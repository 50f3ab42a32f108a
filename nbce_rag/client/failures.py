"""A server's errors as exceptions of ours."""

from __future__ import annotations

import json
from typing import Any

from .. import errors
from ..errors import NbceError, RemoteError
from ..values import shown

__all__ = ["error_in", "error_of"]

_WAYS_OUT = {
    401: "give a key of the server's as api_key",
    403: "give a key that may do this",
    404: "base_url has to be that of `nbce-rag serve`, of the version of this package",
    413: "send fewer or shorter passages, or raise the limit where the server is started",
    429: "its queue is full: ask later, or give more max_retries",
    503: "it is loading its model, or going down: ask later, or give more max_retries",
}


def error_of(url: str, status: int, body: bytes) -> NbceError:
    """What a response of 400 and above says.

    Args:
        url: of the server, for the message.
        status: of HTTP.
        body: OpenAI's form of an error, or anything.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, dict) and (kind := _kind(error)) is not None:
        return kind(str(error.get("message")))
    message = error.get("message") if isinstance(error, dict) else shown(body[:200].decode(errors="replace"))
    way_out = f"; {_WAYS_OUT[status]}" if status in _WAYS_OUT else ""
    return RemoteError(f"The server at {url} answers {status}: {str(message).rstrip('.')}{way_out}.")


def error_in(url: str, data: Any) -> NbceError:
    """What an event "error" of a stream says."""
    error = data.get("error") if isinstance(data, dict) else None
    if not isinstance(error, dict):
        return RemoteError(f"The server at {url} sends an error that says nothing ({shown(data)}).")
    kind = _kind(error) or RemoteError
    return kind(str(error.get("message")))


def _kind(error: dict[str, Any]) -> type[NbceError] | None:
    """The class of an error, where the server names one of ours."""
    name = error.get("kind")
    if not isinstance(name, str) or name not in errors.__all__:
        return None
    kind = getattr(errors, name)
    return kind if isinstance(kind, type) and issubclass(kind, NbceError) else None
