"""AdaCAD: the contrast is as strong as passages and memory differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Fused, FusionRule, FusionState, one_hot
from .numbers import WEIGHT, number
from .surest import jensen_shannon, surest_row
from .truncation import contrast

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaCad"]


@dataclass(frozen=True)
class AdaCad(FusionRule):
    """Context-aware decoding whose strength follows the step (arXiv 2409.07394).

    fused = (1 + a) L_F - a L_0, a = max(JSD(p_F, p_0), floor), the Jensen-Shannon divergence in nats anew at
    each step. In the paper F is one prompt of all passages; here it is the surest row
    (`nbce_rag.fusion.surest`), which with all passages in one row is that prompt.

    Args:
        floor: least strength, >= 0; the authors have 0 for short answers and one above it for long texts.
    """

    floor: float = number(0.0, WEIGHT, grid=(0.0, 0.1, 0.3))

    name = "adacad"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        k, row = surest_row(log_probs)
        baseline = log_probs[:, 0]
        strength = jensen_shannon(row, baseline).clamp(min=self.floor)
        fused = contrast(row, baseline, strength[:, None])
        return Fused(fused, one_hot(k, log_probs.shape[1] - 1, log_probs))
