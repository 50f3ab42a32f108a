"""Cutting the tails of distributions, and the contrast that would amplify them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import NEG_INF

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["contrast", "nucleus", "truncate"]

_FEW, _MANY = 256, 4096  # largest log-probs looked at
_BINS, _DEPTH = 4096, 20.0  # of the histogram over log-probs, nats below the row's best


def contrast(pooled: Tensor, baseline: Tensor, beta: float | Tensor) -> Tensor:
    """(1 + beta) * pooled - beta * baseline; pooled alone where the baseline is -inf (9632).

    Args:
        pooled: [..., V] pooled log-probs, -inf allowed (and kept).
        baseline: [..., V] log-probs of the row without a passage, -inf where truncated.
        beta: strength, > -1; a tensor must broadcast.
    """
    import torch

    alone = (pooled == NEG_INF) | (baseline == NEG_INF)
    return torch.where(alone, pooled, pooled + beta * (pooled - baseline))


def nucleus(log_probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Where top-p truncation cuts each row, and the entropy of what it keeps.

    Kept are the most probable tokens up to the one at which the mass before it has reached `top_p`;
    tokens that tie with the last one kept are kept too. The entropy is that of 9632 and `bojone/NBCE`:
    -sum p log p over the kept tokens, not renormalised.

    No full sort over the vocabulary: the largest 256 log-probs of a row mostly hold 95% of its mass, the
    largest 4,096 nearly always; rows that are flatter than that are cut by a histogram.

    Args:
        log_probs: [..., V] normalised log-probs; -inf allowed.
        top_p: in (0, 1]; 1 keeps everything.

    Returns:
        (threshold, entropy), both [...]: keep log-probs >= threshold; entropy in nats.
    """
    import torch

    if top_p >= 1.0:
        threshold = torch.full_like(log_probs[..., 0], NEG_INF)
        return threshold, -(log_probs.exp() * log_probs.clamp(min=-100.0)).sum(-1)
    flat = log_probs.reshape(-1, log_probs.shape[-1])
    if flat.device.type != "cpu":  # a GPU sorts sooner than it says which rows are flat
        threshold, entropy, _ = _top_nucleus(flat, top_p, flat.shape[-1])
        return threshold.reshape(log_probs.shape[:-1]), entropy.reshape(log_probs.shape[:-1])
    threshold, entropy, open_rows = _top_nucleus(flat, top_p, _FEW)
    if len(open_rows):
        threshold[open_rows], entropy[open_rows], wide = _top_nucleus(flat[open_rows], top_p, _MANY)
        for row in open_rows[wide].tolist():
            threshold[row], entropy[row] = _wide_nucleus(flat[row], top_p)
    shape = log_probs.shape[:-1]
    return threshold.reshape(shape), entropy.reshape(shape)


def _top_nucleus(flat: Tensor, top_p: float, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`nucleus` of rows [R, V] from their k largest log-probs, and the indexes of rows that need more."""
    import torch

    k = min(k, flat.shape[-1])
    top = flat.topk(k, dim=-1).values if k < flat.shape[-1] else flat.sort(-1, descending=True).values
    p = top.exp()
    last = (p.cumsum(-1) - p < top_p).sum(-1, keepdim=True).clamp(min=1) - 1
    cut = top.gather(-1, last)
    entropy = -torch.where(top >= cut, p * top.clamp(min=-100.0), 0.0).sum(-1)
    threshold = cut.squeeze(-1)
    if k == flat.shape[-1]:
        return threshold, entropy, threshold.new_zeros(0, dtype=torch.long)
    # A cut at the smallest value seen may have further mass, or ties, below it.
    return threshold, entropy, (threshold <= top[:, -1]).nonzero()[:, 0]


def _wide_nucleus(row: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """`nucleus` of one flat row [V]: a histogram finds the bin of the cut, and only that bin is sorted."""
    import torch

    p = row.exp()
    bins = ((row.max() - row) * (_BINS / _DEPTH)).clamp(max=_BINS - 1).long()
    mass = torch.bincount(bins, weights=p.double(), minlength=_BINS)
    total = mass.cumsum(0)
    cut_bin = (total < top_p).sum().clamp(max=int(bins.max()))
    inside = row[bins == cut_bin].sort(descending=True).values
    q = inside.double().exp()
    before = total[cut_bin] - mass[cut_bin] + q.cumsum(0) - q
    threshold = inside[(before < top_p).sum().clamp(min=1) - 1]
    return threshold, -torch.where(row >= threshold, p * row.clamp(min=-100.0), 0.0).sum()


def truncate(log_probs: Tensor, threshold: Tensor) -> Tensor:
    """[..., V] log-probs with everything below threshold [...] set to -inf."""
    return log_probs.masked_fill(log_probs < threshold[..., None], NEG_INF)
