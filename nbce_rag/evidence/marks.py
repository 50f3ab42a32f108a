"""Where the numbers of citations stand in an answer that is shown: never in the midst of code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .blocks import CodeBlock, code_blocks

__all__ = ["Mark", "citation_marks"]

_TICKS = re.compile("`+")


class Mark(NamedTuple):
    """The passages to name at one place of an answer.

    Attributes:
        at: The place in the answer, in characters.
        passages: Places of the passages, each once.
        own_line: Whether a line end is to be put in front.
    """

    at: int
    passages: tuple[int, ...]
    own_line: bool


def citation_marks(text: str, cited: Iterable[tuple[int, Sequence[int]]]) -> list[Mark]:
    """Where to name the passages of citations, so that code that is copied stays code.

    A mark stands where its stretch ends, and one that ends between backticks behind them. The marks for
    the lines of a code block stand together on a line of their own behind its last fence: on a line of
    code they would be code, and behind a fence they would keep it from closing the block.

    Args:
        text: The answer.
        cited: Where each cited stretch ends, ordered, and the passages cited for it.

    Returns:
        The marks, ordered, no two at one place.
    """
    code = code_blocks(text)
    at_place: dict[int, Mark] = {}
    for end, passages in cited:
        at, own_line = _outside_code(text, end, code)
        before = at_place[at].passages if at in at_place else ()
        at_place[at] = Mark(at, tuple(dict.fromkeys([*before, *passages])), own_line)
    return [at_place[at] for at in sorted(at_place)]


def _outside_code(text: str, at: int, code: Sequence[CodeBlock]) -> tuple[int, bool]:
    """Where the mark of a stretch that ends at `at` stands, and whether on a line of its own."""
    line = text.rfind("\n", 0, at) + 1
    for block in code:
        if block.start < at <= block.end:
            return block.end, text[block.end - 1] != "\n"
    end = text.find("\n", at)
    return _span_end(text, line, end if end >= 0 else len(text), at), False


def _span_end(text: str, start: int, end: int, at: int) -> int:
    """Where the code span around `at` ends in the line text[start:end]; `at` where there is none.

    A span goes from a run of backticks to the next one of the same length, as Markdown has it.
    """
    runs = [run.span() for run in _TICKS.finditer(text, start, end)]
    while runs and runs[0][0] < at:
        opens, opened = runs.pop(0)
        closing = (number for number, run in enumerate(runs) if run[1] - run[0] == opened - opens)
        if (number := next(closing, None)) is not None:
            if at < runs[number][1]:
                return runs[number][1]
            del runs[: number + 1]
    return at
