"""Around every request: its id, its record, its line in the log, and its share of the metrics."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .logs import log_request
from .operation import Operation
from .record import CURRENT, RequestRecord
from .request_ids import HEADER, request_id
from .sse import JSONReply
from .wire.errors import error_reply

__all__ = ["Recording"]

_log = logging.getLogger("nbce_rag.server")


class Recording:
    """Middleware that notes what becomes of requests."""

    def __init__(self, app: ASGIApp, operation: Operation) -> None:
        self._app = app
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = dict(scope["headers"]).get(HEADER)
        record = RequestRecord(request_id(own), scope["method"])
        scope.setdefault("state", {})["request_id"] = record.request_id
        is_whole = False
        stall = self._operation.settings.limits.max_stall

        async def note_receive() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not is_whole:
                record.is_cancelled = True
            return message

        async def note_send(message: Message) -> None:
            nonlocal is_whole
            if message["type"] == "http.response.start":
                record.status = message["status"]
                head = [(name, value) for name, value in message.get("headers", ()) if name.lower() != HEADER]
                message["headers"] = [*head, (HEADER, record.request_id.encode())]
            # Else a client that does not read would keep its turn, and its rows, for ever.
            async with asyncio.timeout(stall):
                await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                is_whole = True

        token = CURRENT.set(record)
        self._operation.begin(record)
        try:
            await self._app(scope, note_receive, note_send)
        except Exception as error:
            record.error = type(error).__name__
            if isinstance(error, TimeoutError):
                record.is_cancelled = True
            if record.status:
                raise  # what has begun cannot become something else
            # Handled here, and not by what stands around all middleware: this reply too has its id.
            _log.error("A request failed", exc_info=error)
            reply = error_reply(error)
            response = JSONReply(reply.body, status_code=reply.status, headers=reply.headers)
            await response(scope, receive, note_send)
        finally:
            record.seconds = time.monotonic() - record.begun
            record.endpoint = _endpoint(scope)
            self._operation.finish(record)
            log_request(record, contents=self._operation.settings.log_content)
            CURRENT.reset(token)


def _endpoint(scope: Scope) -> str:
    """The route's pattern; of what has no route not the path, since anybody can make up any."""
    pattern = getattr(scope.get("route"), "path", None)
    return pattern if isinstance(pattern, str) and scope.get("endpoint") is not None else "other"
