"""Conflicts told: where passages give other answers than the one that was written, who says what.

The answer's own rows tell first, for nothing: a passage that matters and to which a token of the answer is
improbable may say something else. Only then the passages that matter answer by themselves.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from ..answers.answer import Answer, Piece
from ..decoding.reader import Engine
from ..documents.splitting import split_sentences
from ..errors import AnswerTimeoutError
from ..evidence.claims import are_alike, are_of_a_kind, is_said
from ..evidence.conflict import Claim, Conflict
from ..evidence.evidence import TokenEvidence
from ..request import Request
from .compare import answers_alone, prior_of, says_nothing
from .generation import generate

__all__ = ["conflict_of", "generate_with_conflicts"]

_TOKENS = 40  # of an answer that is short
_CLAIM_TOKENS = 24  # that a passage may write by itself
_SHARE = 0.03  # of the prior, from which on a passage matters
_PASSAGES = 4  # that answer by themselves, at most
_DENIED = math.log(0.1)  # below it a token is improbable to a passage that may say something else
_LIKELY = math.log(0.2)  # from which on it is probable to the one that says it
_SURE = -1.0  # nats a token that a claim costs at most
_GAIN = 5.0  # nats that a claim gains by its passage at least
_CLAUSE_END = re.compile(r"[,;](?=\s)|[，；。、]")


def generate_with_conflicts(engine: Engine, requests: Sequence[Request]) -> Iterator[tuple[int, Piece]]:
    """As `nbce_rag.engine.generation.generate`; answers say where passages give others.

    What is shown of an answer does not wait; its last piece, which carries the answer, does.
    """
    begun = time.monotonic()
    waiting: list[tuple[int, Answer]] = []
    with closing(generate(engine, requests)) as pieces:  # type: ignore[type-var]
        for index, piece in pieces:
            if piece.answer is None or not _dissenting(engine, piece.answer):
                yield index, piece
                continue
            waiting.append((index, piece.answer))
            if piece.text or piece.thought or piece.tokens or piece.citations:
                yield index, replace(piece, answer=None)
    # By now the rows of the answers are gone, and so is the memory that they took.
    for index, answer in waiting:
        started = time.monotonic()
        conflict = conflict_of(engine, answer, begun)
        seconds = time.monotonic() - started
        timings = replace(answer.timings, total=answer.timings.total + seconds)
        answer = replace(answer, conflicts=(conflict,) if conflict else (), timings=timings)
        yield index, Piece("", (), answer)


def conflict_of(engine: Engine, answer: Answer, begun: float | None = None) -> Conflict | None:
    """Who says what, where passages that matter give other answers than this one; None where none does.

    Args:
        engine: that gave the answer.
        answer: a short one, decoded over passages with a row for each.
        begun: when, by `time.monotonic`; what its `max_seconds` leave is not exceeded.
    """
    request = answer.request
    places = _weighty(answer)
    if request is None or len(places) < 2:
        return None
    left = request.options.max_seconds
    if left is not None and begun is not None:
        left -= time.monotonic() - begun
        if left <= 0:
            return None
    options = request.options.updated(
        max_tokens=min(_CLAIM_TOKENS, request.options.max_tokens),
        max_seconds=left,
        abstain_below=None,
        temperature=0.0,
        top_logprobs=0,
        entropies=False,
    )
    asked = replace(request, passages=[request.passages[place] for place in places], options=options)
    try:
        alone = answers_alone(engine, replace(asked, calibration=None))
    except AnswerTimeoutError:
        return None  # the answer is there, and in time
    prior = prior_of(request.options.rule, answer.passages)
    texts = [(place, text) for place, one in zip(places, alone, strict=True) if (text := _claim(engine, one))]
    claims = [
        Claim(
            text=text,
            passages=tuple(members),
            passage_ids=tuple(answer.passages[place].id for place in members),
            weight=math.fsum(prior[place] for place in members),
        )
        for text, members in _groups(answer.question, texts)
    ]
    if len(claims) < 2:
        return None
    first = next((c for c in claims if are_alike(c.text, answer.text, answer.question)), None)
    others = sorted((c for c in claims if c is not first), key=lambda claim: -claim.weight)
    return Conflict(answer.question, (*([first] if first else []), *others))


def _dissenting(engine: Engine, answer: Answer) -> bool:
    """Whether a passage that matters finds a token of the answer improbable that another has."""
    request = answer.request
    if request is None or not request.options.conflicts or not _can_conflict(engine, answer, request):
        return False
    places = _weighty(answer)
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


def _weighty(answer: Answer) -> list[int]:
    """The passages that matter, the weightiest first."""
    if answer.request is None or not answer.passages:
        return []
    prior = prior_of(answer.request.options.rule, answer.passages)
    ranked = sorted(range(len(prior)), key=lambda place: -prior[place])
    return [place for place in ranked[:_PASSAGES] if prior[place] >= _SHARE]


def _claim(engine: Engine, answer: Answer) -> str:
    """What a passage says, if its answer is that, and not what the model makes up; else ""."""
    text, tokens = answer.text, answer.tokens
    if answer.finish_reason == "length":
        text = _whole(text)
    if not text or not tokens or answer.grounding is None or says_nothing(engine, answer):
        return ""
    is_sure = math.fsum(token.logprob for token in tokens) >= _SURE * len(tokens)
    is_gained = answer.grounding * len(tokens) >= _GAIN
    passage = answer.passages[0]
    if not is_sure or not is_gained:
        return ""
    said = is_said(text, answer.question, f"{passage.title or ''}\n{passage.text}")
    return text.rstrip(" .\u3002") if said else ""


def _whole(text: str) -> str:
    """What of a text that was cut off is whole: its first sentence, or its first clause; else ""."""
    first, *others = split_sentences(text, len(text) or 1) or [(0, 0)]
    if others:
        return text[slice(*first)]
    end = _CLAUSE_END.search(text)
    return "" if end is None else text[: end.start()]


def _groups(question: str, claims: Sequence[tuple[int, str]]) -> list[tuple[str, list[int]]]:
    """Claims, and the places of those who make them, in the order of their weightiest passage."""
    groups: list[tuple[str, list[int]]] = []
    for place, text in claims:
        for first, members in groups:
            if are_alike(first, text, question):
                members.append(place)
                break
        else:
            if not groups or are_of_a_kind(groups[0][0], text, question):
                groups.append((text, [place]))
    return groups
