"""Models of transformers keep the contract of backends: every family, in float32, and some in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract import ModelContract
from engine_reference import full_log_probs
from tiny_models import FAMILIES, build_model, build_tokenizer
from torch import Tensor
from unusual_models import ATTENDING, BY_COLUMNS, RECURRENT, build_unusual

from nbce_rag.models.model import Model, TokenIds
from nbce_rag.models.transformers import suffix
from nbce_rag.models.transformers.bands import BAND_COST
from nbce_rag.models.transformers.base import LoadedModel
from nbce_rag.models.transformers.loading import load_model, wrap_model


@pytest.fixture(scope="module")
def unusual() -> Callable[..., Any]:
    """`unusual("lfm2", torch.bfloat16)`: a model made once."""
    made: dict[tuple[str, torch.dtype], Any] = {}

    def make(kind: str, dtype: torch.dtype = torch.float32) -> Any:
        if (kind, dtype) not in made:
            made[kind, dtype] = wrap_model(build_unusual(kind).to(dtype), build_tokenizer(), name=kind)
        return made[kind, dtype]

    return make


class OfTransformers(ModelContract):
    most = 480

    def whole(self, model: Model, ids: TokenIds) -> Tensor:
        return full_log_probs(self.plain(model), ids)

    def plain(self, model: Any) -> Any:
        """The transformers model that whole passes are made with."""
        return model.model


class TestFamilies(OfTransformers):
    @pytest.fixture(params=FAMILIES)
    def model(self, request: pytest.FixtureRequest, tiny_loaded: Callable[..., Any]) -> Model:
        model: Model = tiny_loaded(request.param)
        return model


class TestUnusual(OfTransformers):
    """States beside columns or alone, heads of several sizes, shared keys, latent keys, an indexer."""

    @pytest.fixture(params=(*RECURRENT, *ATTENDING, *BY_COLUMNS))
    def model(self, request: pytest.FixtureRequest, unusual: Callable[..., Any]) -> Model:
        model: Model = unusual(request.param)
        return model


class TestShortlist(OfTransformers):
    """Likelihoods over a shortlist, as large vocabularies have them; here it covers all of the vocabulary."""

    @pytest.fixture
    def model(self, tiny_loaded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Model:
        monkeypatch.setattr(suffix, "worth_estimating", lambda vocab_size, positions: True)
        model: Model = tiny_loaded("gemma3")
        return model


class TestBanded(OfTransformers):
    """Rows of unequal length kept apart, however little that spares."""

    @pytest.fixture(params=FAMILIES)
    def model(self, request: pytest.FixtureRequest, tiny_loaded: Callable[..., Any]) -> Model:
        loaded: LoadedModel = tiny_loaded(request.param)
        assert loaded.layout.band_cost == BAND_COST
        assert loaded.is_banded
        return replace(loaded, layout=replace(loaded.layout, band_cost=0))  # type: ignore[return-value]


class TestUnpacked(OfTransformers):
    """As transformers made it: no packed weights, no attention of our own."""

    @pytest.fixture
    def model(self, tiny_folder: Callable[..., Any]) -> Model:
        return load_model(tiny_folder("gemma3"), device="cpu", dtype="float32", optimize=False)


class TestBfloat16(OfTransformers):
    """Rounded; the bound is what rounding makes of it, far below what a wrong row would be off by."""

    tolerance = 0.25
    sums_tolerance = 0.6

    @pytest.fixture
    def model(self) -> Model:
        tokenizer = build_tokenizer()
        return wrap_model(build_model("llama", len(tokenizer)).to(torch.bfloat16), tokenizer)

    def close(self, ours: Tensor, plain: Tensor) -> None:
        super().close(ours.clamp(min=-12), plain.clamp(min=-12))


class TestUnusualBfloat16(TestBfloat16):
    """Whole passes in float32 and bfloat16 are up to 0.45 apart here, and a context changes 2 to 6."""

    tolerance = 0.5
    sums_tolerance = 1.2

    @pytest.fixture(
        params=("qwen3_5", "granitemoehybrid", "lfm2", "falcon_h1", "mamba", "gemma4", "deepseek_v3")
    )
    def model(self, request: pytest.FixtureRequest, unusual: Callable[..., Any]) -> Model:
        model: Model = unusual(request.param, torch.bfloat16)
        return model
