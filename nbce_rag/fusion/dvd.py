"""DvD: the surest passage against the least sure one, besides all passages against none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .base import NEG_INF, Fused, FusionRule, FusionState, one_hot
from .numbers import NUCLEUS, number
from .truncation import contrast, nucleus, truncate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Dvd"]

_TOP = 10  # tokens of which a row's entropy is taken


@dataclass(frozen=True)
class Dvd(FusionRule):
    """Dynamic contrastive decoding over single documents (EMNLP 2024, github.com/JulieJin-km).

    All rows are cut to their nucleus. H of a row is -sum p log p over its ten likeliest tokens, its sureness
    the lead of the likeliest one over the second, renormalised. + is the passage of least H, - that of most
    (ties to the lower index), F the prompt of all passages:

        fused = (1 + b) L_F - b L_0 + g (L_+ - L_-), or, where 10 H_0 < H_F, L_0 + g (L_+ - L_-)
        b = max(sureness_F - sureness_0, 0), g = max(sureness_+ - sureness_-, 0)

    A token that - excludes, or in the first form row 0, has L_F; one that + excludes, and that not, is
    excluded; L_F where no token is left. F is the row that reads all passages (`joint_row`), which is none of
    those that + and - are chosen from. Without such a row + stands for it, the NBCE form: the surest row
    pools. The authors' static b and g, and their choice of + and - by the ranks of the search, are left out.

    Args:
        top_p: nucleus that every row is cut to first, (0, 1].
    """

    top_p: float = number(0.95, NUCLEUS)

    name = "dvd"

    def untruncated(self) -> Dvd:
        return replace(self, top_p=1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        threshold, _ = nucleus(log_probs, self.top_p)
        rows = truncate(log_probs, threshold)
        entropy = _entropy(rows)
        joint = torch.zeros_like(entropy[:, 1:], dtype=torch.bool)
        if state.joint is not None:
            joint = state.joint > 0
        best = entropy[:, 1:].masked_fill(joint, torch.inf).argmin(-1)
        worst = entropy[:, 1:].masked_fill(joint, NEG_INF).argmax(-1)
        whole = torch.where(joint.any(-1), joint.byte().argmax(-1), best)
        g = torch.arange(len(best), device=best.device)
        sureness = _sureness(rows)
        gain = (sureness[g, best + 1] - sureness[g, worst + 1]).clamp(min=0.0)[:, None]
        trust = (sureness[g, whole + 1] - sureness[:, 0]).clamp(min=0.0)[:, None]
        baseline, pooled = rows[:, 0], rows[g, whole + 1]
        plus, minus = rows[g, best + 1], rows[g, worst + 1]
        remembers = (10 * entropy[:, 0] < entropy[g, whole + 1])[:, None]
        without_lift = torch.where(remembers, baseline, contrast(pooled, baseline, trust))
        lift = torch.where((plus == NEG_INF) | (minus == NEG_INF), 0.0, gain * (plus - minus))
        fused = (without_lift + lift).masked_fill(plus == NEG_INF, NEG_INF)
        alone = (minus == NEG_INF) | ((baseline == NEG_INF) & ~remembers)
        fused = torch.where(alone, pooled, fused)
        fused = torch.where((fused == NEG_INF).all(-1, keepdim=True), pooled, fused)
        return Fused(fused, one_hot(best, log_probs.shape[1] - 1, log_probs))


def _entropy(rows: Tensor) -> Tensor:
    """Of the likeliest tokens of each row [..., V], not renormalised; nats."""
    top = rows.topk(min(_TOP, rows.shape[-1]), dim=-1).values
    return -(top.exp() * top.clamp(min=-100.0)).sum(-1)


def _sureness(rows: Tensor) -> Tensor:
    """Probability of the likeliest token of each row [..., V] less that of the second."""
    top = rows.topk(2, dim=-1).values
    first, second = (top - rows.logsumexp(-1, keepdim=True)).exp().unbind(-1)
    return first - second
