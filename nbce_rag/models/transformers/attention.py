"""Attention of a few new tokens over many cached ones, without a copy of the cached heads.

In grouped-query attention several query heads share one head of keys and values. Where queries carry a
mask, torch's kernels want one head of keys a query head, so that transformers repeats the cache in every
layer of every step. Here the queries of a group are laid side by side instead, as columns of one matrix
product with the head that they share.

The product is keys times queries, not queries times keys: in bfloat16 torch copies a right-hand factor that
is transposed, which for the keys took six times as long as the product itself. Nor do rows of equal length,
which need no mask, go to torch's own kernel: for eleven rows of one query it takes twenty times as long.

On a GPU torch's own kernel gets the queries laid side by side; and a mask is always made where rows are of
unequal length, since to see whether it could be left out the GPU would have to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .bands import BandedColumns
from .memory import Run
from .sources import chooses_by_attention

__all__ = ["NAME", "attends_grouped", "grouped_attention", "packed_attention", "use_grouped_attention"]

NAME = "nbce_grouped"
_MOST_QUERIES = 64  # more of them are a prompt, for which the blockwise kernels of torch are better
_MOST_ON_GPU = 16  # tokens of a step there


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """softmax(query key^T scaling + mask) value, heads grouped.

    Args:
        query: [R, heads, T, head_dim].
        key: [R, kv_heads, L, head_dim]; heads is a multiple of kv_heads.
        value: [R, kv_heads, L, value_dim].
        mask: [R or 1, 1 or heads, T, L], True (or 0) where a query may look, False (or -inf) elsewhere; None
            lets every query look everywhere.
        scaling: factor of the products.

    Returns:
        [R, heads, T, value_dim].
    """
    rows, heads, tokens, width = query.shape
    kv_heads, length = key.shape[1], key.shape[2]
    group = heads // kv_heads
    queries = (query * scaling).reshape(rows, kv_heads, group * tokens, width)
    scores = torch.matmul(key, queries.transpose(-1, -2)).transpose(-1, -2).contiguous()
    scores = scores.view(rows, kv_heads, group, tokens, length)
    if mask is not None:
        scores = _masked(scores, mask)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    mixed = torch.matmul(weights.view(rows, kv_heads, group * tokens, length), value)
    return mixed.view(rows, heads, tokens, value.shape[-1])


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """The same by `torch.nn.functional.scaled_dot_product_attention`; a mask is that of all heads."""
    rows, heads, tokens, width = query.shape
    kv_heads, length = key.shape[1], key.shape[2]
    group = heads // kv_heads
    if mask is not None and tokens > 1:
        mask = mask[:, :, None].expand(-1, -1, group, -1, -1).reshape(len(mask), 1, group * tokens, length)
    queries = query.reshape(rows, kv_heads, group * tokens, width)
    mixed = nn.functional.scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return mixed.view(rows, heads, tokens, value.shape[-1])


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores [R, kv_heads, group, T, L] under a mask as above, in place."""
    shared = mask.shape[1] == 1
    mask = mask[:, :, None] if shared else mask.reshape(len(mask), *scores.shape[1:])
    if mask.dtype == torch.bool:
        # Not -inf: a padded query may look nowhere, and NaN would spread from it.
        return scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores.add_(mask)


def use_grouped_attention(model: Any) -> bool:
    """Let a transformers model attend this way where it helps; elsewhere it attends as before.

    Args:
        model: a model whose attention is the one by `torch.nn.functional.scaled_dot_product_attention`;
            others are left alone, and so are those that do more than that by its name.

    Returns:
        Whether the model was changed.
    """
    if getattr(model.config, "_attn_implementation", None) != "sdpa" or chooses_by_attention(model):
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    try:
        model.set_attn_implementation(NAME)
    except ValueError:  # models whose layers do not ask the interface
        return False
    return True


def attends_grouped(model: Any) -> bool:
    """Whether a model's attention is this one."""
    return getattr(model.config, "_attn_implementation", None) == NAME


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """`sdpa_mask`, without a look at numbers on a GPU.

    There, rows may be read whole from a common column on, and what stands before a row with them: each of
    these tokens sees itself, since attention to nothing is not a number.
    """
    padding = kwargs.get("attention_mask")
    is_on_gpu = padding is not None and padding.device.type != "cpu"
    if is_on_gpu:
        kwargs["allow_is_causal_skip"] = False
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    if mask is None or not is_on_gpu or mask.shape[-2] == 1:
        return mask
    tokens, length = mask.shape[-2:]
    columns = torch.arange(length, device=mask.device)
    return mask | (columns == columns[length - tokens :, None])


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor | BandedColumns,
    value: Tensor | BandedColumns,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if isinstance(key, BandedColumns):
        assert isinstance(value, BandedColumns)
        alone = partial(_attention, module, dropout=dropout, scaling=scaling, **kwargs)
        return _by_bands(alone, query, key, value, attention_mask), None
    assert isinstance(value, Tensor)
    usual = all(kwargs.get(name) is None for name in ("softcap", "position_bias", "cache", "s_aux"))
    on_cpu = query.device.type == "cpu"
    few = query.shape[2] <= (_MOST_QUERIES if on_cpu else _MOST_ON_GPU)
    # Without a mask one query sees all that is there; several see what stands before them.
    plain = attention_mask is not None or query.shape[2] == 1
    shared = on_cpu or attention_mask is None or attention_mask.shape[1] == 1
    if not (few and usual and plain and shared):
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = None if attention_mask is None else attention_mask[..., : key.shape[2]]
    mixed = (grouped_attention if on_cpu else packed_attention)(query, key, value, mask, scale)
    return mixed.transpose(1, 2).contiguous(), None


def _by_bands(
    attention: Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, None]],
    query: Tensor,
    key: BandedColumns,
    value: BandedColumns,
    attention_mask: Tensor | None,
) -> Tensor:
    """What an attention of query, key, value and mask comes to, band by band."""
    parts = []
    for (places, first, keys), (_, _, values) in zip(key.parts, value.parts, strict=True):
        mask = None if attention_mask is None else _of_band(attention_mask, places, first, keys.shape[2])
        parts.append((places, attention(query[places], keys, values, mask)[0]))
    if len(parts) == 1 and isinstance(parts[0][0], slice):
        return parts[0][1]
    whole = parts[0][1].new_empty(len(query), *parts[0][1].shape[1:])
    for places, mixed in parts:
        whole[places] = mixed
    return whole


def _of_band(mask: Tensor, places: Run, first: int, length: int) -> Tensor:
    """What a mask [R or 1, ..., L] says of some rows and of so many columns from one on."""
    return (mask if len(mask) == 1 else mask[places])[..., first : first + length]
