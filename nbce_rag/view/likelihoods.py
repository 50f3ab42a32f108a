"""Lines below an answer about likelihoods: its least likely words, and what leaving passages out costs."""

from __future__ import annotations

import math

from .labels import one_line, shortened
from .shown import AnswerLike

__all__ = ["likelihood_lines"]

_WORDS_SHOWN = 5
_PASSAGES_SHOWN = 8


def likelihood_lines(answer: AnswerLike) -> list[str]:
    """A line for each of the two that there is; [] for an answer of which neither is known."""
    return [*_least_likely(answer), *_left_out(answer)]


def _least_likely(answer: AnswerLike) -> list[str]:
    by_rank = sorted(answer.words, key=lambda word: word.rank)
    if len(by_rank) < 2:
        return []
    least = [shortened(one_line(word.text), 40) for word in by_rank[: min(_WORDS_SHOWN, len(by_rank) // 2)]]
    return [f"Least likely of {len(by_rank)} words: {', '.join(least)}"]


def _left_out(answer: AnswerLike) -> list[str]:
    ablation = answer.ablation
    if ablation is None:
        return []
    # A rule of the user's may give an answer no probability at all, so that there is no difference.
    known = [place for place, value in enumerate(ablation.necessity) if not math.isnan(value)]
    if not known:
        return []
    ranked = sorted(known, key=lambda place: -ablation.necessity[place])
    numbers = {evidence.passage: evidence.number for evidence in answer.passage_evidence}
    parts = [f"[{numbers[place]}] {_nats(ablation.necessity[place])}" for place in ranked[:_PASSAGES_SHOWN]]
    line = f"Left out, a passage makes the answer less likely by (nats): {', '.join(parts)}"
    if ablation.sufficiency is not None and not math.isnan(ablation.sufficiency):
        line += f"; over what is cited alone it is {_nats(ablation.sufficiency)} likelier"
    return [line]


def _nats(value: float) -> str:
    return f"{value:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0").replace("-", "\u2212")
