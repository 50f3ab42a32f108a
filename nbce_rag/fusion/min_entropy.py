"""NBCE's own rule: the surest row speaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .base import Fused, FusionRule, FusionState, one_hot
from .numbers import CONTRAST, FOCUS, NUCLEUS, WEIGHT, number
from .truncation import contrast, nucleus, truncate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MinEntropy"]


@dataclass(frozen=True)
class MinEntropy(FusionRule):
    """Take the passage row that is surest, contrasted with row 0: the final rule of NBCE.

    k = argmin(H_k - eta [k was chosen before] - alpha * relevance_k), ties to the lower index;
    fused = contrast(L_k, L_0, beta). Sources: 9617 (the rule), 9632 (top-p, eta), NAACL; alpha is ours
    (0 is the published rule).

    Args:
        beta: contrast with the row without a passage, > -1.
        eta: nats taken off the entropy of the row chosen at the previous step.
        top_p: nucleus that every row is cut to first, (0, 1].
        alpha: entropy nats per nat of relevance.
        focus: share of the weights whose passages are read by sentences too, in [0, 1]; ours, and 0 is the
            published rule.
    """

    beta: float = number(0.25, CONTRAST, grid=(0.0, 0.1, 0.25, 0.5, 1.0))
    eta: float = number(0.1, WEIGHT, grid=(0.0, 0.05, 0.1, 0.3, 1.0))
    top_p: float = number(0.95, NUCLEUS)
    alpha: float = number(0.0, WEIGHT, grid=(0.0, 0.03, 0.1, 0.3))
    focus: float = number(0.0, FOCUS)

    name = "min-entropy"

    @property
    def uses_relevance(self) -> bool:  # type: ignore[override]
        return self.alpha > 0

    def untruncated(self) -> MinEntropy:
        return replace(self, top_p=1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        threshold, entropy = nucleus(log_probs, self.top_p)
        entropy = entropy[:, 1:]
        n = entropy.shape[-1]
        if state.evidence is not None:
            entropy = entropy - self.eta * one_hot(state.evidence.argmax(-1), n, entropy)
        if self.alpha and state.relevance is not None:
            entropy = entropy - self.alpha * state.relevance
        k = entropy.argmin(-1)
        g = torch.arange(len(k), device=k.device)
        pooled = truncate(log_probs[g, k + 1], threshold[g, k + 1])
        baseline = truncate(log_probs[:, 0], threshold[:, 0])
        return Fused(contrast(pooled, baseline, self.beta), one_hot(k, n, log_probs))
