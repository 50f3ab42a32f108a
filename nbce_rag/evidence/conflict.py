"""Who says what, where passages give different answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

__all__ = ["Claim", "ClaimReport", "Conflict", "ConflictReport"]


class ClaimReport(TypedDict):
    """A claim in plain types: `Claim` with its passages by their places in the report's contexts."""

    text: str
    context_indexes: list[int]
    passage_ids: list[str]
    weight: float


class ConflictReport(TypedDict):
    """A conflict in plain types; `line` is its `str`."""

    line: str
    question: str
    claims: list[ClaimReport]


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer that some passages give by themselves.

    Attributes:
        text: the answer, as its weightiest passage words it.
        passages: places of the passages in `Answer.passages`, the weightiest first.
        passage_ids: their ids, in the same order.
        weight: their share of the prior over all passages, in (0, 1].
    """

    text: str
    passages: tuple[int, ...]
    passage_ids: tuple[str, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Conflict:
    """Passages that give different answers to a question.

    Attributes:
        question: the question, or the part of one.
        claims: two or more, the one that the answer takes up first, then the weightiest.
    """

    question: str
    claims: tuple[Claim, ...]

    def __str__(self) -> str:
        """'2 passages say "1931", 1 says "1934".'"""
        counts = [(len(claim.passages), " ".join(claim.text.split())) for claim in self.claims]
        first, *others = (
            f'{count} {noun}{"says" if count == 1 else "say"} "{text}"'
            for (count, text), noun in zip(counts, [_noun(counts[0][0]), *[""] * len(counts)], strict=False)
        )
        return f"{', '.join([first, *others])}."

    def placed(self, places: Sequence[int]) -> Conflict:
        """The same over other passages, each of which stands at `places[place]` among those."""
        claims = (
            replace(claim, passages=tuple(places[place] for place in claim.passages)) for claim in self.claims
        )
        return replace(self, claims=tuple(claims))

    def to_dict(self) -> ConflictReport:
        return {
            "line": str(self),
            "question": self.question,
            "claims": [
                {
                    "text": claim.text,
                    "context_indexes": [int(place) for place in claim.passages],
                    "passage_ids": list(claim.passage_ids),
                    "weight": float(claim.weight),
                }
                for claim in self.claims
            ],
        }


def _noun(count: int) -> str:
    return f"passage{'' if count == 1 else 's'} "
