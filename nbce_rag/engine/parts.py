"""Questions with several parts: each is asked with rows of its own, and the answers are put together.

The likelihood of a whole question points to one passage; that of each part to its own. Parts share the rows
of a batch and the contexts of their passages, so that a further part costs no more than its own suffixes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from ..answers.answer import Piece
from ..answers.joined import JoinedAnswer
from ..decoding.reader import Engine
from ..prompts.parts import parts_of
from ..prompts.prompt import Prompt
from ..request import Request
from .conflicts import generate_with_conflicts

__all__ = ["asked_in_parts", "generate_in_parts"]


def asked_in_parts(engine: Engine, request: Request) -> Request:
    """A request with its parts, if it has several and they are to be asked one by one."""
    options = request.options
    if request.parts or not options.parts or options.json_schema is not None or options.regex is not None:
        return request
    parts = parts_of(request.question)
    if not parts or (request.prompt is None and engine.encoders.own is not None):
        return request
    prompts = [_prompt_of(request, part.text) for part in parts]
    if request.prompt is not None and None in prompts:
        return request
    asked = [
        replace(request, question=part.text, prompt=prompt)
        for part, prompt in zip(parts, prompts, strict=True)
    ]
    return replace(request, parts=tuple(asked))


def generate_in_parts(engine: Engine, requests: Sequence[Request]) -> Iterator[tuple[int, Piece]]:
    """As `nbce_rag.engine.generation.generate`, of questions that may have parts.

    The pieces of a part come when the parts before it are whole.
    """
    requests = [asked_in_parts(engine, request) if request.passages else request for request in requests]
    asked: list[Request] = []
    owners: list[tuple[int, int | None]] = []  # of each: the request and its part
    joined: dict[int, JoinedAnswer] = {}
    for index, request in enumerate(requests):
        if not request.parts:
            asked.append(request)
            owners.append((index, None))
            continue
        asked += request.parts
        owners += [(index, part) for part in range(len(request.parts))]
        markers = [part.marker for part in parts_of(request.question)]
        joined[index] = JoinedAnswer(request.question, markers, [part.passages for part in request.parts])
    started = time.perf_counter()
    with closing(generate_with_conflicts(engine, asked)) as pieces:  # type: ignore[type-var]
        for place, piece in pieces:
            index, part = owners[place]
            if part is None:
                yield index, piece
                continue
            for shown in joined[index].push(part, piece):
                yield index, _timed(shown, started)


def _timed(piece: Piece, started: float) -> Piece:
    """With the time of all parts, some of which may have waited for memory."""
    if piece.answer is None:
        return piece
    total = time.perf_counter() - started
    timings = piece.answer.timings
    timings = replace(timings, decode=total - timings.prefill, total=total)
    return replace(piece, answer=replace(piece.answer, timings=timings))


def _prompt_of(request: Request, text: str) -> Prompt | None:
    """The words of a request with a part in the place of its question; None where that has no place."""
    prompt, question = request.prompt, request.question
    if prompt is None or prompt.tools:
        return None
    if prompt.text is not None:
        return (
            None
            if prompt.text.count(question) != 1
            else replace(prompt, text=prompt.text.replace(question, text))
        )
    *before, last = prompt.messages or [{}]
    content = last.get("content")
    is_alone = last.get("role") == "user" and all(m["role"] in ("system", "developer") for m in before)
    if not is_alone or not isinstance(content, str) or content.count(question) != 1:
        return None
    return replace(prompt, messages=(*before, {**last, "content": content.replace(question, text)}))
