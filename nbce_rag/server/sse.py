"""Server-sent events: a stream that pings while nothing comes, and ends the work when nobody listens."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Protocol

import anyio
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["EventStream", "JSONReply", "json_text", "sse_event"]

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would hold events back
_PING = b": ping\n\n"


class _Closable(Protocol):
    async def aclose(self) -> None: ...


def json_text(value: Any) -> str:
    """JSON in one line that UTF-8 can encode; NaN and infinity, which JSON does not have, become null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:  # such as tools and metadata that are sent back as they came
        value = _finite(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which somebody sent us
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def sse_event(data: Any, name: str | None = None) -> bytes:
    """An event with JSON for data; a text goes as it stands, as in `data: [DONE]`."""
    text = data if isinstance(data, str) else json_text(data)
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {text}\n\n".encode()


class JSONReply(Response):
    """A reply in JSON, as `json_text` writes it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_text(content).encode()


class EventStream(StreamingResponse):
    """A reply that comes event by event.

    Args:
        events: the bytes of events.
        held: what is closed when the last one is sent or the client is gone, begun or not.
        ping_seconds: after so long without an event a comment is sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        held: _Closable,
        *,
        ping_seconds: float = 15.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(_with_pings(events, ping_seconds), headers={**_HEADERS, **(headers or {})})
        self._events, self._held = events, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):  # what ended the reply must not keep the rows
                await self._events.aclose()
                await self._held.aclose()


async def _with_pings(events: AsyncIterator[bytes], seconds: float) -> AsyncGenerator[bytes, None]:
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            # In a task of its own: whoever waits for it may stop waiting without ending it.
            coming = asyncio.ensure_future(anext(events))
            while not (await asyncio.wait({coming}, timeout=seconds))[0]:
                yield _PING
            try:
                data = coming.result()
            except StopAsyncIteration:
                return
            if data:
                yield data
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({coming})
