"""How likely each word of a text is to the passages, and which are the least likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .words import words

__all__ = ["WordLikelihood", "word_likelihoods"]


@dataclass(frozen=True, slots=True)
class WordLikelihood:
    """A word of a text.

    It says which words of one text to look at first, and no more: how likely a right word is depends on the
    text and on the model, so that no threshold tells right from wrong.

    Attributes:
        start: Where the word begins, in characters.
        end: Where it ends; exclusive.
        text: The word.
        log_prob: Log-prob in nats under the mixture of the passages, behind all that stands before it, summed
            over its tokens.
        rank: Its place among the words of the text, the least likely one first, from 1.
    """

    start: int
    end: int
    text: str
    log_prob: float
    rank: int


def word_likelihoods(
    text: str, spans: Sequence[tuple[int, int]], log_probs: Sequence[float]
) -> tuple[WordLikelihood, ...]:
    """The words of a text, in their order.

    Args:
        text: The text.
        spans: Of each token, in characters of the text, ordered; tokens that spell one character share one.
        log_probs: Of each token, nats. One that stands in several words counts for each by its characters.
    """
    places = words(text)
    sums = [0.0] * len(places)
    first = 0
    for (start, end), log_prob in zip(spans, log_probs, strict=True):
        while first < len(places) and places[first][1] <= start:
            first += 1
        overlaps: list[tuple[int, int]] = []
        at = first
        while at < len(places) and places[at][0] < end:
            overlaps.append((at, min(end, places[at][1]) - max(start, places[at][0])))
            at += 1
        total = sum(size for _, size in overlaps)
        for place, size in overlaps:
            sums[place] += log_prob * size / total
    order = sorted(range(len(places)), key=sums.__getitem__)
    ranks = {place: rank for rank, place in enumerate(order, 1)}
    return tuple(
        WordLikelihood(
            start,
            end,
            text[start:end],
            sums[place] if math.isfinite(sums[place]) else -math.inf,
            ranks[place],
        )
        for place, (start, end) in enumerate(places)
    )
