"""The MCP server: tools, the resource template and the prompt, put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resources import ResourceSecurity
from mcp_types import ToolAnnotations

from ..links import Links
from ..policy import Policy
from ..served import Opening
from .tools import AnyContext, Tools

__all__ = ["make_server"]

_INSTRUCTIONS = (
    "Answers from the user's own documents. `ask` gives an answer whose citations are measured; `search` and "
    "`fetch` give passages to read; `compare` shows where passages contradict each other. Cite what you use."
)
_TITLES = {
    "search": "Search passages",
    "fetch": "Read a passage",
    "ask": "Answer with citations",
    "compare": "Compare what passages say",
    "list_indexes": "List indexes",
}


def make_server(
    opening: Opening,
    policy: Callable[[], Policy],
    links: Callable[[AnyContext], Links | None] = lambda context: None,
) -> MCPServer[Any]:
    """A server for any transport; arguments as `Tools` has them."""
    tools = Tools(opening, policy, links)
    with _root_logger_as_it_is():
        server: MCPServer[Any] = MCPServer(
            "nbce-rag", title="nbce-rag", instructions=_INSTRUCTIONS, version=version("nbce-rag")
        )
    for name, title in _TITLES.items():
        function = getattr(tools, name)
        server.add_tool(
            function,
            name=name,
            title=title,
            description=" ".join(function.__doc__.split()),
            annotations=ToolAnnotations(
                title=title,
                read_only_hint=True,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=False,
            ),
        )
    # Ids are looked up in an index, never in a file system.
    anything = ResourceSecurity(exempt_params={"index", "passage_id"})
    server.resource(
        "nbce://{index}/{passage_id}",
        name="passage",
        title="Passage",
        description="The text of a passage; the id is percent-encoded.",
        mime_type="text/plain",
        security=anything,
    )(tools.passage)
    server.prompt(
        name="answer-with-sources",
        title="Answer with sources",
        description="Passages for a question, to be answered from them with citations.",
    )(tools.answer_with_sources)
    return server


@contextmanager
def _root_logger_as_it_is() -> Iterator[None]:
    """Logging is the application's: the SDK sets a handler of its own where there is none."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
