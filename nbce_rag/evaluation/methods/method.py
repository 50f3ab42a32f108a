"""The ways of answering that are compared: same model, wording, stopping and passages.

A method says which passages an engine's requests read, how they are laid out in rows, and what it makes
of the answers. `nbce_rag.evaluation.methods.names` has them by name. Importing this loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ...answers.answer import Answer
from ...passages import Passage

if TYPE_CHECKING:
    from ...fusion import Rule

__all__ = ["REFINE", "Choice", "Exchange", "Layout", "Method", "Passages", "RequestFields", "mean_log_prob"]

Passages: TypeAlias = Sequence[Passage]
Layout: TypeAlias = Literal["rows", "together", "apart", "refine"]
Choice: TypeAlias = Callable[[Passages, Passages], Passages]
"""(passages that were retrieved, gold passages) -> the passages that are read, in order."""

RequestFields: TypeAlias = dict[str, Any]
"""Arguments of `NBCE.request`."""

Exchange: TypeAlias = Generator[list[RequestFields], list[Answer], Answer]
"""Yields arguments of `NBCE.request`, is sent their answers, and returns the method's answer."""

REFINE = "{question} (Answer so far: {answer}. Correct it if the text says otherwise, else repeat it.)"
"""What `refine` asks of each further passage, in place of the question."""


@dataclass(frozen=True)
class Method:
    """One way of answering.

    Attributes:
        name: as it stands in the list of methods, with its numbers.
        choose: which passages are read.
        fusion: how rows become one distribution.
        layout: "rows" has each passage in a row of its own, "together" all in one row. "apart" asks every
            passage by itself, and the answer that the model is surest of (the highest mean log-prob of its
            tokens) is the method's. "refine" asks the passages one after another, each with the answer so
            far.
        joint_row: one more row holds all passages.
        options: further options of the requests.
        joined: how many questions are joined to one with several parts; each is scored by itself.
        rope: "dynamic" or "yarn" stretches the model's positions so that a longer row fits; "" does not.
        factor: how far they are stretched; 0 as far as each question needs.
        parameters: the numbers that make the method, for the record.
    """

    name: str
    choose: Choice
    fusion: Rule
    layout: Layout = "rows"
    joint_row: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    joined: int = 1
    rope: Literal["", "dynamic", "yarn"] = ""
    factor: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def ask(self, question: str, passages: Passages, gold: Passages) -> Exchange:
        """The requests of one question, a list at a time, and the answer at the end.

        Args:
            question: what is asked.
            passages: those that were retrieved, the best first.
            gold: those that hold the answer.
        """
        contexts = list(self.choose(passages, gold))
        if contexts and self.layout == "apart":
            answers = yield [self._request(question, [passage]) for passage in contexts]
            return max(answers, key=mean_log_prob)
        if contexts and self.layout == "refine":
            return (yield from self._refine(question, contexts))
        [answer] = yield [self._request(question, contexts)]
        return answer

    @property
    def asks_at_once(self) -> bool:
        """Whether questions that are joined are answered in one go, rather than part by part."""
        return not self.options.get("parts", True)

    def _refine(self, question: str, passages: Passages) -> Exchange:
        """The answer as it was when it last changed, so that it cites the passage that changed it."""
        best: Answer | None = None
        for passage in passages:
            text = question
            if best is not None and _has_content(best):
                text = REFINE.format(question=question, answer=best.text)
            [answer] = yield [self._request(text, [passage])]
            changed = best is None or _normalise(answer.text) != _normalise(best.text)
            if best is None or not _has_content(best) or (changed and _has_content(answer)):
                best = answer
        assert best is not None
        return best

    def _request(self, question: str, passages: Passages) -> RequestFields:
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


def _has_content(answer: Answer) -> bool:
    return answer.finish_reason != "no_evidence" and bool(_normalise(answer.text))


def _normalise(text: str) -> str:
    from ...evidence.claims import normalise

    return normalise(text)
