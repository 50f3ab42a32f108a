"""Who says what: groups of passages that give the same answer."""

from __future__ import annotations

from dataclasses import dataclass

from ..passages import Passage
from .answer import Answer, Printer

__all__ = ["AnswerGroup", "Comparison"]


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """Passages that give the same answer.

    Attributes:
        text: the answer, as its weightiest passage words it.
        passages: who says so, the weightiest first.
        weight: share of the prior over passages (retrieval score and question likelihood), in (0, 1]; the
            groups' weights and `Comparison.silent_weight` sum to 1.
        answers: the answer of each of the passages, in the same order.
    """

    text: str
    passages: tuple[Passage, ...]
    weight: float
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Who says what.

    Attributes:
        question: the question.
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
        """Whether the passages agree, and a line for each answer with the passages that give it."""
        from ..view.plain import comparison_text

        return comparison_text(self)

    def _repr_html_(self) -> str:
        from ..view import comparison_html

        return comparison_html(self)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(str(self))
