"""A stream that is shown while it comes, in a notebook or on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from ..answers.answer import Answer, Piece
from ..evidence.citations import cite
from ..evidence.evidence import TokenEvidence
from ..view.html import fragment, spans_html

__all__ = ["show"]

_SECONDS_BETWEEN_UPDATES = 0.1


def show(pieces: Iterable[Piece]) -> Answer:
    """Show an answer while it comes.

    In a notebook one output grows word by word, in the colours of the passages, and becomes the whole
    answer with its sources at the end. Elsewhere this is what `nbce-rag ask` prints.

    Args:
        pieces: what `NBCE.stream` yields.

    Returns:
        The answer, from the last piece.

    Raises:
        RuntimeError: the stream ended without an answer.
    """
    handle = _display()
    if handle is None:
        from rich.console import Console

        from .terminal import stream

        return stream(pieces, Console())
    text, tokens, shown = "", list[TokenEvidence](), -_SECONDS_BETWEEN_UPDATES
    answer: Answer | None = None
    for piece in pieces:
        text += piece.text
        tokens += piece.tokens
        answer = piece.answer or answer
        now = time.monotonic()
        # Each update sends the whole text anew; more of them than one can see would only slow the model.
        if answer is None and now - shown >= _SECONDS_BETWEEN_UPDATES:
            handle.update(_html(_partial(text, tokens)))
            shown = now
    if answer is None:
        raise RuntimeError("the stream ended without an answer")
    handle.update(answer)
    return answer


def _partial(text: str, tokens: list[TokenEvidence]) -> str:
    """The text so far. Passages are known by their places only, so nothing but colour and numbers is said."""
    places = max((len(token.weights) for token in tokens), default=0)
    usable = [token for token in tokens if len(token.weights) == places]
    citations = cite(text, usable, [str(place) for place in range(places)])
    first = list(dict.fromkeys(int(citation.passage_id) for citation in citations))
    order = first + [place for place in range(places) if place not in set(first)]
    numbers = {place: number for number, place in enumerate(order, start=1)}
    inside = spans_html(text, usable, (), (), numbers)
    return fragment("Answer in the making", [f'<p class="nbce-answer" dir="auto">{inside} …</p>'])


def _display() -> Any:
    """An output of the running notebook that can be changed; None outside of one."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return display(_html(fragment("Answer in the making", ["<p>reading …</p>"])), display_id=True)


def _html(html: str) -> Any:
    from IPython.display import HTML

    return HTML(html)
