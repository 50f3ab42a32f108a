"""REPLUG: a mixture with fixed weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....checks import Range
from ....fusion import Fused, FusionState
from ....fusion.numbers import number
from ..peer import Peer

__all__ = ["RULE", "Replug"]


@dataclass(frozen=True)
class Replug(Peer):
    """REPLUG's mixture with fixed weights (arXiv 2301.12652, section 3.2).

    p(y) = sum_k lambda_k p_k(y), lambda = softmax_k(s_k / tau), the same at every step. Without scores
    the weights are equal.

    Args:
        tau: temperature of the retrieval scores, at least 0.0001; the paper has 1.
    """

    tau: float = number(1.0, Range(1e-4))

    name = "replug"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        scores = torch.zeros_like(rows[..., 0]) if state.scores is None else state.scores / self.tau
        log_weights = scores.to(rows.dtype).log_softmax(-1)
        return Fused((rows + log_weights[..., None]).logsumexp(1), log_weights.exp())


RULE = Replug
