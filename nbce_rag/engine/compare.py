"""Do the passages agree? Every passage answers for itself, and equal answers are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..answers.answer import Answer
from ..answers.comparison import AnswerGroup, Comparison
from ..decoding.plan import filled_scores
from ..decoding.reader import Engine
from ..errors import InputError
from ..evidence.claims import normalise
from ..fusion import FusionState, Posterior, Rule
from ..passages import Passage
from ..request import Request
from .tickets import answers_of

__all__ = ["compare", "prior_of", "requests_alone", "says_nothing"]


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
    answers = answers_of(engine, requests_alone(engine, request))
    prior = prior_of(request.options.rule, [answer.passages[0] for answer in answers])
    groups: dict[str, list[int]] = {}
    silent: list[int] = []
    for index, answer in enumerate(answers):
        if says_nothing(engine, answer):
            silent.append(index)
        else:
            groups.setdefault(normalise(answer.text), []).append(index)
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


def requests_alone(engine: Engine, request: Request) -> list[Request]:
    """A request for each of a request's passages by itself, in their order."""
    options = request.options.updated(
        passages_per_row=1, joint_row=False, order_labels=False, relevance=engine.model.can.likelihood
    )
    return [replace(request, passages=(passage,), options=options) for passage in request.passages]


def says_nothing(engine: Engine, answer: Answer) -> bool:
    """Whether an answer is an abstention, the wording's refusal, or nothing at all."""
    assert answer.request is not None
    refusal = engine.encoder_of(answer.request).template.refusal or ""
    key = normalise(answer.text)
    return answer.finish_reason == "no_evidence" or not key or key == normalise(refusal)


def prior_of(rule: Rule, passages: Sequence[Passage]) -> list[float]:
    """The share of each passage before anything is written, as `Posterior` has it; they sum to 1.

    Args:
        rule: the numbers of this one, if it is a `Posterior`.
        passages: with scores and relevance, as far as they are known.
    """
    posterior = rule if isinstance(rule, Posterior) else Posterior()
    scores = filled_scores(passages)
    state = FusionState(
        scores=None if scores is None else torch.tensor([scores]),
        relevance=torch.tensor([[p.relevance or 0.0 for p in passages]]),
    )
    prior: list[float] = posterior.log_prior(state, torch.zeros(1, len(passages)))[0].exp().tolist()
    return prior
