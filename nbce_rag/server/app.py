"""The application: routes put together, over what is served."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI

from ..errors import NbceWarning
from .middleware import add_middleware
from .openapi import ERRORS, describe
from .operation import Operation
from .routes import (
    analysis,
    ask,
    chat,
    completions,
    embeddings,
    files,
    health,
    mcp,
    metrics,
    models,
    page,
    reference,
    requests,
    responses,
    sources,
    stores,
)
from .routes.failures import add_handlers
from .served import Opening, Served
from .settings import ServerSettings

__all__ = ["create_app"]


def create_app(settings: ServerSettings | None = None, served: Served | None = None) -> FastAPI:
    """An application for any ASGI server.

    Args:
        settings: what it is told.
        served: what it serves, open already; None opens what the settings say in a thread while the port
            listens, and closes it at the end.
    """
    settings = settings or ServerSettings()
    app = FastAPI(
        title="nbce-rag",
        version=version("nbce-rag"),
        description="Answers from passages, each read as a context of its own, cited by what was measured.",
        lifespan=_lifespan,
        responses=ERRORS,
        docs_url=None,
        redoc_url=None,
    )
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    operation = Operation(settings)
    app.state.settings = settings
    app.state.opening = Opening(settings, served)
    app.state.policy = operation
    app.state.sign = operation.signer.sign if settings.has_keys else None
    add_handlers(app)
    add_middleware(app, operation)
    operation.follow(app.state.opening)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(files.router, include_in_schema=settings.allow_write)
    app.include_router(reference.router)
    app.include_router(models.router)
    app.include_router(chat.router)
    app.include_router(responses.router)
    app.include_router(completions.router)
    app.include_router(embeddings.router)
    app.include_router(stores.router)
    app.include_router(ask.router)
    app.include_router(analysis.router)
    app.include_router(page.router)
    app.include_router(sources.router)
    app.include_router(requests.router)
    mcp.mount(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Answers carry them, and those who read them are elsewhere.
    warnings.filterwarnings("ignore", category=NbceWarning)
    opening: Opening = app.state.opening
    opening.start()
    try:
        yield
    finally:
        # Before the indexes that it writes to.
        await anyio.to_thread.run_sync(app.state.policy.jobs.close)
        await anyio.to_thread.run_sync(opening.close)
