"""An answer that is shown while it comes, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..answers.answer import Answer, Piece
from ..view.labels import clean
from ..view.plain import print_text, render
from .pieces import draw

__all__ = ["stream"]

_REFRESHES_A_SECOND = 12


def stream(pieces: Iterable[Piece], console: Console) -> Answer:
    """Shows an answer while it comes, and then `render`s it.

    On a terminal the text grows in place (the last screenful, where it is longer than that) and gives
    way to the rendered answer at its end, so that the screen is left with one of them. Elsewhere nothing
    is printed before the end. When the stream breaks off, by an error or Ctrl-C, the text so far stays.

    Args:
        pieces: What `NBCE.stream` yields.
        console: Where to print.

    Returns:
        The answer, from the last piece.

    Raises:
        StreamError: The stream ended without an answer.
    """
    watched = console.is_terminal and not console.is_dumb_terminal
    answer = _watch(pieces, console) if watched else draw(pieces)
    render(answer, console)
    return answer


def _watch(pieces: Iterable[Piece], console: Console) -> Answer:
    shown = ""

    def grow(piece: Piece) -> None:
        nonlocal shown
        shown += clean(piece.text)

    try:
        with Live(
            console=console,
            get_renderable=lambda: _tail(shown, console),
            refresh_per_second=_REFRESHES_A_SECOND,
            transient=True,
            vertical_overflow="crop",
        ):
            return draw(pieces, grow)
    except BaseException:
        if shown:
            print_text(console, Text(shown))
        raise


def _tail(text: str, console: Console) -> Text:
    """The last screenful: Live cannot scroll, and would cut a taller text at the end that is growing."""
    if not text:
        return Text("reading ...", style="dim")
    lines = Text(text).wrap(console, console.width)
    return Text("\n").join(lines[-max(1, console.height - 2) :])
