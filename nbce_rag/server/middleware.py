"""What stands around the routes, from outside: the record, other origins, the gate."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from .gate import Gate
from .operation import Operation
from .recording import Recording

__all__ = ["add_middleware"]


def add_middleware(app: FastAPI, operation: Operation) -> None:
    """Puts them around an application; the last one that is added is the first that a request meets."""
    app.add_middleware(Gate, operation=operation)
    if origins := operation.settings.cors_origins:
        # Before the gate: what browsers ask first has no key. Keys travel in a header, so no credentials.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Recording, operation=operation)
