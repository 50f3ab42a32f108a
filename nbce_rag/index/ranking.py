"""Orders of what was found: rankings fused by their ranks, and results that differ from each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["mmr_order", "reciprocal_ranks"]

_RRF = 60
_T = TypeVar("_T", bound=Hashable)


def reciprocal_ranks(
    rankings: Sequence[Sequence[_T]], weights: Sequence[float] | None = None
) -> dict[_T, float]:
    """Each item's sum of weight / (60 + rank), rank from 1, over the rankings that have it.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009), with 60 as there.
    """
    scores: dict[_T, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + weight / (_RRF + rank)
    return scores


def mmr_order(
    relevance: NDArray[np.float32], vectors: NDArray[np.float32], k: int, relevance_weight: float
) -> list[int]:
    """Places of up to k candidates by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Each next one maximises weight * relevance - (1 - weight) * likeness, the cosine to the likest of those
    chosen before it.

    Args:
        relevance: Cosines to the query, [n].
        vectors: Normalised, [n, d].
        k: How many.
        relevance_weight: In [0, 1]; 1 is the order of relevance.
    """
    order: list[int] = []
    likeness = np.full(len(relevance), -1.0, dtype=np.float32)
    rest = np.ones(len(relevance), dtype=bool)
    while len(order) < min(k, len(relevance)):
        values = relevance_weight * relevance - ((1 - relevance_weight) * likeness if order else 0.0)
        place = int(np.argmax(np.where(rest, values, -np.inf)))
        order.append(place)
        rest[place] = False
        likeness = np.maximum(likeness, vectors @ vectors[place])
    return order
