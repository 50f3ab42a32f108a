"""Conflicts told: where passages give other answers than the one that was written, who says what.

The answer's own rows tell first, for nothing: a passage that matters, is about the question as much as the
others, and to which a token of the answer is improbable may say something else. Only then those passages
answer by themselves. What two of them say is a conflict where neither passage has what the other says.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace

from ..answers.answer import Answer, Piece
from ..decoding.reader import Engine
from ..documents.splitting import split_sentences
from ..errors import AnswerTimeoutError
from ..evidence.claims import are_alike, grouped_claims, held_share, is_said
from ..evidence.conflict import Claim, Conflict
from ..evidence.evidence import TokenEvidence
from ..passages import whole_text
from ..request import Request
from .compare import prior_of, requests_alone, says_nothing
from .jobs import Sink, prepare
from .worker import Worker

__all__ = ["ConflictsTold"]

_TOKENS = 40  # of an answer that is short
_CLAIM_TOKENS = 24  # that a passage may write by itself
_SHARE = 0.03  # of the prior, from which on a passage matters
_COMPARABLE = 0.1  # of the weightiest passage's share, from which on another can contradict it
_HELD = 0.5  # of the question's words that a passage has at least, if any is about it
_ABOUT = 0.6  # of what that one has, from which on another is about it too
_PASSAGES = 4  # that answer by themselves, at most
_DENIED = math.log(0.1)  # below it a token is improbable to a passage that may say something else
_LIKELY = math.log(0.2)  # from which on it is probable to the one that says it
_SURE = -1.0  # nats a token that a claim costs at most
_GAIN = 5.0  # nats that a claim gains by its passage at least
_CLAUSE_END = re.compile(r"[,;](?=\s)|[，；。、]")


class ConflictsTold:
    """Between questions and where their pieces go (a `nbce_rag.engine.jobs.Sink`): answers say where
    passages give others.

    What is shown of an answer does not wait; its last piece, which carries the answer, does, while passages
    answer by themselves beside whatever else is answered.

    Args:
        engine: model and wording.
        worker: what answers.
        sink: where pieces go.
        priority, caller: of those questions.
    """

    def __init__(
        self, engine: Engine, worker: Worker, sink: Sink, priority: int = 0, caller: Hashable = None
    ) -> None:
        self._engine, self._worker, self._sink = engine, worker, sink
        self._priority, self._caller = priority, caller
        self._begun = time.monotonic()

    @property
    def is_closed(self) -> bool:
        """See `Sink.is_closed`."""
        return self._sink.is_closed

    def put(self, index: int, piece: Piece) -> None:
        """See `Sink.put`."""
        answer = piece.answer
        requests = [] if answer is None else _doubts(self._engine, answer, self._begun)
        if answer is None or not requests:
            self._sink.put(index, piece)
            return
        if piece.text or piece.thought or piece.tokens or piece.citations:
            self._sink.put(index, replace(piece, answer=None))
        alone = _Alone(self._engine, answer, len(requests), index, self._sink)
        jobs, _ = prepare(self._engine, requests, alone, self._worker.running)  # warned of with the question
        for job in jobs:
            job.priority, job.caller = self._priority, self._caller
        self._worker.add(jobs, first=True)

    def fail(self, index: int, error: BaseException) -> None:
        """See `Sink.fail`."""
        self._sink.fail(index, error)

    def note(self, message: str) -> None:
        """See `Sink.note`."""
        self._sink.note(message)


class _Alone:
    """What the passages that matter to an answer say by themselves; then the answer goes on its way.

    Args:
        engine: model and wording.
        answer: what all of them said.
        count: how many are asked.
        index: of the question.
        sink: where the answer goes.
    """

    def __init__(self, engine: Engine, answer: Answer, count: int, index: int, sink: Sink) -> None:
        self._engine, self._answer, self._index, self._sink = engine, answer, index, sink
        self._count = count
        self._answers: dict[int, Answer] = {}
        self._is_over = False
        self._started = time.monotonic()

    @property
    def is_closed(self) -> bool:
        return self._is_over or self._sink.is_closed

    def put(self, index: int, piece: Piece) -> None:
        if piece.answer is None or self._is_over:
            return
        self._answers[index] = piece.answer
        if len(self._answers) == self._count:
            alone = [self._answers[place] for place in range(self._count)]
            self._end(_conflict(self._engine, self._answer, alone))

    def fail(self, index: int, error: BaseException) -> None:
        if self._is_over:
            return
        if isinstance(error, AnswerTimeoutError):
            self._end(None)  # the answer is there, and in time
        else:
            self._is_over = True
            self._sink.fail(self._index, error)

    def note(self, message: str) -> None:
        self._sink.note(message)

    def _end(self, conflict: Conflict | None) -> None:
        self._is_over = True
        seconds = time.monotonic() - self._started
        timings = replace(self._answer.timings, total=self._answer.timings.total + seconds)
        answer = replace(self._answer, conflicts=(conflict,) if conflict else (), timings=timings)
        self._sink.put(self._index, Piece("", (), answer))


def _doubts(engine: Engine, answer: Answer, begun: float) -> list[Request]:
    """What the passages that matter are asked by themselves; nothing where none denies the answer.

    Args:
        engine: that gave the answer.
        answer: a short one, decoded over passages with a row for each.
        begun: when, by `time.monotonic`; what its `max_seconds` leave is not exceeded.
    """
    request = answer.request
    places = _dissenting(engine, answer)
    if request is None or not places:
        return []
    left = request.options.max_seconds
    if left is not None:
        left -= time.monotonic() - begun
        if left <= 0:
            return []
    options = request.options.updated(
        max_tokens=min(_CLAIM_TOKENS, request.options.max_tokens),
        max_seconds=left,
        abstain_below=None,
        temperature=0.0,
        top_logprobs=0,
        entropies=False,
    )
    asked = replace(request, passages=[request.passages[place] for place in places], options=options)
    return requests_alone(engine, replace(asked, calibration=None))


def _conflict(engine: Engine, answer: Answer, alone: Sequence[Answer]) -> Conflict | None:
    """Who says what, where passages that matter give other answers than this one; None where none does.

    Args:
        engine: that gave the answers.
        answer: what all passages said.
        alone: what those that matter said, the weightiest first.
    """
    assert answer.request is not None
    prior = prior_of(answer.request.options.rule, answer.passages)
    places = _weighty(answer)
    texts = [(place, text) for place, one in zip(places, alone, strict=True) if (text := _claim(engine, one))]
    read = [whole_text(passage) for passage in answer.passages]
    claims = [
        Claim(
            text=text,
            passages=tuple(members),
            passage_ids=tuple(answer.passages[place].id for place in members),
            weight=math.fsum(prior[place] for place in members),
        )
        for text, members in grouped_claims(answer.question, texts, read)
    ]
    if len(claims) < 2:
        return None
    first = next((c for c in claims if are_alike(c.text, answer.text, answer.question)), None)
    if first is None:  # what all wrote together is nobody's own answer, and tells nothing of theirs
        return None
    others = sorted((claim for claim in claims if claim is not first), key=lambda claim: -claim.weight)
    return Conflict(answer.question, (first, *others))


def _dissenting(engine: Engine, answer: Answer) -> list[int]:
    """The passages that matter, if one of them finds a token of the answer improbable that another has."""
    request = answer.request
    if request is None or not request.options.conflicts or not _can_conflict(engine, answer, request):
        return []
    # The words of passages are looked up, which takes milliseconds, only where the tokens leave it open.
    if not _denies(answer, _comparable(answer)):
        return []
    places = _weighty(answer)
    return places if _denies(answer, places) else []


def _denies(answer: Answer, places: Sequence[int]) -> bool:
    return len(places) > 1 and any(
        max(given, default=-math.inf) >= _LIKELY and min(given) < _DENIED
        for token in answer.tokens
        for given in [_given(token, places)]
    )


def _given(token: TokenEvidence, places: Sequence[int]) -> list[float]:
    """What some passages give a token, in nats; those that slept are left out, since they denied another."""
    if not token.row_log_probs:
        return []
    return [value for place in places if math.isfinite(value := token.row_log_probs[1 + place])]


def _can_conflict(engine: Engine, answer: Answer, request: Request) -> bool:
    """Whether a conflict can mean anything: a short answer in words, from rows of one passage each."""
    options, prompt = request.options, request.prompt
    return (
        len(answer.passages) > 1
        and answer.finish_reason == "stop"
        and len(answer.tokens) <= _TOKENS
        and not answer.thought
        and options.json_schema is None
        and options.regex is None
        and options.passages_per_row == 1
        and not options.joint_row
        and not options.order_labels
        and (prompt is None or not prompt.tools)
    )


def _comparable(answer: Answer) -> list[int]:
    """The passages that matter, the weightiest first."""
    if answer.request is None or not answer.passages:
        return []
    prior = prior_of(answer.request.options.rule, answer.passages)
    ranked = sorted(range(len(prior)), key=lambda place: -prior[place])
    least = max(_SHARE, _COMPARABLE * prior[ranked[0]])
    return [place for place in ranked if prior[place] >= least]


def _weighty(answer: Answer) -> list[int]:
    """Those of them that are about the question."""
    places = _comparable(answer)
    held = {place: held_share(answer.question, whole_text(answer.passages[place])) for place in places}
    most = max(held.values(), default=0.0)
    return [place for place in places if most >= _HELD and held[place] >= _ABOUT * most][:_PASSAGES]


def _claim(engine: Engine, answer: Answer) -> str:
    """What a passage says, if its answer is that, and not what the model makes up; else ""."""
    text, tokens = answer.text, answer.tokens
    if answer.finish_reason == "length":
        text = _whole(text)
    if not text or not tokens or answer.grounding is None or says_nothing(engine, answer):
        return ""
    is_sure = math.fsum(token.logprob for token in tokens) >= _SURE * len(tokens)
    is_gained = answer.grounding * len(tokens) >= _GAIN
    if not is_sure or not is_gained:
        return ""
    said = is_said(text, answer.question, whole_text(answer.passages[0]))
    return text.rstrip(" .\u3002") if said else ""


def _whole(text: str) -> str:
    """What of a text that was cut off is whole: its first sentence, or its first clause; else ""."""
    first, *others = split_sentences(text, len(text) or 1) or [(0, 0)]
    if others:
        return text[slice(*first)]
    end = _CLAUSE_END.search(text)
    return "" if end is None else text[: end.start()]
