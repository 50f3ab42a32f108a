"""CAD: context-aware decoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import InputError
from ....fusion import Fused, FusionState, contrast
from ....fusion.numbers import WEIGHT, number
from ..peer import Peer

__all__ = ["RULE", "Cad"]


@dataclass(frozen=True)
class Cad(Peer):
    """Context-aware decoding on the concatenated prompt (arXiv 2305.14739, equation 4).

    log p(y) = (1 + alpha) L_concat(y) - alpha L_0(y) + const, over the whole vocabulary. It wants all
    passages in one row.

    Args:
        alpha: strength of the contrast, >= 0; the paper has 0.5 for summaries and 1 where the context
            contradicts the model's memory.
    """

    alpha: float = number(1.0, WEIGHT)

    name = "cad"
    layout = "together"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        if log_probs.shape[1] != 2:
            raise InputError(
                f"cad reads all passages in one row and there are {log_probs.shape[1] - 1}; set "
                "passages_per_row to their number."
            )
        fused = contrast(log_probs[:, 1], log_probs[:, 0], self.alpha)
        return Fused(fused, torch.ones_like(log_probs[:, 1:, 0]))


RULE = Cad
