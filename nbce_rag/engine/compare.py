"""Do the passages agree? Every passage answers for itself, and equal answers are put together."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import torch

from ..answers.answer import Answer
from ..answers.comparison import AnswerGroup, Comparison
from ..decoding.plan import filled_scores
from ..decoding.reader import Engine
from ..errors import InputError
from ..fusion import FusionState, Posterior
from ..passages import Passage
from ..request import Request
from .generation import generate

__all__ = ["compare", "normalise"]

_ARTICLES = {"a", "an", "the"}


def compare(engine: Engine, request: Request) -> Comparison:
    """Answer a question from each passage alone, in one batch, and group equal answers.

    Answers are equal when they are the same after `normalise`. Each passage's row is fused with the row
    without a passage, and with rows of its sentences where the rule has a `focus`, as the request's rule
    does with a single passage.

    Args:
        engine: model and wording.
        request: the question and at least one passage.

    Raises:
        InputError: no passages.
    """
    if not request.passages:
        raise InputError("compare needs at least one passage.")
    options = request.options.updated(
        passages_per_row=1, joint_row=False, order_labels=False, relevance=engine.model.can.likelihood
    )
    alone = [replace(request, passages=(passage,), options=options) for passage in request.passages]
    answers: dict[int, Answer] = {}
    for index, piece in generate(engine, alone):
        if piece.answer is not None:
            answers[index] = piece.answer
    rule = options.rule if isinstance(options.rule, Posterior) else Posterior()
    prior = _prior(rule, [answers[i].passages[0] for i in range(len(alone))])
    groups: dict[str, list[int]] = {}
    silent: list[int] = []
    for index in range(len(alone)):
        answer = answers[index]
        key = normalise(answer.text)
        if answer.finish_reason == "no_evidence" or not key or key == _refusal(engine, request):
            silent.append(index)
        else:
            groups.setdefault(key, []).append(index)
    found = []
    for members in groups.values():
        members.sort(key=lambda i: -prior[i])
        found.append(
            AnswerGroup(
                text=answers[members[0]].text,
                passages=tuple(answers[i].passages[0] for i in members),
                weight=sum(prior[i] for i in members),
                answers=tuple(answers[i] for i in members),
            )
        )
    return Comparison(
        question=request.question,
        groups=tuple(sorted(found, key=lambda group: -group.weight)),
        silent=tuple(answers[i].passages[0] for i in silent),
        silent_weight=sum(prior[i] for i in silent),
    )


def normalise(text: str) -> str:
    """Text for comparison, as in SQuAD's scorer: without case, punctuation, articles, or runs of blanks.

    Width and compatibility forms are folded (NFKC), so that full-width digits equal plain ones.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w\s]|_", " ", folded).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def _prior(rule: Posterior, passages: list[Passage]) -> list[float]:
    scores = filled_scores(passages)
    state = FusionState(
        scores=None if scores is None else torch.tensor([scores]),
        relevance=torch.tensor([[p.relevance or 0.0 for p in passages]]),
    )
    prior: list[float] = rule.log_prior(state, torch.zeros(1, len(passages)))[0].exp().tolist()
    return prior


def _refusal(engine: Engine, request: Request) -> str:
    return normalise(engine.encoder_of(request).template.refusal or "")
