"""Which passages say the same: those of equal text, and those that give a stretch alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from .evidence import TokenEvidence
from .passage_words import PassageWords, words_of
from .words import fold

__all__ = ["LEAST_SHARE", "Agreement", "Likelihoods", "joined", "likelihoods"]

LEAST_SHARE = 1e-3
"""Share of the evidence from which on a passage is named beside one that says the same: below it rows are
dropped (`drop_rows_after`) or asleep, and what they would say is not known."""

# "Not worth more than a bare mention" ends at a Bayes factor of 3 (Kass and Raftery 1995, table in 3.2).
_FACTOR = math.log(3.0)
_NATS_A_TOKEN = 0.3  # by which long stretches may differ, as much as a unit must gain to be cited
_LIFT = 1.0  # nats that a stretch must have gained by a passage, as a unit must


class Likelihoods(NamedTuple):
    """What the rows gave some tokens, in nats.

    Attributes:
        base: the row without a passage.
        passages: the best row of each passage; -inf where none was read.
        tokens: how many of them.
    """

    base: float
    passages: tuple[float, ...]
    tokens: float

    def lift(self, place: int) -> float:
        """Nats by which a passage made the tokens likelier; 0 where that is not known."""
        lift = self.passages[place] - self.base if math.isfinite(self.base) else 0.0
        return lift if math.isfinite(lift) else 0.0


class Agreement:
    """Which of some passages say the same.

    Passages of equal text (as `fold` compares) always do. Others do for a stretch of an answer if their rows
    give it nearly alike: the odds between them change by less than a factor of 3, or 0.3 nats a token. That
    alone would join all passages where the model knows what it writes; so the stretch must also be what the
    passage says: by its row it is at least 1 nat likelier than without a passage, or the numbers and names
    of the stretch stand in it (`nbce_rag.evidence.passage_words`).

    Args:
        texts: what the passages hold, titles too; of one that is "" nothing is known.
        copied: the texts by which passages are copies of each other.
    """

    def __init__(self, texts: Sequence[str], copied: Sequence[str]) -> None:
        self._texts = texts
        self._words: dict[int, PassageWords] = {}
        first: dict[str, int] = {}
        self._first_copy = [
            first.setdefault(key, place) if (key := fold(text)) else place
            for place, text in enumerate(copied)
        ]

    def is_copy(self, one: int, other: int) -> bool:
        """Whether two passages have equal texts."""
        return self._first_copy[one] == self._first_copy[other]

    def leader(self, evidence: Sequence[float]) -> int:
        """The passage with most evidence, copies together; of these the first with the most of its own."""
        together = [0.0] * len(evidence)
        for place, share in enumerate(evidence):
            together[self._first_copy[place]] += share
        return max(range(len(evidence)), key=lambda k: (together[self._first_copy[k]], evidence[k], -k))

    def copies(self, place: int) -> frozenset[int]:
        """A passage and those of equal text."""
        return frozenset(k for k in range(len(self._texts)) if self.is_copy(k, place))

    def alike(self, places: Iterable[int], best: int, given: Likelihoods | None) -> frozenset[int]:
        """A passage and its copies, and those of some others whose rows give tokens nearly as its row does.

        Args:
            places: the others.
            best: the passage.
            given: None where the rows' own numbers are not known.
        """
        copies = self.copies(best)
        if given is None or not given.tokens:
            return copies
        least = given.passages[best] - max(_FACTOR, _NATS_A_TOKEN * given.tokens)
        return copies | {place for place in places if given.passages[place] >= least > -math.inf}

    def says(self, place: int, content: Callable[[], Sequence[str]], given: Likelihoods) -> bool:
        """Whether a stretch of the answer is what a passage says, and not what the model knows anyway.

        Args:
            place: the passage.
            content: gives the numbers and names of the stretch (`nbce_rag.evidence.content_words`).
            given: what the rows gave the stretch.
        """
        if given.lift(place) >= _LIFT:
            return True
        if not self._texts[place] or not (words := content()):
            return False
        if place not in self._words:
            self._words[place] = words_of(self._texts[place])
        return not any(self._words[place].absent(word) for word in words)


def likelihoods(parts: Sequence[tuple[TokenEvidence, float]], owners: Sequence[int]) -> Likelihoods | None:
    """What the rows gave some tokens, each counted by a share of it; None where it was not noted.

    Args:
        parts: tokens and their shares.
        owners: for each passage the place of the one that has its evidence.
    """
    base, count = 0.0, 0.0
    sums = [-math.inf] * len(owners)
    for place in owners:
        sums[place] = 0.0
    for token, share in parts:
        if len(token.row_log_probs) != len(owners) + 1:
            return None
        count += share
        first, *rest = token.row_log_probs
        base += share * first
        best = [-math.inf] * len(owners)
        for owner, value in zip(owners, rest, strict=True):
            best[owner] = max(best[owner], value)
        sums = [total + share * value for total, value in zip(sums, best, strict=True)]
    return Likelihoods(base, tuple(sums), count)


def joined(one: Likelihoods | None, other: Likelihoods | None) -> Likelihoods | None:
    """What the rows gave two runs of tokens; None where it is not known of both."""
    if one is None or other is None:
        return None
    both = tuple(a + b for a, b in zip(one.passages, other.passages, strict=True))
    return Likelihoods(one.base + other.base, both, one.tokens + other.tokens)
