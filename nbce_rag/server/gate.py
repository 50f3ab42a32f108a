"""Before every route: the name that was asked for, the page that asks, the key, and how often it asks.

A route that is added later stands behind it without a word: what is open is named here, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from .access import Caller, check_write
from .bodies import UPLOADS, limited_body
from .operation import Operation
from .record import CURRENT
from .sse import JSONReply
from .wire.errors import ServerError, error_reply

__all__ = ["HEALTH", "OPEN", "OPEN_FOLDERS", "SIGNED_FOLDER", "Gate"]

HEALTH = frozenset({"/livez", "/readyz", "/health"})
"""Open to everybody under any name: a load balancer asks by address, and learns nothing."""
OPEN = frozenset({"/", "/favicon.ico", "/docs", "/openapi.json"})
"""Open without a key: the page, which asks for one, and what the wire looks like."""
OPEN_FOLDERS = ("/page/",)
"""Files of the page."""
SIGNED_FOLDER = "/source/"
"""Opens with a key, or under an address that is signed."""


class Gate:
    """Middleware that lets in whom it knows, and leaves who it is in `request.state.caller`."""

    def __init__(self, app: ASGIApp, operation: Operation) -> None:
        self._app = app
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            caller = self._caller(scope)
            receive = limited_body(scope, _path(scope), receive, self._operation.settings.limits)
        except HTTPException as error:
            await _refuse(ServerError(error.status_code, error.detail), scope, receive, send, error.headers)
            return
        except ServerError as error:
            self._operation.metrics.reject(error.code or str(error.status))
            await _refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        record = CURRENT.get()
        if record is not None and caller is not None:
            record.caller = caller.name
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller | None:
        """Who asks; None where nobody is asked."""
        operation = self._operation
        path = _path(scope)
        if path in HEALTH:
            return None
        headers = Headers(scope=scope)
        operation.hosts.check_host(headers.get("host"))
        operation.hosts.check_origin(headers.get("origin"), headers.get("host"))
        if path != "/metrics":
            operation.drain.check()
        if path in OPEN or path.startswith(OPEN_FOLDERS):
            return None
        key = _key(headers)
        if key is None and path.startswith(SIGNED_FOLDER):
            raw = scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
            raw = raw.removeprefix(scope.get("root_path", ""))
            if operation.signer.opens(raw, scope.get("query_string", b"").decode("latin-1")):
                index = unquote(raw[len(SIGNED_FOLDER) :].split("/")[0])
                return Caller("signed-link", frozenset({index}))
        caller = operation.keys.ring().caller(key)
        if path in UPLOADS and scope.get("method") == "POST":
            check_write(caller, operation.settings.allow_write)  # before what it sends is read
        if scope.get("method") not in ("GET", "HEAD"):
            operation.rates.take(caller)
        return caller


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _key(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or None


async def _refuse(
    error: ServerError,
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: Mapping[str, str] | None = None,
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    reply = error_reply(error)
    reply.headers.update(headers or {})
    if error.status == 401:
        reply.headers["WWW-Authenticate"] = "Bearer"
    await JSONReply(reply.body, status_code=reply.status, headers=reply.headers)(scope, receive, send)
