"""Who says what: groups of passages that give the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..passages import Passage
from .answer import Answer

__all__ = ["AnswerGroup", "Comparison"]


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
        from ..view import comparison_html

        return comparison_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))
