"""Questions with several parts: each is asked with rows of its own, and the answers are put together.

The likelihood of a whole question points to one passage; that of each part to its own. Parts share the rows
of a batch and the contexts of their passages, so that a further part costs no more than its own suffixes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ..answers.answer import Piece
from ..answers.joined import JoinedAnswer
from ..decoding.reader import Engine
from ..fusion import FusionRule
from ..prompts.parts import parts_of
from ..prompts.prompt import Prompt
from ..request import Request
from .jobs import Sink

__all__ = ["JoinedParts", "asked_in_parts", "sized"]


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


class JoinedParts:
    """Between questions and where their pieces go (a `nbce_rag.engine.jobs.Sink`): those that have
    parts are asked part by part, and answered as one.

    The pieces of a part come when the parts before it are whole.

    Args:
        engine: model and wording.
        requests: the questions.
        sink: where their pieces go.

    Attributes:
        requests: what is asked in their place; the indexes of what comes are among these.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request], sink: Sink) -> None:
        self.requests: list[Request] = []
        self._sink = sink
        self._owners: list[tuple[int, int | None]] = []  # of each: the question and its part
        self._joined: dict[int, JoinedAnswer] = {}
        self._started = time.perf_counter()
        for index, request in enumerate(requests):
            if request.passages:
                request = asked_in_parts(engine, request)
            if not request.parts:
                self.requests.append(request)
                self._owners.append((index, None))
                continue
            self.requests += request.parts
            self._owners += [(index, part) for part in range(len(request.parts))]
            markers = [part.marker for part in parts_of(request.question)]
            passages = [part.passages for part in request.parts]
            self._joined[index] = JoinedAnswer(request.question, markers, passages)

    @property
    def is_closed(self) -> bool:
        """See `Sink.is_closed`."""
        return self._sink.is_closed

    def put(self, index: int, piece: Piece) -> None:
        """See `Sink.put`."""
        question, part = self._owners[index]
        if part is None:
            self._sink.put(question, piece)
            return
        for shown in self._joined[question].push(part, piece):
            self._sink.put(question, _timed(shown, self._started))

    def fail(self, index: int, error: BaseException) -> None:
        """See `Sink.fail`."""
        self._sink.fail(self._owners[index][0], error)

    def note(self, message: str) -> None:
        """See `Sink.note`."""
        self._sink.note(message)


def sized(engine: Engine, request: Request) -> Request:
    """With the fusion rule's numbers for long answers, where one is asked for.

    Of a wording of the user's it is not known, and the rule stays as it is.
    """
    rule, style = request.options.rule, request.options.style
    prompt = request.prompt
    # An adapter may have made a conversation of the engine's own wording.
    own = engine.encoders.own is not None or (prompt is not None and prompt.is_template)
    long = style == "long" or (style is None and not own and engine.model.tokenizer.has_chat_template)
    if not long or not isinstance(rule, FusionRule) or (sized := rule.for_long()) is rule:
        return request
    return replace(request, options=request.options.updated(fusion=sized))


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
