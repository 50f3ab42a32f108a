"""A model is read in a way that is right, or refused: rows of unequal length against whole passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tiny_models import build_model, build_tokenizer
from unusual_models import build_unusual

from nbce_rag import NBCE
from nbce_rag.errors import ModelError
from nbce_rag.models.transformers import check
from nbce_rag.models.transformers.comparison import CONTEXTS, row_errors
from nbce_rag.models.transformers.loading import load_model, wrap_model
from nbce_rag.models.transformers.probe import probe
from nbce_rag.models.transformers.thresholds import most_tokens
from nbce_rag.models.transformers.twin import layer_kinds, twins

SMALL: dict[str, Any] = {"vocab_size": 480, "max_position_embeddings": 128, "pad_token_id": 2}
DECODER: dict[str, Any] = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "init_std": 0.3}
ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}

BY_LENGTH: dict[str, Callable[[], Any]] = {
    "bart": lambda: tf.BartForCausalLM(
        tf.BartConfig(**SMALL, **DECODER, encoder_layers=2, encoder_attention_heads=4, decoder_ffn_dim=48)
    ),
    "trocr": lambda: tf.TrOCRForCausalLM(tf.TrOCRConfig(**SMALL, **DECODER, decoder_ffn_dim=48)),
    "roformer": lambda: tf.RoFormerForCausalLM(tf.RoFormerConfig(**SMALL, **ENCODER, is_decoder=True)),
}
"""Models that take the length of the cache for a position, so that every row but the longest is off."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def phi3(original: int = 16, window: int = 64) -> Any:
    """Its rotary frequencies change for all rows as soon as one is longer than `original`."""
    half = [1.0 + 0.3 * i for i in range(4)]
    rope = {"rope_type": "longrope", "short_factor": half, "long_factor": [9 * f for f in half]}
    torch.manual_seed(0)
    config = tf.Phi3Config(
        **{**SMALL, "max_position_embeddings": window, "bos_token_id": 0, "eos_token_id": 1},
        **ENCODER,
        original_max_position_embeddings=original,
        rope_parameters={**rope, "rope_theta": 10_000.0},
    )
    return tf.Phi3ForCausalLM(config).eval()


# ---------------------------------------------------------------------------------------------------------
# What is wrong without a word


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_positions_by_the_length_of_the_cache(kind: str, cache: Path, tiny_tokenizer: Any) -> None:
    """Every row but the longest is off where all end at one column; where all begin at one they are right."""
    in_step = wrap_model(BY_LENGTH[kind]().eval(), tiny_tokenizer, check=False)
    shorter, longest = row_errors(in_step)
    assert longest < 1e-4
    assert shorter > 0.02
    for _ in ("judged", "from the cache"):
        loaded = wrap_model(BY_LENGTH[kind](), tiny_tokenizer)
        assert not loaded.layout.in_step
        assert max(row_errors(loaded)) < 1e-4


def test_positions_that_begin_behind_the_padding_token(cache: Path, tiny_tokenizer: Any) -> None:
    config = tf.RobertaConfig(**{**SMALL, "pad_token_id": 1}, **ENCODER, is_decoder=True)
    loaded = wrap_model(tf.RobertaForCausalLM(config), tiny_tokenizer)
    assert (loaded.layout.first_position, loaded.layout.in_step, loaded.window) == (2, True, 126)
    assert max(row_errors(loaded)) < 1e-4
    assert max(row_errors(replace(loaded, layout=replace(loaded.layout, first_position=0)))) > 0.02


def test_what_is_wrong_in_every_way_is_refused(cache: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = phi3(original=16)
    for _ in ("judged", "from the cache"):
        with pytest.raises(ModelError, match="cannot be read as rows of unequal length") as caught:
            wrap_model(model, tiny_tokenizer, name="mine")
        said = str(caught.value)
        assert "'mine' (phi3)" in said
        assert all(f"the row with {tokens} tokens" in said for tokens in CONTEXTS)
        assert "check=False" in said
    with pytest.raises(ModelError, match="check=False"):
        NBCE.from_pretrained(model, tokenizer=tiny_tokenizer)
    assert NBCE.from_pretrained(model, tokenizer=tiny_tokenizer, check=False).window == 16
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="check=False"):
        load_model(tmp_path / "model", device="cpu", dtype="float32")
    assert load_model(tmp_path / "model", device="cpu", dtype="float32", check=False).window == 16


def test_both_adapters_hand_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_nbce import ChatNBCE
    from llama_index_nbce import NBCELLM

    given: list[Any] = []

    def from_pretrained(model: Any, **options: Any) -> Any:
        given.append(options.get("check"))
        raise ModelError("enough")

    monkeypatch.setattr(NBCE, "from_pretrained", from_pretrained)
    for value in (False, True):
        with pytest.raises(ModelError, match="enough"):
            ChatNBCE(model="some/model", check=value).nbce()
        with pytest.raises(ModelError, match="enough"):
            NBCELLM(model="some/model", load={"check": value})
    assert given == [False, False, True, True]


@pytest.mark.parametrize("kind", ["mamba", "jamba"])
def test_a_state_that_is_forgotten_under_several_tokens(kind: str, cache: Path, tiny_tokenizer: Any) -> None:
    loaded = wrap_model(build_unusual(kind), tiny_tokenizer)
    assert not loaded.layout.at_once
    assert max(row_errors(loaded)) < 1e-4
    at_once = replace(loaded, layout=replace(loaded.layout, at_once=True))
    assert max(row_errors(at_once)) > 0.02


@pytest.mark.parametrize("kind", ["qwen3_5", "mamba2"])
def test_a_state_that_goes_on_is_read_at_once(kind: str, cache: Path, tiny_tokenizer: Any) -> None:
    assert wrap_model(build_unusual(kind), tiny_tokenizer).layout.at_once


def test_contexts_padded_behind_ruin_a_state(
    cache: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While contexts are read, the model believes that nothing keeps a state."""
    from nbce_rag.models.transformers import contexts
    from nbce_rag.models.transformers.layers import Layout

    original: Any = contexts._prefill

    def padded_behind(model: Any, chunk: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Layout, "has_states", False)
            return original(model, chunk)

    monkeypatch.setattr(contexts, "_prefill", padded_behind)
    with pytest.raises(ModelError, match="the row with 3 tokens before the question is off by"):
        wrap_model(build_unusual("lfm2"), tiny_tokenizer)


def test_half_precision_is_judged_by_a_twin_in_float32(cache: Path, tiny_tokenizer: Any) -> None:
    """Rounding would hide what is wrong."""
    loaded = wrap_model(BY_LENGTH["roformer"]().to(torch.bfloat16), tiny_tokenizer)
    assert (loaded.dtype, loaded.layout.in_step) == ("bfloat16", False)
    assert not wrap_model(build_unusual("mamba").to(torch.bfloat16), tiny_tokenizer).layout.at_once


def test_flat_weights_hide_nothing(cache: Path, tiny_tokenizer: Any) -> None:
    model = BY_LENGTH["bart"]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
    assert not wrap_model(model, tiny_tokenizer).layout.in_step


# ---------------------------------------------------------------------------------------------------------
# Lengths beyond which nothing can be right


def test_the_window_ends_where_rotary_frequencies_change(cache: Path, tiny_tokenizer: Any) -> None:
    loaded = wrap_model(phi3(original=40), tiny_tokenizer)
    assert loaded.window == 40
    assert max(row_errors(loaded)) < 1e-4
    beyond = replace(wrap_model(phi3(original=16), tiny_tokenizer, check=False), window=64)
    assert max(row_errors(beyond)) > 0.1


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (tf.LlamaConfig(), None),
        (tf.Llama4TextConfig(), 8191),
        (tf.Llama4TextConfig(attn_temperature_tuning=False), None),
        (tf.InklingTextConfig(log_scaling_n_floor=4096), 4096),
        (tf.InklingTextConfig(), None),
        (
            tf.LlamaConfig(
                max_position_embeddings=2048,
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            ),
            2048,
        ),
        (tf.LlamaConfig(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}), None),
    ],
)
def test_thresholds(config: Any, most: int | None) -> None:
    assert most_tokens(config) == most


# ---------------------------------------------------------------------------------------------------------
# Twins and verdicts


def test_a_twin_has_every_kind_of_layer_and_little_else(tiny_tokenizer: Any) -> None:
    config = tf.Gemma3TextConfig(
        vocab_size=20_000,
        hidden_size=32,
        intermediate_size=400,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=100,
    )
    model = tf.Gemma3ForCausalLM(config).eval()
    layout, _ = probe(model, "m")
    state = torch.random.get_rng_state()
    twin = next(twins(model, layout))
    assert torch.equal(torch.random.get_rng_state(), state)
    smaller = twin.config
    assert (smaller.num_hidden_layers, smaller.layer_types) == (2, ["sliding_attention", "full_attention"])
    assert (smaller.vocab_size, smaller.sliding_window, smaller.intermediate_size) == (512, 16, 64)
    assert (smaller.hidden_size, smaller.head_dim) == (32, 8)
    assert twin.dtype == torch.float32
    assert set(layer_kinds(twin, probe(twin, "t")[0])) == set(layer_kinds(model, layout))


def test_a_verdict_is_reached_once(cache: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    original: Any = check.judge

    def counted(model: Any) -> Any:
        judged.append(model.name)
        return original(model)

    monkeypatch.setattr(check, "judge", counted)
    wrap_model(build_model("llama", 480), tiny_tokenizer, name="a")
    wrap_model(build_model("llama", 480, seed=1), tiny_tokenizer, name="b")  # other weights, the same code
    assert judged == ["a"]
    [file] = (cache / "checks").iterdir()
    for damage in ("", "{", "[]", '{"right": true, "more": 1}', "null"):
        file.write_text(damage)
        wrap_model(build_model("llama", 480), tiny_tokenizer, name="c")
    assert judged == ["a", *"ccccc"]
    wrap_model(build_model("llama", 480), tiny_tokenizer, name="d")
    wrap_model(build_model("llama", 480, window=99), tiny_tokenizer, name="e")
    assert judged[6:] == ["e"]
    assert [path.suffix for path in (cache / "checks").iterdir()] == [".json"] * 2


def test_a_cache_that_cannot_be_written_does_no_harm(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "file"))
    assert wrap_model(build_model("llama", 480), tiny_tokenizer).window == 512


def test_code_that_builds_no_twin_is_judged_by_itself(cache: Path) -> None:
    class Own(tf.LlamaForCausalLM):
        """Wants more than a configuration."""

        def __init__(self, config: Any, more: int) -> None:
            super().__init__(config)

    torch.manual_seed(0)
    config = build_model("llama", 480).config
    model: Any = Own(config, 1)
    model.eval()
    assert list(twins(model, probe(model, "m")[0])) == []
    assert wrap_model(model, build_tokenizer()).window == 512


def test_what_may_be_no_fault_of_the_model_is_not_kept(
    cache: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was short of memory once must not refuse a model for ever."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(check, "row_errors", fail)
        with pytest.raises(ModelError, match="out of memory"):
            wrap_model(build_model("llama", 480), tiny_tokenizer)
    assert wrap_model(build_model("llama", 480), tiny_tokenizer)


@pytest.mark.parametrize(
    "damaged",
    ['{"right": false, "errors": []}', '{"right": true, "first_position": null}', '{"right": 1}', "[]", "{"],
)
def test_a_damaged_verdict_counts_as_none(cache: Path, tiny_tokenizer: Any, damaged: str) -> None:
    wrap_model(build_model("llama", 480), tiny_tokenizer)
    (file,) = cache.rglob("checks/*.json")
    file.write_text(damaged, encoding="utf-8")
    assert wrap_model(build_model("llama", 480), tiny_tokenizer)
    assert '"right": true' in file.read_text(encoding="utf-8")
