"""Errors of routes: one form on every address, also where something has been sent already."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ...errors import NbceError
from ..sse import JSONReply
from ..wire.errors import ErrorReply, error_reply, status_reply, validation_reply

__all__ = ["add_handlers", "guarded"]

_log = logging.getLogger("nbce_rag.server")


async def guarded(
    events: AsyncGenerator[bytes, None], told: Callable[[dict[str, Any]], bytes]
) -> AsyncGenerator[bytes, None]:
    """Events of a stream; what goes wrong becomes the last of them, as `told` writes it."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        yield told(_reply(error).body)
    finally:
        await events.aclose()


def add_handlers(app: FastAPI) -> None:
    """Every error of an application in OpenAI's form."""

    async def on_error(request: Request, error: Exception) -> Response:
        return _response(_reply(error))

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _response(validation_reply(error.errors()))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reply = status_reply(error.status_code, _told(request, error))
        reply.headers.update(error.headers or {})
        return _response(reply)

    app.add_exception_handler(NbceError, on_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_error)


def _reply(error: Exception) -> ErrorReply:
    reply = error_reply(error)
    if reply.status >= 500 and not (isinstance(error, NbceError) and reply.status in (503, 504)):
        _log.error("A request failed", exc_info=error)
    return reply


def _told(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"There is nothing at {request.url.path}; GET /openapi.json says what there is."
    if error.status_code == 405:
        return f"{request.method} is not possible at {request.url.path}."
    return str(error.detail)


def _response(reply: ErrorReply) -> Response:
    return JSONReply(reply.body, status_code=reply.status, headers=reply.headers)
