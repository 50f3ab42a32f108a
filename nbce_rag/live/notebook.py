"""An answer that is shown while it comes, in a notebook or on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from ..answers.answer import Answer, Piece
from ..evidence.evidence import Citation, TokenEvidence
from ..evidence.unsupported import UnsupportedWords
from ..view.html import fragment
from ..view.spans import spans_html
from .pieces import draw

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["show"]

_SECONDS_BETWEEN_UPDATES = 0.1


class _Output(Protocol):
    """An output of a notebook that can be changed."""

    def update(self, content: object, /) -> None: ...


def show(pieces: Iterable[Piece]) -> Answer:
    """Show an answer while it comes.

    In a notebook one output grows word by word, in the colours of the passages, with the number of each
    citation as soon as it is certain, and becomes the whole answer with its sources at the end. Elsewhere
    this is what `nbce-rag ask` prints.

    Args:
        pieces: what `NBCE.stream` yields.

    Returns:
        The answer, from the last piece.

    Raises:
        StreamError: the stream ended without an answer.
    """
    output = _display()
    if output is None:
        from rich.console import Console

        from .terminal import stream

        return stream(pieces, Console())
    text, shown = "", -_SECONDS_BETWEEN_UPDATES
    tokens, citations, unsupported = list[TokenEvidence](), list[Citation](), list[UnsupportedWords]()

    def grow(piece: Piece) -> None:
        nonlocal text, shown
        text += piece.text
        tokens.extend(piece.tokens)
        citations.extend(piece.citations)
        unsupported.extend(piece.unsupported)
        now = monotonic()
        # Each update sends the whole text anew; more of them than one can see would only slow the model.
        if piece.answer is None and now - shown >= _SECONDS_BETWEEN_UPDATES:
            partial = _partial(text, tokens, citations, unsupported) if text else _waiting("thinking …")
            output.update(_html(partial))
            shown = now

    answer = draw(pieces, grow)
    output.update(answer)
    return answer


def _partial(
    text: str,
    tokens: Sequence[TokenEvidence],
    citations: Sequence[Citation],
    unsupported: Sequence[UnsupportedWords],
) -> str:
    """The text so far, with the numbers of citations that are certain.

    Passages are known by their places only, so nothing but colour and numbers is said. Those that are not
    cited yet have the next numbers, in the order in which they came to lead.
    """
    places = range(max((len(token.weights) for token in tokens), default=0))
    usable = [token for token in tokens if len(token.weights) == len(places)]
    leaders = [place for token in usable if (place := token.passage) is not None]
    order = dict.fromkeys([*(one.passage for c in citations for one in c.supports), *leaders, *places])
    numbers = {place: number for number, place in enumerate(order, start=1)}
    inside = spans_html(text, usable, citations, (), numbers, unsupported=unsupported)
    return fragment("Answer in the making", [f'<p class="nbce-answer" dir="auto">{inside} …</p>'])


def _waiting(why: str) -> str:
    return fragment("Answer in the making", [f"<p>{why}</p>"])


def _display() -> _Output | None:
    """An output of the running notebook; None outside of one."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    output: _Output = display(_html(_waiting("reading …")), display_id=True)
    return output


def _html(html: str) -> HTML:
    from IPython.display import HTML

    return HTML(html)
