"""What views, and the report of an answer, need of answers and comparisons: whatever has it can be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..evidence.evidence import Citation, Timings, TokenEvidence, Usage
from ..evidence.passage_evidence import PassageEvidence
from ..passages import Passage

__all__ = ["AnswerLike", "ComparisonLike", "GroupLike"]


class AnswerLike(Protocol):
    """An answer as it is shown. `nbce_rag.Answer` is one, and says what each attribute means."""

    @property
    def question(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> Sequence[TokenEvidence]: ...
    @property
    def citations(self) -> Sequence[Citation]: ...
    @property
    def passages(self) -> Sequence[Passage]: ...
    @property
    def passage_evidence(self) -> Sequence[PassageEvidence]: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def grounding(self) -> float | None: ...
    @property
    def fusion(self) -> str: ...
    @property
    def warnings(self) -> Sequence[str]: ...


class GroupLike(Protocol):
    """Passages that give the same answer. `nbce_rag.answers.comparison.AnswerGroup` is one."""

    @property
    def text(self) -> str: ...
    @property
    def passages(self) -> Sequence[Passage]: ...
    @property
    def weight(self) -> float: ...
    @property
    def answers(self) -> Sequence[AnswerLike]: ...


class ComparisonLike(Protocol):
    """Who says what. `nbce_rag.Comparison` is one."""

    @property
    def question(self) -> str: ...
    @property
    def groups(self) -> Sequence[GroupLike]: ...
    @property
    def silent(self) -> Sequence[Passage]: ...
    @property
    def silent_weight(self) -> float: ...
