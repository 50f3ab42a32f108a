"""The ways of answering that are compared: same model, wording, stopping and passages.

A method says which passages an engine's requests read, how they are laid out in rows, and what it makes
of the answers. `nbce_rag.evaluation.methods.names` knows them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...answers.answer import Answer
from ...engine.compare import normalise
from ...fusion import Rule
from ...passages import Passage

__all__ = ["REFINE", "Asking", "Method", "mean_log_prob"]

Passages = Sequence[Passage]
Asking = Generator[list[dict[str, Any]], list[Answer], Answer]
"""Yields arguments of `NBCE.request`, is sent their answers, and returns the method's answer."""

REFINE = "{question} (Answer so far: {answer}. Correct it if the text says otherwise, else repeat it.)"
"""What `refine` asks of each further passage, in place of the question."""


@dataclass(frozen=True)
class Method:
    """One way of answering.

    Attributes:
        name: as it was asked for.
        choose: (retrieved passages, gold passages) -> the passages that are read, in order.
        fusion: how rows become one distribution.
        layout: "rows" has each passage in a row of its own, "together" all in one row. "apart" asks every
            passage by itself, and the answer that the model is surest of (the highest mean log-prob of its
            tokens) is the method's. "refine" asks the passages one after another, each with the answer so
            far.
        joint_row: one more row holds all passages.
        options: further options of the requests.
        rope: "dynamic" or "yarn" stretches the model's positions so that a longer row fits; "" does not.
        factor: how far they are stretched; 0 as far as each question needs.
        parameters: the numbers that make the method, for the record.
    """

    name: str
    choose: Callable[[Passages, Passages], Passages]
    fusion: Rule
    layout: Literal["rows", "together", "apart", "refine"] = "rows"
    joint_row: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    rope: Literal["", "dynamic", "yarn"] = ""
    factor: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def ask(self, question: str, retrieved: Passages, gold: Passages) -> Asking:
        """The requests of one question, a list at a time, and the answer at the end."""
        passages = list(self.choose(retrieved, gold))
        if passages and self.layout == "apart":
            answers = yield [self._request(question, [passage]) for passage in passages]
            return max(answers, key=mean_log_prob)
        if passages and self.layout == "refine":
            return (yield from self._refine(question, passages))
        [answer] = yield [self._request(question, passages)]
        return answer

    def _refine(self, question: str, passages: Passages) -> Asking:
        """The answer as it was when it last changed, so that it cites the passage that changed it."""
        kept: Answer | None = None
        for passage in passages:
            asked = question
            if kept is not None and _says_something(kept):
                asked = REFINE.format(question=question, answer=kept.text)
            [answer] = yield [self._request(asked, [passage])]
            changed = kept is None or normalise(answer.text) != normalise(kept.text)
            if kept is None or not _says_something(kept) or (changed and _says_something(answer)):
                kept = answer
        assert kept is not None
        return kept

    def _request(self, question: str, passages: Passages) -> dict[str, Any]:
        return {
            "question": question,
            "passages": passages,
            "fusion": self.fusion,
            "passages_per_row": max(1, len(passages)) if self.layout == "together" else 1,
            "joint_row": self.joint_row,
            **self.options,
        }


def mean_log_prob(answer: Answer) -> float:
    """Nats a token; -inf for an answer that says nothing."""
    if not answer.tokens:
        return float("-inf")
    return sum(token.logprob for token in answer.tokens) / len(answer.tokens)


def _says_something(answer: Answer) -> bool:
    return answer.finish_reason != "no_evidence" and bool(normalise(answer.text))
