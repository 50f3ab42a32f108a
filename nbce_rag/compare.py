"""Do the passages agree? Every passage answers for itself, and equal answers are put together."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Any

import torch

from .answer import Answer
from .decoding.generation import generate
from .decoding.prompting import Engine, Request
from .errors import InputError
from .fusion import FusionState, Posterior
from .passages import Passage

__all__ = ["AnswerGroup", "Comparison", "compare", "normalise"]

_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """Passages that give the same answer.

    Attributes:
        text: the answer, as its weightiest passage words it.
        passages: who says so, the weightiest first.
        weight: share of the prior over passages (retrieval score and question likelihood), in (0, 1]; the
            groups' weights and `Comparison.silent_weight` sum to 1.
        answers: what each of the passages said, in the same order.
    """

    text: str
    passages: tuple[Passage, ...]
    weight: float
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Who says what.

    Attributes:
        question: what was asked.
        groups: distinct answers, the weightiest first.
        silent: passages that give no answer (they refuse, or say nothing).
        silent_weight: their share of the prior.
    """

    question: str
    groups: tuple[AnswerGroup, ...]
    silent: tuple[Passage, ...]
    silent_weight: float

    @property
    def agree(self) -> bool:
        """Whether all passages that answer give the same answer."""
        return len(self.groups) <= 1

    def __str__(self) -> str:
        if not self.groups:
            return "No passage answers this question."
        lines = ["The passages agree." if self.agree else f"The passages give {len(self.groups)} answers."]
        for group in self.groups:
            names = ", ".join(p.title or p.id for p in group.passages)
            lines.append(f"- {group.text} ({group.weight:.0%}: {names})")
        if self.silent:
            lines.append(f"No answer: {', '.join(p.title or p.id for p in self.silent)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from .view import comparison_html

        return comparison_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


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
    options = request.options.updated(passages_per_row=1, joint_row=False, order_labels=False, relevance=True)
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
    scores = [p.score for p in passages]
    known = [s for s in scores if s is not None]
    mean = sum(known) / len(known) if known else 0.0
    state = FusionState(
        scores=torch.tensor([[mean if s is None else s for s in scores]]) if known else None,
        relevance=torch.tensor([[p.relevance or 0.0 for p in passages]]),
    )
    prior: list[float] = rule.log_prior(state, torch.zeros(1, len(passages)))[0].exp().tolist()
    return prior


def _refusal(engine: Engine, request: Request) -> str:
    return normalise(engine.encoder_of(request).template.refusal or "")
