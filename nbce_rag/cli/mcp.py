"""`nbce-rag mcp`: tools for agents over stdio. Loads nothing heavy before it answers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from ..errors import MissingDependencyError
from .console import errors_in_one_line
from .named_indexes import ServedKvOption, check_indexes, named_indexes, own_kv
from .options import (
    BackendOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    StyleOption,
    given,
)

__all__ = ["mcp_command"]


def mcp_command(
    index: Annotated[
        list[str],
        typer.Option(
            "--index",
            metavar="INDEX|NAME=INDEX",
            help="An index, folder or URL of a database, and the name to ask it by. Repeat it for more.",
            show_default="its own name",
        ),
    ],
    model: ModelOption = None,
    style: StyleOption = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Most tokens of an answer.", show_default="256"),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Cross-encoder that scores what was found.", show_default=False),
    ] = None,
    kv: ServedKvOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Give agents tools for indexes (MCP, stdio): search, fetch, ask, compare; `serve` has them at /mcp."""
    with errors_in_one_line():
        if find_spec("mcp") is None:
            raise MissingDependencyError("`nbce-rag mcp` needs the package mcp: pip install 'nbce-rag[mcp]'")
        indexes = named_indexes(index)
        check_indexes(indexes)
        from ..models.loading import is_served

        own = None if is_served(model, backend) else own_kv(indexes)
        opening = given(kv_store=kv or own, backend=backend, device=device, dtype=dtype)
        options = given(style=style, max_tokens=max_tokens)
        search = given(rerank=reranker)
        from ..server.mcp.stdio import run_stdio
        from ..server.settings import ServerSettings

        run_stdio(
            ServerSettings(indexes=indexes, model=model, opening=opening, options=options, search=search)
        )
