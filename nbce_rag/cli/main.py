"""The command line: `nbce-rag index`, `list`, `show`, `remove`, `ask`, `attribute`, `eval`, `kv`, ...

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from .ask import ask_command
from .attribute import attribute_command
from .bench import bench_command
from .calibrate import calibrate_command
from .evaluate import eval_command
from .index import index_command
from .keys import key_app
from .kv import kv_command
from .mcp import mcp_command
from .models import models_command
from .plan import plan_command
from .serve import serve_command
from .sources import list_command, remove_command, show_command
from .study import study_command

__all__ = ["app", "main"]

app = typer.Typer(
    help="Answers questions from your documents, reading every passage on its own, and cites them.",
    no_args_is_help=True,
    add_completion=False,
    # An error that is not ours is a bug, and its plain traceback is what a report of it needs.
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs the command line and exits."""
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            # A terminal or pipe that cannot show a character gets a question mark, not a traceback.
            out.reconfigure(errors="replace")
    app(prog_name="nbce-rag")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from .. import __version__

        typer.echo(f"nbce-rag {__version__}")
        raise typer.Exit


@app.callback()
def _nbce_rag(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


app.command("index")(index_command)
app.command("list")(list_command)
app.command("show")(show_command)
app.command("remove")(remove_command)
app.command("ask")(ask_command)
app.command("attribute")(attribute_command)
app.command("calibrate")(calibrate_command)
app.command("eval")(eval_command)
app.command("study")(study_command)
app.command("kv")(kv_command)
app.command("mcp")(mcp_command)
app.command("models")(models_command)
app.command("plan")(plan_command)
app.command("bench")(bench_command)
app.command("serve")(serve_command)
app.add_typer(key_app, name="key")
