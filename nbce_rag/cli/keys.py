"""`nbce-rag key new`: makes a key for the server, and writes its hash into the keys file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..files import expand_home, write_whole
from .console import errors_in_one_line, say

__all__ = ["key_app"]

key_app = typer.Typer(help="Make keys for `nbce-rag serve`.", no_args_is_help=True)


@key_app.callback()
def _key() -> None:
    pass


@key_app.command("new")
def new_key_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.", show_default=False)],
    file: Annotated[
        Path,
        typer.Option(
            "--keys", metavar="FILE", help="The keys file; made if it is not there.", show_default=False
        ),
    ],
    indexes: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="NAME",
            help="An index that it may read, by the name it is served under. Repeat it for more.",
            show_default="all",
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="It may upload files.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="It may read metrics, and see all files.")] = False,
    per_minute: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Most requests a minute.", show_default="any number"),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Most tokens of an answer.", show_default="the server's limit"),
    ] = None,
) -> None:
    """Make a key and print it, once: the file keeps its SHA-256 only."""
    with errors_in_one_line():
        from ..server.access import Caller
        from ..server.key_file import key_text, new_key, read_keys

        caller = Caller(
            name,
            frozenset(indexes) if indexes else None,
            write,
            admin,
            requests_per_minute=per_minute,
            max_tokens=max_tokens,
        )
        file = Path(expand_home(file))
        lines = ""
        if file.exists():
            if any(key.caller.name == name for key in read_keys(file)):
                raise InputError(f"{file} has a key {name!r} already; take another name, or remove that one")
            lines = file.read_text(encoding="utf-8").rstrip("\n") + "\n\n"
        key = new_key()
        write_whole(file, (lines.lstrip("\n") + key_text(caller, key)).encode(), mode=0o600)
        typer.echo(key)
        say(f"{file} keeps its hash; the key is shown this once. A server that is running takes it at once.")
