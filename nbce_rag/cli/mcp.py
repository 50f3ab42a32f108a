"""`nbce-rag mcp`: tools for agents over stdio. Loads nothing heavy before it answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, MissingDependencyError
from ..files import expand_home
from .console import errors_in_one_line
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
            metavar="DIR|NAME=DIR",
            help="An index to ask, and the name to ask it by. Repeat it for more.",
            show_default="the folder's name",
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
    kv: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep keys and values of passages in this folder.",
            show_default="that of the only index, if `index --kv` made one",
        ),
    ] = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Give agents tools for indexes (MCP, stdio): search, fetch, ask, compare; `serve` has them at /mcp."""
    with errors_in_one_line():
        if find_spec("mcp") is None:
            raise MissingDependencyError("`nbce-rag mcp` needs the package mcp: pip install 'nbce-rag[mcp]'")
        indexes = _indexes(index)
        opening = given(kv_store=kv or _own_kv(indexes), backend=backend, device=device, dtype=dtype)
        options = given(style=style, max_tokens=max_tokens)
        search = given(rerank=reranker)
        from ..server.mcp.stdio import run_stdio
        from ..server.settings import ServerSettings

        run_stdio(
            ServerSettings(indexes=indexes, model=model, opening=opening, options=options, search=search)
        )


def _indexes(texts: Iterable[str]) -> dict[str, Path]:
    """Indexes by name.

    Raises:
        InputError: there is none at a path, or two have one name.
    """
    from ..index.folder import IndexFolder

    indexes: dict[str, Path] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or Path(expand_home(text)).is_dir():
            path = text
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(expand_home(text)).absolute().name).strip("-._")
        folder = Path(expand_home(path))
        if not IndexFolder(folder).has_index():
            raise InputError(f"There is no index at {path!r}; `nbce-rag index` makes one.")
        if not name or name in indexes:
            raise InputError(f"Two indexes, or one without a name, at {path!r}; name it: --index NAME={path}")
        indexes[name] = folder
    return indexes


def _own_kv(indexes: dict[str, Path]) -> Any:
    """Keys and values of the only index, where it has some."""
    from ..index.folder import IndexFolder

    folders = [IndexFolder(path).kv for path in indexes.values()]
    return folders[0] if len(folders) == 1 and folders[0].is_dir() else None
