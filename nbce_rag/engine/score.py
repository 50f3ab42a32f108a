"""Fused log-probs of given answers: classification and multiple choice over any number of passages.

The task of the NAACL 2024 paper (arXiv 2403.17552), where passages hold worked examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..answers.choices import ChoiceScores
from ..decoding.budget import copies
from ..decoding.decoder import LockstepDecoder
from ..decoding.group import Group
from ..decoding.reader import Engine, Prompted, read_prompts
from ..decoding.sampling import ForcedTokens
from ..errors import InputError, warn
from ..fusion import FusionRule
from ..models.model import Rows
from ..request import Request
from .jobs import NO_PASSAGES

__all__ = ["score"]


def score(engine: Engine, request: Request, choices: Sequence[str]) -> ChoiceScores:
    """Score given answers to a question, all in one batch.

    The prompt is read once; then each choice is a group of rows of its own whose tokens are given. Rules
    of `nbce_rag.fusion` score without truncation, since a truncated token would cost a choice everything, and
    over whole passages, since the sentences of a worked example are none.

    Args:
        engine: model and wording.
        request: question, passages and options; sampling options have no effect.
        choices: at least one non-empty text.

    Raises:
        InputError: no choices, or an empty one, or a backend that cannot.
        ContextLengthError: a choice does not fit behind the question.
    """
    choices = choices if isinstance(choices, str) else tuple(choices)
    if not choices or isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
        raise InputError(f"choices={choices!r} must be a sequence of at least one text.")
    engine.check_steps("score choices")
    if not engine.model.can.repeat:
        raise InputError(f"The backend of {engine.model.name!r} cannot score choices; use another backend.")
    # A choice follows the prompt at once.
    request = replace(request, options=request.options.updated(thinking=False))
    ids = [engine.encoder_of(request).encode_answer(choice) for choice in choices]
    for choice, tokens in zip(choices, ids, strict=True):
        if not choice.strip() or not tokens:
            raise InputError(f"The choice {choice!r} is empty; leave it out.")
    request = replace(request, options=request.options.updated(max_tokens=max(map(len, ids))))
    if not request.passages:
        warn(NO_PASSAGES)
    plan = engine.plan(request)
    for note in plan.warnings:
        warn(note)
    rows, log_probs, [prompted] = read_prompts(engine, [request], [plan], sentences=False)
    # Every choice takes a copy of the rows.
    size = copies(engine.model, engine.size(request, plan))
    totals: list[float] = []
    for first in range(0, len(ids), size):
        totals += _score_some(request, prompted, rows, log_probs, ids[first : first + size])
    return ChoiceScores(choices, tuple(totals), tuple(map(len, ids)))


def _score_some(
    request: Request,
    prompted: Prompted,
    rows: Rows,
    log_probs: Tensor,
    ids: Sequence[tuple[int, ...]],
) -> list[float]:
    """Fused log-prob of each of a few choices, given as token ids."""
    width = len(prompted.rows)
    every = [*range(width)] * len(ids)
    rule = request.options.rule
    if isinstance(rule, FusionRule):
        rule = rule.untruncated()
    forced = [ForcedTokens(tokens) for tokens in ids]
    groups = [
        Group(
            tuple(range(i * width, (i + 1) * width)),
            rule,
            chooser,
            replace(prompted.state, memory={}),
        )
        for i, chooser in enumerate(forced)
    ]
    decoder = LockstepDecoder(rows.keep(every), log_probs[every], groups)
    totals = [0.0] * len(ids)
    while decoder.active:
        for step in decoder.step():
            totals[step.question] += step.log_prob
            if forced[step.question].finished:
                decoder.finish(step.question)
        for error in decoder.errors.values():
            raise error
    return totals
