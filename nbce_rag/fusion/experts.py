"""PCED: parallel context-of-experts decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Fused, FusionRule, FusionState, one_hot
from .numbers import FOCUS, WEIGHT, number
from .surest import jensen_shannon
from .truncation import contrast

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Experts"]


@dataclass(frozen=True)
class Experts(FusionRule):
    """PCED: every passage row is an expert, the best one speaks (arXiv 2601.08670).

    e_k = (1 + b_k) L_k - b_k L_0, with b_k the Jensen-Shannon divergence (nats) of row k and row 0 at
    the first step, clamped to [0, 1] and then kept; winner = argmax_k (max_v e_k(v) + gamma log r_k);
    fused = e_winner. r_k in (0, 1) is the retrieval score, clamped to [0.001, 1]; without scores the
    term drops out. Log-probs are used where the paper has logits, so that a row's constant offset
    changes nothing.

    Args:
        gamma: nats per nat of log relevance, >= 0.
        focus: share of the weights whose passages are read by sentences too, in [0, 1]; ours, and 0 is the
            published rule.
    """

    gamma: float = number(2.5, WEIGHT, grid=(0.0, 1.0, 2.5, 5.0, 10.0))
    focus: float = number(0.0, FOCUS)

    name = "experts"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        rows, baseline = log_probs[:, 1:], log_probs[:, :1]
        if "divergence" not in state.memory:
            state.memory["divergence"] = jensen_shannon(rows, baseline).clamp(0.0, 1.0)
        experts = contrast(rows, baseline, state.memory["divergence"][..., None])
        best = experts.amax(-1)
        if state.scores is not None:
            best = best + self.gamma * state.scores.clamp(0.001, 1.0).log()
        k = best.argmax(-1)
        return Fused(experts[torch.arange(len(k), device=k.device), k], one_hot(k, rows.shape[1], log_probs))
