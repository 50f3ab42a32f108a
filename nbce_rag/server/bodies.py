"""Bodies of requests that are no longer than they may be, whether they say their length or not."""

from __future__ import annotations

import asyncio

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
        limits: `max_body_bytes`, `max_stall` and, where files come in, `max_upload_bytes` count.

    Raises:
        HTTPException: it says itself that it is too long (413), or says its length in two ways (400). What is
            given raises when it is too long (413), or nothing comes for too long (408).
    """
    most, name = limits.max_body_bytes, "max_body_bytes"
    if path in UPLOADS:
        most, name = limits.max_upload_bytes + _FORM_BYTES, "max_upload_bytes"
    # HTTP's own error: what reads bodies lets it through, and makes 400 of any other.
    too_long = HTTPException(413, f"The request is over this server's limit {name}={getattr(limits, name)}.")
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    if length and "transfer-encoding" in headers:
        # A proxy before this server may go by the other one, and see the next request elsewhere.
        close = {"Connection": "close"}
        raise HTTPException(400, "The request says its length twice, by Content-Length and chunked.", close)
    if length.isdecimal() and int(length) > most:
        raise too_long
    total, is_whole = 0, False

    async def receive_some() -> Message:
        nonlocal total, is_whole
        if is_whole:
            return await receive()  # what is left to wait for is that the client leaves
        try:
            async with asyncio.timeout(limits.max_stall):
                message = await receive()
        except TimeoutError:
            reason = f"The request stood still for {limits.max_stall:g} s (max_stall) before it was whole."
            raise HTTPException(408, reason, {"Connection": "close"}) from None
        if message["type"] == "http.request":
            total += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if total > most:
                raise too_long
        return message

    return receive_some
