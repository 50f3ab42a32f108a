"""BERAG: passages weighted by their posterior, and pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..checks import Range
from .base import Fused, FusionRule, FusionState
from .numbers import NUCLEUS, number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Berag"]


@dataclass(frozen=True)
class Berag(FusionRule):
    """Bayesian ensemble over passages (BERAG, arXiv 2604.22678): p = sum_k q_k p_k.

    q_k is proportional to q_k p_k(y) after each token y. At each step the fewest passages with sum q >= mass
    stay, at least one (ties to the lower index), q is renormalised over them, and the others never count
    again. The first q is their trained prior; without one softmax_k(s_k / tau), and uniform without scores.

    It is `Posterior(beta=0, gamma=0, alpha=0, epsilon=0, cutoff=0, focus=0, least=0)` with pruning, except
    that `posterior` also weighs rows by their refusals.

    Args:
        tau: temperature of the retrieval scores, at least 0.0001; ours.
        mass: share of q that stays, in (0, 1]; None is theirs, 1 - 1 / (2 n), and 1 prunes nothing.
    """

    tau: float = number(0.1, Range(1e-4), grid=(0.03, 0.05, 0.1, 0.2, 0.5))
    mass: float | None = number(None, NUCLEUS, grid=(0.8, 0.95, 1.0))

    name = "berag"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        weights = self._pruned(self._prior(rows, state) if state.evidence is None else state.evidence)
        return Fused((rows + weights.log()[..., None]).logsumexp(1), weights)

    def _prior(self, rows: Tensor, state: FusionState) -> Tensor:
        import torch

        scores = torch.zeros_like(rows[..., 0]) if state.scores is None else state.scores / self.tau
        return scores.softmax(-1).to(rows.dtype)

    def _pruned(self, weights: Tensor) -> Tensor:
        """Weights [G, n] of the passages that stay, which sum to 1; the others' are 0."""
        import torch

        mass = 1 - 0.5 / weights.shape[-1] if self.mass is None else self.mass
        order = weights.sort(dim=-1, descending=True, stable=True)
        before = order.values.cumsum(-1) - order.values
        stay = (before < mass) | (mass == 1)
        stay[..., 0] = True
        some = torch.zeros_like(weights).scatter(-1, order.indices, order.values * stay)
        return some / some.sum(-1, keepdim=True)
