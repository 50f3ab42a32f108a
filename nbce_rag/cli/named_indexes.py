"""Indexes that are served, by name: what `serve` and `mcp` take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..files import expand_home
from ..index.address import is_database

__all__ = ["ServedKvOption", "check_indexes", "named_indexes", "own_kv"]

ServedKvOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep keys and values of passages in this folder.",
        show_default="that of the only index, if `index --kv` made one",
    ),
]

_SECONDS = 5.0  # to wait for an index that is being written


def named_indexes(texts: Iterable[str]) -> dict[str, str]:
    """Folders and URLs by the names under which they are served.

    Args:
        texts: NAME=INDEX, or an index alone, which has a name of its own.

    Raises:
        InputError: two have one name, or one has none.
    """
    from ..server.settings import named_index

    indexes: dict[str, str] = {}
    for text in texts:
        name, place = named_index(text)
        if name in indexes:
            shown = "URL" if is_database(place) else place
            raise InputError(f"Two indexes would be served as {name!r}; name one: --index OTHER={shown}")
        indexes[name] = place
    return indexes


def check_indexes(indexes: Mapping[str, Path | str]) -> None:
    """Raises InputError where one is not there: sooner than a model is loaded."""
    from ..index.places import place_of

    for name, path in indexes.items():
        place = place_of(path)
        if not place.has_index(_SECONDS):
            raise InputError(
                f"There is no index at {place.location!r}, to be served as {name!r}; `nbce-rag index` makes "
                "one."
            )


def own_kv(indexes: Mapping[str, Path | str]) -> str | None:
    """The folder of keys and values of the only index, where it has some."""
    from ..index.folder import IndexFolder

    if len(indexes) != 1:
        return None
    [path] = indexes.values()
    if is_database(path):
        return None
    folder = IndexFolder(expand_home(path)).kv
    return str(folder) if folder.is_dir() else None
