"""How the command line speaks: errors, warnings and progress on stderr, tables of results on stdout.

rich is imported where it is needed, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Any

import typer

from ..errors import NbceError, NbceWarning

if TYPE_CHECKING:
    from rich.console import Console

    from ..answers.answer import Answer

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "echo_answer",
    "errors_in_one_line",
    "notes",
    "on_terminal",
    "progress_bar",
    "progress_shown",
    "say",
    "size_text",
    "spinner",
    "table_console",
]

FAILED = 2
INTERRUPTED = 130


@contextmanager
def errors_in_one_line(if_interrupted: str = "") -> Iterator[None]:
    """Turns what a user can put right into one line on stderr and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted: {if_interrupted}" if if_interrupted else "interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read the output has seen enough, as in `nbce-rag ask ... | head -1`; typer ends quietly.
        raise
    except (NbceError, OSError) as error:
        say(f"error: {error}")
        raise typer.Exit(FAILED) from None


@contextmanager
def notes() -> Iterator[list[str]]:
    """Collects the text of NbceWarnings, each once, instead of showing where in the code they came from."""
    found: list[str] = []
    show = warnings.showwarning

    def collect(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, NbceWarning):
            show(message, category, *place, **more)
        elif str(message) not in found:
            found.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", NbceWarning)
        warnings.showwarning = collect
        yield found


def say(line: str) -> None:
    """Writes one line to stderr. Names of files may hold anything, so it is cleaned first."""
    from ..view.labels import one_line

    typer.echo(one_line(line), err=True)


def echo_answer(answer: Answer, file: IO[Any]) -> None:
    """Writes an answer as one line of JSON; in ASCII, so that no locale can garble it."""
    typer.echo(json.dumps(answer.to_dict(), ensure_ascii=True, allow_nan=False), file=file)


def size_text(number: float) -> str:
    """Bytes as people read them: "18.9 MB"."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} GB" if number < 1000 else f"{number / 1000:,.1f} TB"


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """What `PassageIndex.add_files` reports to; None where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    from ..view.labels import one_line

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    # The file's name comes last and is cut where the line ends.
    name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), name)
    progress = Progress(*columns, console=console, transient=True)
    try:
        task = progress.add_task("", total=None)

        def report(done: int, total: int, what: str) -> None:
            progress.start()  # and not before: a question may have to be asked first
            progress.update(task, completed=done, total=total, description=one_line(what))

        yield report
    finally:
        progress.stop()


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Shows that something is going on, on stderr and only on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(text) if console.is_terminal else nullcontext():
        yield


def on_terminal() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def table_console(width: int) -> Console:
    """Where tables are printed; a file or a pipe has room for `width` columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


@contextmanager
def progress_shown() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar with running figures on a terminal; elsewhere a line of them after each tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)

    def figures(scores: Mapping[str, float]) -> str:
        return "  ".join(f"{name} {value:.2f}" for name, value in scores.items())

    if not console.is_terminal:
        said = -1

        def print_line(done: int, total: int, scores: dict[str, float]) -> None:
            nonlocal said
            tenth = 10 * done // max(total, 1)
            if tenth != said:
                said = tenth
                say(f"{done}/{total} answers. Found: {figures(scores)}")

        yield print_line
        return
    shown = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), shown)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def update(done: int, total: int, scores: dict[str, float]) -> None:
            progress.update(task, completed=done, total=total, description=figures(scores))

        yield update
