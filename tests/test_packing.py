"""Packed linear layers multiply like plain ones, and only layers that may be replaced are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES
from torch import nn
from transformers.pytorch_utils import Conv1D

from nbce_rag.models.transformers import packing
from nbce_rag.models.transformers.loading import load_model
from nbce_rag.models.transformers.packing import PackedLinear, pack_linear_layers

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")  # type: ignore[no-untyped-call]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    inner=st.integers(1, 70),
    outer=st.integers(1, 90),
    lead=st.sampled_from([(), (1,), (3,)]),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_packed_layer_is_the_linear_map(
    rows: int, inner: int, outer: int, lead: tuple[int, ...], bias: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inner, outer, bias=bias)
    x = torch.randn(*lead, rows, inner, generator=generator)
    packed = PackedLinear(layer.weight, layer.bias)
    exact = x.double() @ layer.weight.double().T
    exact = exact + layer.bias.double() if bias else exact
    with torch.no_grad():
        torch.testing.assert_close(packed(x), exact.float(), atol=1e-5, rtol=1e-5)
        # Rows of a larger tensor, as slices of hidden states are.
        torch.testing.assert_close(packed(x[..., ::2, :]), exact[..., ::2, :].float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_model_gives_the_same_logits(family: str, tiny_folder: Callable[..., Path]) -> None:
    plain = load_model(tiny_folder(family), device="cpu", dtype="float32", optimize=False)
    packed = load_model(tiny_folder(family), device="cpu", dtype="float32")
    kinds = [type(module) for module in packed.model.modules()]
    assert PackedLinear in kinds
    assert nn.Linear not in kinds
    assert Conv1D not in kinds
    assert not any(isinstance(module, PackedLinear) for module in plain.model.modules())
    assert (plain.fingerprint, plain.dtype) == (packed.fingerprint, packed.dtype)
    ids = torch.arange(2, 40).view(2, 19)
    with torch.no_grad():
        torch.testing.assert_close(packed.model(ids).logits, plain.model(ids).logits, atol=1e-4, rtol=1e-4)
    # Both know the output layer's weight; scores over part of a vocabulary need it.
    if family == "phi":  # its output layer adds a bias
        assert plain.output_weight is packed.output_weight is None
    else:
        assert plain.output_weight is not None
        assert packed.output_weight is not None
        assert torch.equal(plain.output_weight, packed.output_weight)


def test_a_copy_shares_what_cannot_change() -> None:
    model = nn.Sequential(nn.Linear(5, 4))
    assert pack_linear_layers(model) == 1
    x = torch.randn(3, 5)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_what_may_do_more_than_multiply_stays() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, arguments, output: output + 1)
    model.append(hooked)
    x = torch.randn(2, 4)
    with torch.no_grad():
        before = model(x)
        assert pack_linear_layers(model) == 1
        assert isinstance(model[1], PackedLinear)
        torch.testing.assert_close(model(x), before)


def test_a_layer_whose_weight_is_read_stays() -> None:
    """Mamba multiplies by the weight of `dt_proj` itself."""
    from transformers import AutoModelForCausalLM, MambaConfig

    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4, time_step_rank=4)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        plain = model(ids).logits
        assert pack_linear_layers(model) > 0
        torch.testing.assert_close(model(ids).logits, plain)
    mixer = model.backbone.layers[0].mixer
    assert isinstance(mixer.dt_proj, nn.Linear)
    assert isinstance(mixer.in_proj, PackedLinear)


def test_without_onednn_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert pack_linear_layers(model) == 0
    assert pack_linear_layers(nn.Sequential(nn.Linear(4, 4).double())) == 0

    def changed(*_: object) -> None:
        raise RuntimeError("another interface")

    monkeypatch.setattr(packing, "PackedLinear", changed)  # as if a later torch had renamed its operators
    assert pack_linear_layers(model) == 0
    assert type(model[0]) is nn.Linear
