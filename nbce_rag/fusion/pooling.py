"""Rules that pool all rows alike: mean and maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import NEG_INF, Fused, FusionRule, FusionState
from .numbers import CONTRAST, NUCLEUS, number
from .truncation import contrast, nucleus, truncate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Max", "Mean"]

_LEAST = -(2.0 - 2.0**-23) * 2.0**127  # of float32: -inf minus -inf would be NaN


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

    beta: float | None = number(None, CONTRAST, grid=(0.0, 0.25, 1.0, 3.0, 7.0))
    top_p: float = number(0.95, NUCLEUS)

    name = "mean"

    def untruncated(self) -> Mean:
        return Mean(self.beta, 1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        n = log_probs.shape[1] - 1
        beta = n - 1.0 if self.beta is None else self.beta
        weights = torch.full_like(log_probs[:, 1:, 0], 1.0 / n)
        if self.top_p == 1:
            return Fused(contrast(log_probs[:, 1:].mean(1), log_probs[:, 0], beta), weights)
        threshold, _ = nucleus(log_probs, self.top_p)
        if log_probs.device.type != "cpu":
            return Fused(self._dense(log_probs, threshold, beta), weights)
        fused = torch.full_like(log_probs[:, 0], NEG_INF)
        # Few tokens stand in all nuclei; only they are averaged and contrasted.
        above = log_probs[:, 1:] - threshold[:, 1:, None].clamp(min=_LEAST)
        g, v = (above.amin(1) >= 0).nonzero(as_tuple=True)
        fused[g, v] = contrast(log_probs[g, 1:, v].mean(-1), _baseline(log_probs, threshold, g, v), beta)
        for question in (fused == NEG_INF).all(-1).nonzero()[:, 0].tolist():
            rows = log_probs[question]
            fused[question] = contrast(rows[1:].mean(0), rows[0], beta)
        return Fused(fused, weights)

    @staticmethod
    def _dense(log_probs: Tensor, threshold: Tensor, beta: float) -> Tensor:
        """The same over the whole vocabulary, without asking a GPU which tokens there are."""
        import torch

        mean = log_probs[:, 1:].mean(1)
        inside = (log_probs[:, 1:] >= threshold[:, 1:, None]).all(1)
        baseline = truncate(log_probs[:, 0], threshold[:, 0])
        fused = contrast(mean, baseline, beta).masked_fill(~inside, NEG_INF)
        nothing = (fused == NEG_INF).all(-1, keepdim=True)
        return torch.where(nothing, contrast(mean, log_probs[:, 0], beta), fused)


@dataclass(frozen=True)
class Max(FusionRule):
    """Elementwise maximum over the passage rows, contrasted with row 0 (9617's first finding).

    Not a distribution even before the contrast, so meant for greedy decoding.

    Args:
        beta: contrast with row 0, > -1.
        top_p: nucleus that every row is cut to first, (0, 1].
    """

    beta: float = number(0.25, CONTRAST, grid=(0.0, 0.1, 0.25, 0.5, 1.0))
    top_p: float = number(0.95, NUCLEUS)

    name = "max"

    def untruncated(self) -> Max:
        return Max(self.beta, 1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        n = log_probs.shape[1] - 1
        weights = torch.full_like(log_probs[:, 1:, 0], 1.0 / n)
        threshold, _ = nucleus(log_probs, self.top_p)
        if log_probs.device.type != "cpu":
            truncated = truncate(log_probs, threshold)
            return Fused(contrast(truncated[:, 1:].amax(1), truncated[:, 0], self.beta), weights)
        fused = torch.full_like(log_probs[:, 0], NEG_INF)
        # Few tokens stand in any nucleus; only they are contrasted.
        above = log_probs[:, 1:] - threshold[:, 1:, None].clamp(min=_LEAST)
        g, v = (above.amax(1) >= 0).nonzero(as_tuple=True)
        of_rows = log_probs[g, 1:, v]
        pooled = of_rows.masked_fill(of_rows < threshold[g, 1:], NEG_INF).amax(-1)
        fused[g, v] = contrast(pooled, _baseline(log_probs, threshold, g, v), self.beta)
        return Fused(fused, weights)


def _baseline(log_probs: Tensor, threshold: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """Truncated log-probs of row 0 at tokens v of questions g."""
    values = log_probs[g, 0, v]
    return values.masked_fill(values < threshold[g, 0], NEG_INF)
