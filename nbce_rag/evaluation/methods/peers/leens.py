"""LeEns: rows weighted by how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....checks import Range
from ....fusion import Fused, FusionState, nucleus
from ....fusion.numbers import number
from ..peer import Peer

__all__ = ["RULE", "LeEns"]


@dataclass(frozen=True)
class LeEns(Peer):
    """LeEns: the surer a row, the more it counts, in log space (arXiv 2406.17519).

    log p(y) = sum_k w_k L_k(y) + const, w = softmax_k(-H_k / tau), H_k the entropy of the whole row in
    nats. The second half of that paper, the contrast with an inner layer (CLeHe), needs the model's hidden
    states and is left out.

    Args:
        tau: temperature in nats, at least 0.0001; the authors' code has 0.1.
    """

    tau: float = number(0.1, Range(1e-4))

    name = "leens"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        _, entropy = nucleus(rows, 1.0)
        weights = (-entropy / self.tau).softmax(-1)
        # A weight that underflows to 0 must not meet a log-prob of -inf.
        shares = torch.where(weights[..., None] > 0, weights[..., None] * rows, 0.0)
        return Fused(shares.sum(1), weights)


RULE = LeEns
