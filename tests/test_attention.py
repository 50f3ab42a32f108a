"""Grouped attention against attention with every head of keys repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES, build_model

from nbce_rag.models.transformers import attention
from nbce_rag.models.transformers.attention import NAME, grouped_attention, use_grouped_attention


def repeated_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Head by head, row by row, in float64."""
    rows, heads, tokens, _ = query.shape
    group = heads // key.shape[1]
    output = torch.zeros(rows, heads, tokens, value.shape[-1], dtype=torch.float64)
    for row in range(rows):
        for head in range(heads):
            allowed = mask[row % len(mask), head % mask.shape[1]]
            scores = scaling * query[row, head].double() @ key[row, head // group].double().T
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            output[row, head] = weights @ value[row, head // group].double()
    return output


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    tokens=st.integers(1, 6),
    length=st.integers(1, 20),
    per_head=st.booleans(),
    shared=st.booleans(),
    additive=st.booleans(),
    seed=st.integers(0, 999),
)
def test_grouped_is_repeated(
    rows: int,
    kv_heads: int,
    group: int,
    tokens: int,
    length: int,
    per_head: bool,
    shared: bool,
    additive: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads = kv_heads * group
    # A window of a larger cache, as decoding passes it.
    cache = torch.randn(2, rows + 1, kv_heads, length + 3, 8, generator=generator)
    key, value = cache[0, 1:, :, :length], cache[1, 1:, :, :length, :6]
    query = torch.randn(rows, tokens, heads, 8, generator=generator).transpose(1, 2)
    shape = (1 if shared else rows, heads if per_head else 1, tokens, length)
    mask = torch.rand(shape, generator=generator) < 0.6
    mask[..., -1] = True
    exact = repeated_attention(query, key, value, mask, 0.3)
    given_mask = torch.zeros(shape).masked_fill(~mask, -torch.inf) if additive else mask
    mixed = grouped_attention(query, key, value, given_mask, 0.3)
    torch.testing.assert_close(mixed.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_a_mask_every_query_looks_everywhere(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(3, 4, 2, 8, generator=generator).to(dtype)
    key, value = torch.randn(2, 3, 2, 7, 8, generator=generator).to(dtype)
    everywhere = torch.ones(1, 1, 2, 7, dtype=torch.bool)
    exact = repeated_attention(query, key, value, everywhere, 0.3)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    mixed = grouped_attention(query, key, value, None, 0.3)
    torch.testing.assert_close(mixed.double(), exact, atol=tolerance, rtol=tolerance)


def test_a_step_of_rows_of_equal_length_is_grouped_too() -> None:
    model: Any = build_model("llama", 60).eval()
    plain: Any = build_model("llama", 60).eval()
    plain.load_state_dict(model.state_dict())
    assert use_grouped_attention(model)
    ids = torch.arange(24).view(2, 12) + 2
    with (
        torch.no_grad(),
        mock.patch.object(attention, "grouped_attention", wraps=attention.grouped_attention) as used,
    ):
        cache = model(ids, use_cache=True).past_key_values
        ours = model(ids[:, :1], past_key_values=cache).logits
        assert used.call_count == model.config.num_hidden_layers  # the step's alone
        theirs = plain(torch.cat([ids, ids[:, :1]], 1)).logits[:, -1:]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_gives_the_same_logits(family: str) -> None:
    plain: Any = build_model(family, 60).eval()
    grouped: Any = build_model(family, 60).eval()
    grouped.load_state_dict(plain.state_dict())
    assert use_grouped_attention(grouped)
    assert not use_grouped_attention(grouped)  # once is enough
    ids = torch.arange(24).view(2, 12) + 2
    padded = torch.ones_like(ids)
    padded[0, :5] = 0  # rows that begin at different columns
    with (
        torch.no_grad(),
        mock.patch.object(attention, "grouped_attention", wraps=attention.grouped_attention) as used,
    ):
        ours = grouped(ids, attention_mask=padded).logits
        theirs = plain(ids, attention_mask=padded).logits
    assert used.called
    torch.testing.assert_close(ours[padded.bool()], theirs[padded.bool()], atol=1e-4, rtol=1e-4)


def test_other_attention_stays(tiny_folder: Callable[..., Path]) -> None:
    model: Any = build_model("llama", 60)
    model.set_attn_implementation("eager")
    assert not use_grouped_attention(model)
    assert model.config._attn_implementation == "eager"


def test_sparse_attention_stays() -> None:
    """DeepSeek V3.2 hides what its index does not choose only where the attention is called sdpa or eager."""
    from transformers import AutoModelForCausalLM, DeepseekV32Config

    config = DeepseekV32Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=2,
        num_experts_per_tok=1,
        n_group=1,
        topk_group=1,
        index_topk=4,
        index_head_dim=8,
        index_n_heads=4,
    )
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    assert not use_grouped_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_prompts_and_unusual_arguments_go_the_usual_way() -> None:
    model: Any = build_model("llama", 60).eval()
    assert use_grouped_attention(model)
    assert model.config._attn_implementation == NAME
    with torch.no_grad(), mock.patch.object(attention, "grouped_attention") as used:
        model(torch.arange(20)[None])  # no mask
        long = torch.zeros(2, attention._MOST_QUERIES + 1, dtype=torch.long)
        mask = torch.ones_like(long)
        mask[0, 0] = 0
        model(long, attention_mask=mask)
    used.assert_not_called()
