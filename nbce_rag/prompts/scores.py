"""Scores that passages bring from a retrieval, on the scale that fusion rules expect: cosines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from ..errors import InputError
from ..passages import Passage

__all__ = ["SCORE_SCALES", "ScoreScale", "as_cosine", "check_score_scale", "on_one_scale"]

ScoreScale = Literal[
    "cosine",
    "distance",
    "logit",
    "rank",
    "cosine_distance",
    "euclidean",
    "squared_euclidean",
    "shifted_cosine",
    "exp_cosine_distance",
    "exp_squared_euclidean",
]
SCORE_SCALES: tuple[str, ...] = get_args(ScoreScale)

_ROUNDING = 1e-2
"""How far vectors in half precision take a cosine past [-1, 1], and a distance below zero."""
_COSINE_OF: dict[str, Callable[[float], float]] = {
    "cosine": lambda cosine: cosine,
    "cosine_distance": lambda distance: 1 - distance,
    "euclidean": lambda distance: 1 - distance * distance / 2,
    "squared_euclidean": lambda distance: 1 - distance / 2,
    "shifted_cosine": lambda score: 2 * score - 1,
    "exp_cosine_distance": lambda score: 1 + _log(score),
    "exp_squared_euclidean": lambda score: 1 + _log(score) / 2,
}

_DISTANCES = (
    "The scores of the passages rise from the first to the last, as distances do, so the passages count by "
    "their order alone; score_scale='cosine' says that they are similarities, and 'cosine_distance' or "
    "'squared_euclidean' makes cosines of distances."
)
_UNKNOWN = (
    "The scores of the passages are on no known scale ({low:.4g} to {high:.4g}), so the passages count by "
    "their order alone; score_scale says what they are."
)


def check_score_scale(scale: str | None) -> None:
    """Raises InputError for a scale that there is not."""
    if scale is not None and scale not in SCORE_SCALES:
        raise InputError(
            f"score_scale={scale!r} is not known; choose {' or '.join(SCORE_SCALES)}, or None: it is then "
            "told from the scores."
        )


def as_cosine(score: float, scale: str) -> float:
    """The cosine that a score stands for, in [-1, 1].

    Args:
        score: as a store gives it.
        scale: "cosine"; "cosine_distance", 1 - cosine; "euclidean" or "squared_euclidean", the distance of
            vectors of length 1 or its square; "shifted_cosine", (1 + cosine) / 2; "exp_cosine_distance" or
            "exp_squared_euclidean", exp(-distance).

    Raises:
        InputError: another scale, which tells no cosine, or a score that none of this scale can be.
    """
    check_score_scale(scale)
    if scale not in _COSINE_OF:
        raise InputError(f"score_scale={scale!r} tells no cosines; {' or '.join(_COSINE_OF)} does.")
    cosine = _COSINE_OF[scale](score)
    if not _is_cosine(cosine):
        raise InputError(_misfit(scale, score, score))
    return max(-1.0, min(1.0, cosine))


def on_one_scale(
    passages: Sequence[Passage], scale: str | None = None
) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    """Passages of one retrieval with cosines for scores, or without scores where these are none.

    A passage without a score counts by its `rank`, if it has one.

    Args:
        passages: in the order in which they were found, with the scores that they came with.
        scale: what the scores are. "cosine": similarities in [-1, 1], or probabilities. "distance": the
            smaller, the nearer; passages count by their order from the nearest on. "logit": of a reranker;
            the logistic function brings them into [0, 1]. "rank": they mean nothing but the order of the
            passages. The others stand for cosines, see `as_cosine`.
            None tells it from the scores: within [-1, 1] they are cosines, unless they rise from the first
            to the last and none is negative, as distances do and similarities do not, since everybody
            returns the best first. Outside, they are logits if the last are negative, and nothing that is
            known (distances, BM25, inner products) if none is. A hundredth beyond a bound is a rounding.

    Returns:
        The passages, and sentences on scores that do not count.

    Raises:
        InputError: an unknown scale, or scores that are said to be, or to stand for, cosines and cannot.
    """
    check_score_scale(scale)
    scores = [_finite(passage.score) for passage in passages]
    known = [score for score in scores if score is not None]
    if not known:
        return tuple(replace(p, score=None) if p.score is not None else p for p in passages), ()
    low, high = min(known), max(known)
    notes: tuple[str, ...] = ()
    if scale is None:
        rises = low >= -_ROUNDING and len(known) > 1 and known == sorted(known) and low < high
        if rises:
            scale, notes = "rank", (_DISTANCES,)
        elif _is_cosine(low) and _is_cosine(high):
            scale = "cosine"
        elif low < 0:
            scale = "logit"
        else:
            scale, notes = "rank", (_UNKNOWN.format(low=low, high=high),)
    if scale in _COSINE_OF:
        if not all(_is_cosine(_COSINE_OF[scale](score)) for score in (low, high)):
            raise InputError(_misfit(scale, low, high))
        return _with_scores(passages, [None if s is None else as_cosine(s, scale) for s in scores]), notes
    if scale == "logit":
        return _with_scores(passages, [None if s is None else _logistic(s) for s in scores]), notes
    ordered = list(range(len(passages)))
    if scale == "distance":
        distances = [math.inf if score is None else score for score in scores]
        ordered.sort(key=distances.__getitem__)
    ranks = {place: rank for rank, place in enumerate(ordered, 1)}
    return tuple(replace(p, score=None, rank=ranks[n]) for n, p in enumerate(passages)), notes


def _with_scores(passages: Sequence[Passage], scores: Sequence[float | None]) -> tuple[Passage, ...]:
    return tuple(
        passage if passage.score == score else replace(passage, score=score)
        for passage, score in zip(passages, scores, strict=True)
    )


def _is_cosine(score: float) -> bool:
    return abs(score) <= 1 + _ROUNDING


def _misfit(scale: str, low: float, high: float) -> str:
    kind = "cosines" if scale == "cosine" else f"{scale} of vectors of length 1"
    others = ", ".join(other for other in SCORE_SCALES if other != scale)
    return (
        f"Scores from {low:.4g} to {high:.4g} are no {kind}; say what they are with score_scale ({others})."
    )


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))
