"""Bodies of requests that are no longer than they may be, whether they say their length or not."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from .limits import Limits

__all__ = ["UPLOADS", "limited_body"]

UPLOADS = ("/v1/files",)
"""Where files come in, which may be longer than questions."""
_FORM_BYTES = 64 << 10  # around a file: its name, the other fields


def limited_body(scope: Scope, path: str, receive: Receive, limits: Limits) -> Receive:
    """What reads the body and ends when it is too long.

    Args:
        scope, receive: of the request.
        path: below the root path.
        limits: `max_body_bytes` and, where files come in, `max_upload_bytes` count.

    Raises:
        HTTPException: it says itself that it is too long (413); so does what is given, when it is.
    """
    most, name = limits.max_body_bytes, "max_body_bytes"
    if path in UPLOADS:
        most, name = limits.max_upload_bytes + _FORM_BYTES, "max_upload_bytes"
    # HTTP's own error: what reads bodies lets it through, and makes 400 of any other.
    too_long = HTTPException(413, f"The request is over this server's limit {name}={getattr(limits, name)}.")
    length = Headers(scope=scope).get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_long
    total = 0

    async def receive_some() -> Message:
        nonlocal total
        message = await receive()
        if message["type"] == "http.request":
            total += len(message.get("body", b""))
            if total > most:
                raise too_long
        return message

    return receive_some
