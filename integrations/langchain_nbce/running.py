"""Answering requests within a time limit, in this thread or beside an event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing

from nbce_rag import NBCE, Answer, AnswerTimeoutError, Piece, Request

__all__ = ["aanswer_all", "answer_all", "apieces", "pieces"]


def pieces(engine: NBCE, requests: Sequence[Request], timeout: float | None) -> Iterator[tuple[int, Piece]]:
    """(index, piece) of all answers.

    Raises:
        TimeoutError: the answers took longer than `timeout` seconds.
    """
    begun = time.monotonic()
    with closing(engine.stream_batch(requests)) as stream:  # type: ignore[type-var]
        for item in stream:
            yield item
            _check(begun, timeout, item[1])


async def apieces(
    engine: NBCE, requests: Sequence[Request], timeout: float | None
) -> AsyncIterator[tuple[int, Piece]]:
    """`pieces`, computed in a worker thread."""
    begun = time.monotonic()
    async with aclosing(engine.astream_batch(requests)) as stream:
        async for item in stream:
            yield item
            _check(begun, timeout, item[1])


def answer_all(engine: NBCE, requests: Sequence[Request], timeout: float | None) -> list[Answer]:
    """The answers, in the order of the requests."""
    found = {index: piece.answer for index, piece in pieces(engine, requests, timeout) if piece.answer}
    return [found[index] for index in range(len(requests))]


async def aanswer_all(engine: NBCE, requests: Sequence[Request], timeout: float | None) -> list[Answer]:
    """`answer_all`, computed in a worker thread. Cancelling it stops the work after the step under way."""
    found: dict[int, Answer] = {}
    async with aclosing(apieces(engine, requests, timeout)) as stream:  # type: ignore[type-var]
        async for index, piece in stream:
            if piece.answer is not None:
                found[index] = piece.answer
    return [found[index] for index in range(len(requests))]


def _check(begun: float, timeout: float | None, piece: Piece) -> None:
    if timeout is not None and piece.answer is None and time.monotonic() - begun > timeout:
        raise AnswerTimeoutError(
            f"The answer took longer than timeout={timeout} s; raise it, lower max_tokens, or "
            "give fewer passages."
        )
