"""ACD: memory and passages share the say by their entropies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Fused, FusionRule, FusionState, one_hot
from .surest import surest_row
from .truncation import contrast, nucleus

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Acd"]


@dataclass(frozen=True)
class Acd(FusionRule):
    """Adaptive contrastive decoding (arXiv 2408.01084).

    fused = L_0 + a (L_F - L_0), a = H_0 / (H_0 + H_F), 0.5 where both are 0: the surer the model is without
    passages, the less they change. In the paper F is one prompt of all passages; here it is the surest row
    (`nbce_rag.fusion.surest`), which with all passages in one row is that prompt. A token that F or row 0
    excludes has F's log-prob. It has no numbers.
    """

    name = "acd"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        k, row = surest_row(log_probs)
        baseline = log_probs[:, 0]
        _, (without, by_row) = nucleus(torch.stack([baseline, row]), 1.0)
        both = without + by_row
        share = torch.where(both > 0, without / both, 0.5)
        fused = contrast(row, baseline, share[:, None] - 1)
        return Fused(fused, one_hot(k, log_probs.shape[1] - 1, log_probs))
