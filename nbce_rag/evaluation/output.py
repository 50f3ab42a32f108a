"""Results on disk: whole or not at all. And how far a run is, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import writing
from ..reporting import say

__all__ = ["progress_shown", "write_bytes", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, its folder too; numbers must be finite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.write_json(path, value)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.write_whole(path, data)


@contextmanager
def progress_shown() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar with running figures on a terminal; elsewhere a line of them after each tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)

    def figures(found: Mapping[str, float]) -> str:
        return "  ".join(f"{name} {value:.2f}" for name, value in found.items())

    if not console.is_terminal:
        said = -1

        def print_line(done: int, total: int, found: dict[str, float]) -> None:
            nonlocal said
            tenth = 10 * done // max(total, 1)
            if tenth != said:
                said = tenth
                say(f"{done}/{total} answers. Found: {figures(found)}")

        yield print_line
        return
    shown = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), shown)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def update(done: int, total: int, found: dict[str, float]) -> None:
            progress.update(task, completed=done, total=total, description=figures(found))

        yield update
