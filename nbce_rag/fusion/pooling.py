"""Rules that pool all rows alike: mean and maximum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import NEG_INF, Fused, FusionRule, FusionState, check_numbers
from .truncation import contrast, nucleus, truncate

__all__ = ["Max", "Mean"]


@dataclass(frozen=True)
class Mean(FusionRule):
    """Mean of the passage rows; with beta = n - 1 naive Bayes proper.

    log p(T | S_1..S_n) = (beta + 1) * mean_k L_k - beta * L_0 + const, exact for beta = n - 1 when the
    passages are independent given T (9617, equation 2). After top-p a token must stand in the nucleus
    of every row; where no token does, the rows are taken whole.

    Args:
        beta: contrast with row 0, > -1; None means n - 1.
        top_p: nucleus that every row is cut to first, (0, 1].
    """

    beta: float | None = None
    top_p: float = 0.95

    name = "mean"

    def __post_init__(self) -> None:
        check_numbers(self, top_p=lambda v: 0 < v <= 1)
        if self.beta is not None:
            check_numbers(self, beta=lambda v: v > -1)

    def untruncated(self) -> Mean:
        return Mean(self.beta, 1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        n = log_probs.shape[1] - 1
        beta = n - 1.0 if self.beta is None else self.beta
        rows = log_probs
        if self.top_p < 1:
            threshold, _ = nucleus(log_probs, self.top_p)
            rows = truncate(log_probs, threshold)
            disjoint = (rows[:, 1:].amin(1) == NEG_INF).all(-1)
            rows = torch.where(disjoint[:, None, None], log_probs, rows)
        fused = contrast(rows[:, 1:].mean(1), rows[:, 0], beta)
        return Fused(fused, torch.full_like(log_probs[:, 1:, 0], 1.0 / n))


@dataclass(frozen=True)
class Max(FusionRule):
    """Elementwise maximum over the passage rows, contrasted with row 0 (9617's first finding).

    Not a distribution even before the contrast, so meant for greedy decoding.

    Args:
        beta: contrast with row 0, > -1.
        top_p: nucleus that every row is cut to first, (0, 1].
    """

    beta: float = 0.25
    top_p: float = 0.95

    name = "max"

    def __post_init__(self) -> None:
        check_numbers(self, beta=lambda v: v > -1, top_p=lambda v: 0 < v <= 1)

    def untruncated(self) -> Max:
        return Max(self.beta, 1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        n = log_probs.shape[1] - 1
        threshold, _ = nucleus(log_probs, self.top_p)
        rows = truncate(log_probs, threshold)
        fused = contrast(rows[:, 1:].amax(1), rows[:, 0], self.beta)
        return Fused(fused, torch.full_like(log_probs[:, 1:, 0], 1.0 / n))
