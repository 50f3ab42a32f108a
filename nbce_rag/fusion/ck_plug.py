"""CK-PLUG: a dial between memory and passages where these make the model less sure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .base import NEG_INF, Fused, FusionRule, FusionState, one_hot
from .numbers import SHARE, number
from .surest import surest_row
from .truncation import nucleus

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CkPlug"]

_TOP = 10  # tokens of each row that are looked at, whatever their probability


@dataclass(frozen=True)
class CkPlug(FusionRule):
    """CK-PLUG's dial (arXiv 2503.15888).

    Looked at are the tokens that are among the ten likeliest of row 0 or F, or have `cutoff` of the likeliest
    one's probability there; others are excluded. H_0 and H_F are the entropies over them, renormalised. Where
    H_0 >= 2 H_F the passages have made the model sure, and fused = L_F. Elsewhere

        fused = alpha L_0 + (1 - alpha) (L_F - L_0),

    or with alpha=None, the adaptive form, with m = 1 + |H_F - H_0| / (H_F + H_0),

        fused = 2 L_0 H_F / (H_F + m H_0) + 2 (L_F - L_0) H_0 / (H_F + m H_0).

    In the paper F is one prompt of all passages; here it is the surest row (`nbce_rag.fusion.surest`), which
    with all passages in one row is that prompt. A token that F or row 0 excludes has F's log-prob.

    Args:
        alpha: share of the memory, in [0, 1]: 0 is a contrast with row 0 alone, 1 row 0 itself; None adapts.
        cutoff: share of the likeliest token's probability at which a token is looked at, in [0, 1].
    """

    alpha: float | None = number(None, SHARE, grid=(0.0, 0.3, 0.5, 0.7, 1.0))
    cutoff: float = number(0.01, SHARE)

    name = "ck-plug"

    def untruncated(self) -> CkPlug:
        return replace(self, cutoff=0.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        k, row = surest_row(log_probs)
        baseline = log_probs[:, 0]
        both = torch.stack([baseline, row])
        likely = both >= self._threshold(both)[..., None]
        left = likely.any(0)
        _, (without, by_row) = nucleus(both.masked_fill(~left, NEG_INF).log_softmax(-1), 1.0)
        memory, passages = self._shares(without, by_row)
        mixed = memory[:, None] * baseline + passages[:, None] * (row - baseline)
        alone = (row == NEG_INF) | (baseline == NEG_INF) | (without >= 2 * by_row)[:, None]
        fused = torch.where(alone, row, mixed).masked_fill(~left, NEG_INF)
        return Fused(fused, one_hot(k, log_probs.shape[1] - 1, log_probs))

    def _threshold(self, rows: Tensor) -> Tensor:
        import torch

        top = rows.topk(min(_TOP, rows.shape[-1]), dim=-1).values
        share = math.log(self.cutoff) if self.cutoff else NEG_INF
        return torch.minimum(top[..., -1], top[..., 0] + share)

    def _shares(self, without: Tensor, by_row: Tensor) -> tuple[Tensor, Tensor]:
        """What L_0 and L_F - L_0 are multiplied by, from their entropies; [G] each."""
        import torch

        if self.alpha is not None:
            alpha = torch.full_like(without, self.alpha)
            return alpha, 1 - alpha
        # Where both are 0 the shares are not used.
        total = (without + by_row).clamp(min=torch.finfo(without.dtype).tiny)
        whole = by_row + (1 + (by_row - without).abs() / total) * without
        whole = whole.clamp(min=torch.finfo(without.dtype).tiny)
        return 2 * by_row / whole, 2 * without / whole
