"""An answer on a terminal: cited stretches in the colour of their passage, then a numbered source list.

The number in brackets says all that the colour says, so nothing is lost where there is no colour. Text
from documents and models is shown as it is: what would steer the terminal is taken out, and nothing is
read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO

from rich.console import Console
from rich.live import Live
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..answers.answer import Answer, Piece
from ..passages import Passage
from ..view.labels import cited_shares, clean, found_at, name_of, one_line

__all__ = ["plain", "render", "stream"]

# The sixteen colours follow the user's own theme, so that they can be read on dark and light alike.
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
_UNCITED_SHOWN = 8
_REFRESHES_A_SECOND = 12


def render(answer: Answer, console: Console) -> None:
    """Prints an answer with its sources.

    On a terminal the cited stretches and their numbers have colours and lines are wrapped. Elsewhere it
    is plain text without escape codes, and lines are as long as they are.

    Args:
        answer: What to print.
        console: Where to print it.
    """
    numbers = {passage.id: number for number, passage in enumerate(answer.cited_passages, start=1)}
    _print(console, _marked(answer, numbers))
    if answer.passages:
        _print(console, Text())
        _render_sources(answer, numbers, console)
    for warning in answer.warnings:
        _print(console, Text(f"warning: {one_line(warning)}", style="yellow"))


def plain(answer: Answer) -> str:
    """What `render` prints where there is no terminal, without a line end after it."""
    # In a notebook rich would show what it prints besides capturing it.
    console = Console(file=StringIO(), force_terminal=False, force_jupyter=False, color_system=None)
    with console.capture() as printed:
        render(answer, console)
    return printed.get().rstrip("\n")


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
        RuntimeError: The stream ended without an answer.
    """
    answer: Answer | None = None
    if not console.is_terminal or console.is_dumb_terminal:
        for piece in pieces:
            answer = piece.answer or answer
    else:
        answer = _watch(pieces, console)
    if answer is None:
        raise RuntimeError("the stream ended without an answer")
    render(answer, console)
    return answer


def _watch(pieces: Iterable[Piece], console: Console) -> Answer | None:
    answer: Answer | None = None
    shown = ""

    try:
        with Live(
            console=console,
            get_renderable=lambda: _tail(shown, console),
            refresh_per_second=_REFRESHES_A_SECOND,
            transient=True,
            vertical_overflow="crop",
        ):
            for piece in pieces:
                shown += clean(piece.text)
                answer = piece.answer or answer
    except BaseException:
        if shown:
            _print(console, Text(shown))
        raise
    return answer


def _tail(text: str, console: Console) -> Text:
    """The last screenful: Live cannot scroll, and would cut a taller text at the end that is growing."""
    if not text:
        return Text("reading ...", style="dim")
    lines = Text(text).wrap(console, console.width)
    return Text("\n").join(lines[-max(1, console.height - 2) :])


def _marked(answer: Answer, numbers: dict[str, int]) -> Text:
    """The answer with [number] after each citation."""
    marked = Text()
    at = 0
    for citation in answer.citations:
        number = numbers.get(citation.passage_id)
        if number is None:
            continue
        colour = _colour(number)
        marked.append(clean(answer.text[at : citation.start]))
        marked.append(clean(answer.text[citation.start : citation.end]), style=colour)
        marked.append(f"[{number}]", style=colour + Style(bold=True))
        at = citation.end
    marked.append(clean(answer.text[at:]))
    return marked


def _render_sources(answer: Answer, numbers: dict[str, int], console: Console) -> None:
    if not numbers:
        count = len(answer.passages)
        read = "The passage that was read is" if count == 1 else f"The {count} passages that were read are"
        _print(console, Text(f"No sources: no part of the answer rests on one passage. {read}:"))
        _print_list(console, [(Text("-"), _source(passage)) for passage in answer.passages[:_UNCITED_SHOWN]])
        if count > _UNCITED_SHOWN:
            _print(console, Text(f"  and {count - _UNCITED_SHOWN} more", style="dim"))
        return
    shares = cited_shares(answer)
    rows = []
    for passage in answer.cited_passages:
        number = numbers[passage.id]
        entry = _source(passage)
        entry.append(f", {shares[passage.id]:.0%} of the answer")
        rows.append((Text(f"[{number}]", style=_colour(number) + Style(bold=True)), entry))
    _print(console, Text("Sources", style="bold"))
    _print_list(console, rows)
    uncited = len(answer.passages) - len(numbers)
    if uncited > 0:
        passages = "passage" if uncited == 1 else "passages"
        _print(console, Text(f"{uncited} more {passages} read, not cited", style="dim"))


def _source(passage: Passage) -> Text:
    """Title, source, character span and score of a passage, as far as they are known."""
    return Text.assemble((name_of(passage), "bold"), ", ".join(["", *found_at(passage)]))


def _print_list(console: Console, rows: Iterable[tuple[Text, Text]]) -> None:
    if not console.is_terminal:
        for mark, entry in rows:
            _print(console, Text.assemble(mark, " ", entry))
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for mark, entry in rows:
        grid.add_row(mark, entry)
    console.print(grid)


def _print(console: Console, text: Text) -> None:
    # Wrapping for a file or a pipe would put line ends into the text that are not in the answer.
    console.print(text, soft_wrap=not console.is_terminal)


def _colour(number: int) -> Style:
    return Style.parse(_COLOURS[(number - 1) % len(_COLOURS)])
