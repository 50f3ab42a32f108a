"""An answer as text: cited stretches with numbers, then a numbered source list; colours on a terminal only.

What colours and underlines say is said in words too, so nothing is lost where there are none. Text
from documents and models is shown as it is: what would steer the terminal is taken out, and nothing is
read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..evidence.blocks import code_blocks
from ..evidence.evidence import Citation
from ..evidence.marks import citation_marks
from ..evidence.passage_evidence import cited_by_number
from ..evidence.unsupported import UnsupportedWords
from ..passages import Passage
from .labels import (
    absences,
    clean,
    conflict_lines,
    headline,
    name_of,
    one_line,
    particulars,
    supports_of,
    wording,
)
from .likelihoods import likelihood_lines
from .shown import AnswerLike, ComparisonLike

__all__ = ["answer_text", "comparison_text", "marked_text", "print_text", "render"]

# The sixteen colours follow the user's own theme, so that they can be read on dark and light alike.
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
_UNCITED_SHOWN = 8


def answer_text(answer: AnswerLike) -> str:
    """What `render` prints where there is no terminal, without a line end after it."""
    # In a notebook rich would show what it prints besides capturing it.
    console = Console(file=StringIO(), force_terminal=False, force_jupyter=False, color_system=None)
    with console.capture() as printed:
        render(answer, console)
    return printed.get().rstrip("\n")


def comparison_text(comparison: ComparisonLike) -> str:
    """Whether the passages agree, and a line for each answer with the passages that give it."""
    lines = [headline(comparison)]
    lines += [f"- {group.text} ({group.weight:.0%}: {_names(group.passages)})" for group in comparison.groups]
    if comparison.groups and comparison.silent:
        lines.append(f"No answer: {_names(comparison.silent)}")
    return "\n".join(lines)


def render(answer: AnswerLike, console: Console) -> None:
    """Prints an answer with its sources.

    On a terminal the cited stretches and their numbers have colours, those that a passage has word for word
    are in italics, words of them that stand in none of their passages are underlined and have no
    colour, and lines are wrapped. Elsewhere it is plain text without escape codes, and lines are as long as
    they are. Below the answer stands who says what where passages give other answers, and which words are not
    in the passages.

    Args:
        answer: What to print.
        console: Where to print it.
    """
    _print_answer(answer, console)
    if answer.finish_reason == "length":
        print_text(console, Text("(cut off at the most tokens allowed: max_tokens)", style="dim"))
    for line in conflict_lines(answer):
        print_text(console, Text(line, style="yellow"))
    numbers = {evidence.passage: evidence.number for evidence in answer.passage_evidence}
    for line in absences(answer.unsupported, numbers):
        print_text(console, Text(line, style="dim"))
    if answer.passages:
        print_text(console, Text())
        _render_sources(answer, console)
    for line in likelihood_lines(answer):
        print_text(console, Text(line, style="dim"))
    for warning in answer.warnings:
        print_text(console, Text(f"warning: {one_line(warning)}", style="yellow"))


def print_text(console: Console, text: Text) -> None:
    """Prints a text, wrapped on a terminal only: elsewhere that would put line ends into it."""
    console.print(text, soft_wrap=not console.is_terminal)


def marked_text(
    text: str,
    citations: Sequence[Citation],
    unsupported: Sequence[UnsupportedWords],
    numbers: Mapping[int, int],
) -> Text:
    """An answer with [number] where citations end, or behind the code block that they end in.

    Args:
        text: The answer, or as much of it as has come.
        citations: Ordered and disjoint.
        unsupported: Words inside of them that stand in no passage cited there.
        numbers: Of each passage, by its place, what it is called.
    """
    cited = [
        (citation, [one.passage for one in citation.supports if one.passage in numbers])
        for citation in citations
        if citation.passage in numbers
    ]
    marked, at = Text(), 0
    # What is put between the characters of the answer, and from where on they have which colour.
    placed = {mark.at: mark for mark in citation_marks(text, [(c.end, k) for c, k in cited])}
    colours = {citation.end: Style() for citation, _ in cited}
    for citation, places in cited:
        colours[citation.start] = style = _style(citation, numbers[places[0]])
        for word in unsupported:
            if citation.start <= word.start and word.end <= citation.end:
                colours.setdefault(word.end, style)
                colours[word.start] = Style(underline=True)
    colour = Style()
    for cut in sorted({*placed, *colours, len(text)}):
        marked.append(clean(text[at:cut]), style=colour)
        if mark := placed.get(cut):
            marked.append("\n" if mark.own_line else "")
            for place in mark.passages:
                marked.append(f"[{numbers[place]}]", style=_colour(numbers[place]) + Style(bold=True))
        colour, at = colours.get(cut, colour), cut
    return marked


def _print_answer(answer: AnswerLike, console: Console) -> None:
    """Prints the marked answer; on a terminal code is not wrapped, so that it can be copied from there."""
    numbers = {evidence.passage: evidence.number for evidence in answer.passage_evidence}
    marked = marked_text(answer.text, answer.citations, answer.unsupported, numbers)
    lines = marked.split("\n", allow_blank=True)
    fenced = code_blocks("\n".join(line.plain for line in lines))
    at, parts = 0, list[tuple[bool, list[Text]]]()
    for line in lines:
        is_code = any(block.start <= at < block.end for block in fenced)
        if not parts or parts[-1][0] != is_code:
            parts.append((is_code, []))
        parts[-1][1].append(line)
        at += len(line.plain) + 1
    for is_code, block in parts:
        console.print(Text("\n").join(block), soft_wrap=is_code or not console.is_terminal)


def _render_sources(answer: AnswerLike, console: Console) -> None:
    cited = cited_by_number(answer.passage_evidence)
    if not cited:
        count = len(answer.passages)
        read = "The passage that was read is" if count == 1 else f"The {count} passages that were read are"
        print_text(console, Text(f"No sources: no part of the answer rests on one passage. {read}:"))
        _print_list(console, [(Text("-"), _source(passage)) for passage in answer.passages[:_UNCITED_SHOWN]])
        if count > _UNCITED_SHOWN:
            print_text(console, Text(f"  and {count - _UNCITED_SHOWN} more", style="dim"))
        return
    rows = []
    for evidence in cited:
        entry = _source(answer.passages[evidence.passage])
        said = wording(supports_of(answer, evidence.passage), answer.passages[evidence.passage])
        entry.append(", ".join(filter(None, [f", {evidence.cited:.0%} of the answer", said])))
        mark = Text(f"[{evidence.number}]", style=_colour(evidence.number) + Style(bold=True))
        rows.append((mark, entry))
    print_text(console, Text("Sources", style="bold"))
    _print_list(console, rows)
    uncited = len(answer.passages) - len(cited)
    if uncited > 0:
        passages = "passage" if uncited == 1 else "passages"
        print_text(console, Text(f"{uncited} more {passages} read, not cited", style="dim"))


def _source(passage: Passage) -> Text:
    """Title, source, character span and score of a passage, as far as they are known."""
    return Text.assemble((name_of(passage), "bold"), ", ".join(["", *particulars(passage)]))


def _print_list(console: Console, rows: Iterable[tuple[Text, Text]]) -> None:
    if not console.is_terminal:
        for mark, entry in rows:
            print_text(console, Text.assemble(mark, " ", entry))
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for mark, entry in rows:
        grid.add_row(mark, entry)
    console.print(grid)


def _style(citation: Citation, number: int) -> Style:
    return _colour(number) + Style(italic=any(one.verbatim for one in citation.supports))


def _colour(number: int) -> Style:
    return Style.parse(_COLOURS[(number - 1) % len(_COLOURS)])


def _names(passages: Iterable[Passage]) -> str:
    return ", ".join(passage.title or passage.id for passage in passages)
