"""`/mcp`: the tools over streamable HTTP, behind the same keys as every other route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route

from ...errors import MissingDependencyError
from ..dependencies import links_of
from ..links import Links

__all__ = ["mount"]

_PATH = "/mcp"


def mount(app: FastAPI) -> None:
    """Adds the route, and what it needs to an application's lifespan."""
    if find_spec("mcp") is None:
        app.add_api_route(_PATH, _missing, methods=["POST"], include_in_schema=False)
        return
    from mcp.server.transport_security import TransportSecuritySettings

    from ..mcp.server import make_server

    def links(context: Any) -> Links:
        return links_of(context.request_context.request)

    server = make_server(app.state.opening, lambda: app.state.policy, links)
    # Stateless: any replica takes any request. Names and origins are checked before all routes.
    inner = server.streamable_http_app(
        streamable_http_path=_PATH,
        stateless_http=True,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    # Without sessions there is nothing to listen to (GET) or to end (DELETE).
    [endpoint] = [route.endpoint for route in inner.routes if isinstance(route, Route)]
    app.router.routes.append(Route(_PATH, endpoint=endpoint, methods=["POST"], include_in_schema=False))
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def with_sessions(application: Any) -> AsyncIterator[Any]:
        async with server.session_manager.run(), lifespan(application) as state:
            yield state

    app.router.lifespan_context = with_sessions


async def _missing() -> None:
    """That the extra is not installed."""
    raise MissingDependencyError("/mcp needs the package mcp: pip install 'nbce-rag[mcp]'")
