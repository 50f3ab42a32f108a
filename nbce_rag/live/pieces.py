"""A stream of pieces, drawn to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..answers.answer import Answer, Piece
from ..errors import StreamError

__all__ = ["draw"]


def draw(pieces: Iterable[Piece], show: Callable[[Piece], None] | None = None) -> Answer:
    """Draw all pieces of a stream.

    Args:
        pieces: What `NBCE.stream` yields.
        show: Called with each piece as it comes.

    Returns:
        The answer, from the last piece.

    Raises:
        StreamError: The stream ended without an answer.
    """
    answer: Answer | None = None
    for piece in pieces:
        answer = piece.answer or answer
        if show is not None:
            show(piece)
    if answer is None:
        raise StreamError("The stream ended without an answer; hand on every piece of NBCE.stream.")
    return answer
