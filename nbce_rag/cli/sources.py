"""`nbce-rag list`, `show` and `remove`: what an index holds, by source and by passage. No model is loaded."""

from __future__ import annotations

import difflib
import json
import sys
from contextlib import redirect_stdout
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .console import errors_in_one_line, spinner, table_console

if TYPE_CHECKING:
    from ..index import PassageIndex, SourceEntry
    from ..passages import Passage

__all__ = ["list_command", "remove_command", "show_command"]

_TABLE_WIDTH = 100

IndexOption = Annotated[str, typer.Option("--index", metavar="DIR", help="The index.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def list_command(path: IndexOption, as_json: JsonOption = False) -> None:
    """List the sources in an index: passages, when a file was last taken in, size of the texts."""
    with errors_in_one_line():
        with _opened(path) as index:
            entries, place = index.source_entries(), index.location
        if as_json:
            sources = [
                {
                    "source": entry.source,
                    "passages": entry.passages,
                    "stored_at": _iso(entry.stored_at),
                    "bytes": entry.size,
                }
                for entry in entries
            ]
            typer.echo(json.dumps({"index": place, "sources": sources}, ensure_ascii=True))
        else:
            _print_table(entries)


def show_command(
    passage: Annotated[
        str, typer.Argument(metavar="PASSAGE", help="Its id, as in `ask --json`.", show_default=False)
    ],
    path: IndexOption,
    as_json: JsonOption = False,
) -> None:
    """Show a passage: where it stands in which source, its title and metadata, and its text."""
    with errors_in_one_line():
        with _opened(path) as index:
            stored, place = index.get(passage), index.location
        if stored is None:
            raise InputError(
                f"There is no passage with the id {passage!r} in {place}; `nbce-rag ask --json` has ids"
            )
        if as_json:
            fields = ("id", "source", "start", "end", "title", "metadata", "text")
            report = {name: getattr(stored, name) for name in fields}
            typer.echo(json.dumps(report, ensure_ascii=True, default=dict))
        else:
            _print_passage(stored)


def remove_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Sources as `nbce-rag list` shows them, or paths of files that were taken in.",
            show_default=False,
        ),
    ],
    path: IndexOption,
) -> None:
    """Remove the passages of sources. A file that still lies in a folder comes back with the next `index`."""
    with errors_in_one_line():
        with _opened(path) as index:
            counts = {source: index.delete(source=source) for source in dict.fromkeys(sources)}
            size, others, place = len(index), list(index.sources()), index.location
        typer.echo(f"Passages: {sum(counts.values())} removed, {size} in the index.")
        unknown = [source for source, count in counts.items() if not count]
        if unknown:
            near = difflib.get_close_matches(unknown[0], others, 3)
            hint = (
                f"there is {', '.join(near)}"
                if near
                else f"`nbce-rag list --index {place}` lists what it has"
            )
            raise InputError(f"the index has nothing of {', '.join(unknown)}; {hint}")


def _opened(path: str) -> PassageIndex:
    with redirect_stdout(sys.stderr), spinner("opening the index"):
        from ..index import PassageIndex

        return PassageIndex.open(path, maintenance=True)


def _iso(seconds: float | None) -> str | None:
    """A time with its zone, to the second."""
    return None if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def _print_table(entries: list[SourceEntry]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..view.labels import one_line

    table = Table(box=None, pad_edge=False)
    for name in ("passages", "bytes"):
        table.add_column(name, justify="right")
    table.add_column("stored")
    table.add_column("source", overflow="fold")
    for entry in entries:
        source = "(no source)" if entry.source is None else one_line(entry.source)
        stored = (_iso(entry.stored_at) or "-")[:16]
        table.add_row(f"{entry.passages:,}", f"{entry.size:,}", stored, Text(source))
    total = sum(entry.passages for entry in entries)
    if entries:
        table_console(_TABLE_WIDTH).print(table)
    count = sum(entry.source is not None for entry in entries)
    typer.echo(f"Sources: {count}. Passages: {total}.")


def _print_passage(passage: Passage) -> None:
    from ..view.labels import clean, one_line

    span = "" if passage.start is None else f", characters {passage.start} to {passage.end}"
    typer.echo(f"id: {one_line(passage.id)}")
    typer.echo(f"source: {one_line(passage.source or '(no source)')}{span}")
    if passage.title:
        typer.echo(f"title: {one_line(passage.title)}")
    for name, value in passage.metadata.items():
        typer.echo(one_line(f"{name}: {json.dumps(value, ensure_ascii=False)}"))
    typer.echo(f"\n{clean(passage.text)}")
