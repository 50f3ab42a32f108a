"""An answer that is shown while it comes, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..answers.answer import Answer, Piece
from ..evidence.evidence import Citation
from ..evidence.unsupported import UnsupportedWords
from ..view.labels import clean
from ..view.plain import marked_text, print_text, render
from .pieces import draw

__all__ = ["stream"]

_REFRESHES_A_SECOND = 12


def stream(pieces: Iterable[Piece], console: Console, thoughts: Console | None = None) -> Answer:
    """Shows an answer while it comes, and then `render`s it.

    On a terminal the text grows in place (the last screenful, where it is longer than that), with the number
    of each citation as soon as it is certain, and gives way to the rendered answer at its end, so that the
    screen is left with one of them. Elsewhere nothing
    is printed before the end. When the stream breaks off, by an error or Ctrl-C, the text so far stays.

    Args:
        pieces: What `NBCE.stream` yields.
        console: Where to print.
        thoughts: Where to print what the model thought first, dimmed; None does not.

    Returns:
        The answer, from the last piece.

    Raises:
        StreamError: The stream ended without an answer.
    """
    watched = console.is_terminal and not console.is_dumb_terminal
    answer = _watch(pieces, console) if watched else draw(pieces)
    if thoughts is not None and answer.thought:
        print_text(thoughts, Text(f"{clean(answer.thought)}\n", style="dim"))
    render(answer, console)
    return answer


def _watch(pieces: Iterable[Piece], console: Console) -> Answer:
    text, waiting = "", "reading ..."
    citations, unsupported = list[Citation](), list[UnsupportedWords]()
    numbers: dict[int, int] = {}

    def grow(piece: Piece) -> None:
        nonlocal text, waiting
        text += piece.text
        citations.extend(piece.citations)
        unsupported.extend(piece.unsupported)
        for one in (support for citation in piece.citations for support in citation.supports):
            numbers.setdefault(one.passage, len(numbers) + 1)
        waiting = "thinking ..." if piece.thought else waiting

    def shown() -> Text:
        return marked_text(text, citations, unsupported, numbers)

    try:
        with Live(
            console=console,
            get_renderable=lambda: _tail(shown(), console) if text else Text(waiting, style="dim"),
            refresh_per_second=_REFRESHES_A_SECOND,
            transient=True,
            vertical_overflow="crop",
        ):
            return draw(pieces, grow)
    except BaseException:
        if text:
            print_text(console, shown())
        raise


def _tail(text: Text, console: Console) -> Text:
    """The last screenful: Live cannot scroll, and would cut a taller text at the end that is growing."""
    lines = text.wrap(console, console.width)
    return Text("\n").join(lines[-max(1, console.height - 2) :])
