"""Checkpoints that are quantised, and weights quantised on loading: what runs here, and what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tiny_models import build_tokenizer
from torch import Tensor

from nbce_rag import NBCE
from nbce_rag.errors import InputError, MissingDependencyError, ModelError
from nbce_rag.models.transformers.loading import load_model, wrap_model
from nbce_rag.models.transformers.packing import PackedLinear, pack_linear_layers
from nbce_rag.models.transformers.quantised import quantisation

PASSAGES = ["The ferry is run by Ada.", "It leaves at noon."]
IDS = torch.arange(2, 40).view(1, -1)
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama wide enough for every kind of quantisation."""
    folder = tmp_path_factory.mktemp("plain")
    tokenizer = build_tokenizer()
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.15,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def crafted(
    plain: Path, folder: Path, config: dict[str, Any], change: Callable[[str, Tensor], dict[str, Tensor]]
) -> Path:
    """A copy whose config says that it is quantised, and whose layers are as `change` makes them."""
    shutil.copytree(plain, folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    tensors: dict[str, Tensor] = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        tensors |= change(key, tensor) if "proj" in key else {key: tensor}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def fp8(key: str, weight: Tensor) -> dict[str, Tensor]:
    """Blocks of 128 x 128 with a scale each, as DeepSeek's and Qwen's FP8 checkpoints."""
    rows, columns = (-(-size // 128) for size in weight.shape)
    scale = weight.abs().max() / 448
    return {
        key: (weight / scale).to(torch.float8_e4m3fn),
        f"{key}_scale_inv": torch.full((rows, columns), float(scale)),
    }


def mxfp4(key: str, weight: Tensor) -> dict[str, Tensor]:
    """Random blocks of 32 numbers of 4 bits with a scale each, as gpt-oss has them."""
    if "experts" not in key or key.endswith("bias"):
        return {key: weight}
    experts, inner, outer = weight.shape
    return {
        f"{key}_blocks": torch.randint(0, 256, (experts, outer, inner // 32, 16), dtype=torch.uint8),
        f"{key}_scales": torch.full((experts, outer, inner // 32), 124, dtype=torch.uint8),
    }


def same(key: str, weight: Tensor) -> dict[str, Tensor]:
    return {key: weight}


def answers_alike(folder: Path | str, **options: Any) -> Any:
    """A loaded model whose answers with a store are those without one, and whose fingerprint stays."""
    loaded = load_model(folder, device="cpu", **options)
    before = loaded.fingerprint
    made = [NBCE(loaded, kv_store=store, max_tokens=4).answer("Who?", PASSAGES) for store in (None, False)]
    assert made[0].text == made[1].text
    assert loaded.fingerprint == before
    assert load_model(folder, device="cpu", **options).fingerprint == before
    return loaded


def difference(loaded: Any, plain: Path) -> float:
    reference = tf.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    with torch.no_grad():
        return float((loaded.model(IDS).logits.float() - reference(IDS).logits).abs().mean())


def packed(loaded: Any) -> int:
    return sum(isinstance(module, PackedLinear) for module in loaded.model.modules())


# ---------------------------------------------------------------------------------------------------------
# What transformers itself reads on a CPU: weights become plain


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_fp8_becomes_plain_weights(dtype: str, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    loaded = answers_alike(crafted(plain, tmp_path / "fp8", FP8, fp8), dtype=dtype)
    expected = load_model(plain, device="cpu", dtype=dtype).model.dtype
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {expected}
    assert difference(loaded, plain) < 0.6
    assert quantisation(loaded.model.config) == ""
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        assert packed(loaded) == 2 * 7 + 1


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_mxfp4_becomes_plain_weights(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    tokenizer = build_tokenizer()
    config = tf.GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=16,
        max_position_embeddings=512,
        initializer_range=0.15,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    tf.GptOssForCausalLM(config).bfloat16().save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    quantised = crafted(tmp_path / "plain", tmp_path / "mxfp4", {"quant_method": "mxfp4"}, mxfp4)
    loaded = answers_alike(quantised, dtype=dtype)
    assert len({parameter.dtype for parameter in loaded.model.parameters()}) == 1


# ---------------------------------------------------------------------------------------------------------
# With packages of their own


def test_torchao(plain: Path, tmp_path: Path) -> None:
    Int8WeightOnlyConfig = pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig
    for dtype in ("float32", "bfloat16"):
        how = tf.TorchAoConfig(Int8WeightOnlyConfig())
        loaded = answers_alike(plain, dtype=dtype, quantization_config=how)
        assert difference(loaded, plain) < 0.3
        assert packed(loaded) <= 1  # the output layer, which is not quantised
        loaded.model.save_pretrained(tmp_path / dtype)
        build_tokenizer().save_pretrained(tmp_path / dtype)
        again = answers_alike(tmp_path / dtype)  # by its config, in the dtype it was made for
        assert again.dtype == dtype
        assert torch.equal(again.model(IDS).logits, loaded.model(IDS).logits)
        # As an object: what is inside of its tensors counts.
        wrapped = wrap_model(again.model, build_tokenizer(), name="m")
        before = wrapped.fingerprint
        assert wrap_model(again.model, build_tokenizer(), name="m").fingerprint == before
        with torch.no_grad():
            again.model.model.layers[0].mlp.up_proj.weight.scale.mul_(2)
        assert wrap_model(again.model, build_tokenizer(), name="m").fingerprint != before


@pytest.mark.parametrize(
    "options",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("as_dict", [False, True])
def test_bitsandbytes(options: dict[str, Any], as_dict: bool, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    how = {"quant_method": "bitsandbytes", **options} if as_dict else tf.BitsAndBytesConfig(**options)
    loaded = answers_alike(plain, dtype="float32", quantization_config=how)
    assert difference(loaded, plain) < 1.5
    assert packed(loaded) <= 1
    # Scales lie beside the weights.
    wrapped = wrap_model(loaded.model, build_tokenizer(), name="m")
    before = wrapped.fingerprint
    assert wrap_model(loaded.model, build_tokenizer(), name="m").fingerprint == before
    layer = loaded.model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        if "load_in_8bit" in options:
            layer.state.SCB.mul_(2)
        else:
            layer.weight.quant_state.absmax.mul_(2)
    assert wrap_model(loaded.model, build_tokenizer(), name="m").fingerprint != before


def test_an_adapter_beside_quantised_weights(plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    peft = pytest.importorskip("peft")
    how = tf.BitsAndBytesConfig(load_in_4bit=True)
    config = peft.LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False)
    base = tf.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    with_adapter = answers_alike(plain, adapter=tmp_path, dtype="float32", quantization_config=how)
    without = load_model(plain, device="cpu", dtype="float32", quantization_config=how)
    assert with_adapter.fingerprint != without.fingerprint
    assert not torch.allclose(with_adapter.model(IDS).logits, without.model(IDS).logits, atol=0.1)


@pytest.mark.parametrize("kind", ["int-quantized", "float-quantized", "pack-quantized"])
def test_compressed_tensors(kind: str, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")

    def change(key: str, weight: Tensor) -> dict[str, Tensor]:
        most = {"int-quantized": 127, "float-quantized": 448, "pack-quantized": 7}[kind]
        scale = weight.abs().amax(1, keepdim=True) / most
        if kind == "float-quantized":
            return {key: (weight / scale).to(torch.float8_e4m3fn), f"{key}_scale": scale}
        numbers = (weight / scale).round().to(torch.int8)
        if kind == "int-quantized":
            return {key: numbers, f"{key}_scale": scale}
        # Eight of 4 bits a number, the first lowest, shifted to 0..15.
        bits = (numbers.to(torch.int64) + 8).view(len(weight), -1, 8) << torch.arange(0, 32, 4)
        return {
            f"{key}_packed": bits.sum(-1).to(torch.int32),
            f"{key}_scale": scale,
            f"{key}_shape": torch.tensor(weight.shape),
        }

    weights = {
        "num_bits": 4 if kind == "pack-quantized" else 8,
        "type": "float" if kind == "float-quantized" else "int",
        "strategy": "channel",
        "symmetric": True,
        "dynamic": False,
    }
    config = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"format": kind, "targets": ["Linear"], "weights": weights}},
    }
    loaded = answers_alike(crafted(plain, tmp_path / kind, config, change))
    assert difference(loaded, plain) < 1.5
    assert packed(loaded) == 0  # its layers are plain ones with another forward


# ---------------------------------------------------------------------------------------------------------
# What is missing


@pytest.mark.parametrize(
    ("config", "module", "install"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "optimum.gptq", "gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel", "gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, "torchao", "torchao"),
        ({"quant_method": "compressed-tensors"}, "compressed_tensors", "compressed-tensors"),
        ({"quant_method": "hqq", "nbits": 4}, "hqq", "hqq"),
        ({"quant_method": "quanto", "weights": "int8"}, "optimum.quanto", "optimum-quanto"),
        ({"quant_method": "aqlm"}, "aqlm", "aqlm"),
        ({"quant_method": "eetq"}, "kernels", "kernels"),
        ({"quant_method": "vptq"}, "vptq", "vptq"),
        ({"quant_method": "auto-round", "bits": 4}, "auto_round", "auto-round"),
    ],
    ids=lambda value: value.get("quant_method", "bnb") if isinstance(value, dict) else None,
)
def test_an_error_names_the_package(
    config: dict[str, Any], module: str, install: str, plain: Path, tmp_path: Path
) -> None:
    try:
        __import__(module)
    except ImportError:
        pass
    else:
        pytest.skip("it is installed")
    folder = crafted(plain, tmp_path / "quantised", config, same)
    with pytest.raises(MissingDependencyError, match="pip install") as caught:
        load_model(folder, device="cpu")
    assert f"pip install {install}" in str(caught.value)
    assert repr(str(folder)) in str(caught.value)


@pytest.mark.parametrize("method", ["spqr", "higgs", "fp_quant"])
def test_what_this_machine_cannot_read(method: str, plain: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("it might")
    folder = crafted(plain, tmp_path / "quantised", {"quant_method": method}, same)
    with pytest.raises((ModelError, MissingDependencyError), match=f"quantised by {method}"):
        load_model(folder, device="cpu")


def test_plain_weights_that_are_said_to_be_quantised(plain: Path, tmp_path: Path) -> None:
    folder = crafted(plain, tmp_path / "quantised", FP8, same)
    assert difference(load_model(folder, device="cpu", dtype="float32"), plain) < 1e-4


def test_another_missing_package(plain: Path) -> None:
    with pytest.raises((MissingDependencyError, ModelError), match=r"(?i)flash"):
        load_model(plain, device="cpu", attn_implementation="flash_attention_2")


def test_nonsense_for_a_configuration(plain: Path, tiny_tokenizer: Any) -> None:
    for value in ({"quant_method": "nonsense"}, {}, "int8", 4):
        with pytest.raises((ModelError, InputError)):
            load_model(plain, device="cpu", quantization_config=value)


# ---------------------------------------------------------------------------------------------------------
# Packing looks at the layer, not at a config


def test_layers_with_another_forward_are_not_packed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[0].forward = lambda x: x + 1
    model[1].register_forward_pre_hook(lambda module, arguments: (arguments[0] + 1,))
    x = torch.randn(2, 4)
    with torch.no_grad():
        before = model(x)
        assert pack_linear_layers(model) <= 1
        torch.testing.assert_close(model(x), before)


def test_weights_that_are_no_plain_tensors_are_not_packed() -> None:
    class Codes(Tensor):
        pass

    layer = torch.nn.Linear(4, 4)
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Codes), requires_grad=False)
    model = torch.nn.Sequential(torch.nn.LayerNorm(4), layer)
    assert pack_linear_layers(model) == 0


def test_how_weights_are_quantised_is_read_from_any_config() -> None:
    plain = tf.LlamaConfig()
    assert quantisation(plain) == ""
    assert quantisation(plain, {"load_in_4bit": True}) == "bitsandbytes"
    assert quantisation(plain, tf.BitsAndBytesConfig(load_in_8bit=True)) == "bitsandbytes"
    assert quantisation(plain, tf.GPTQConfig(bits=4)) == "gptq"
    assert quantisation(tf.LlamaConfig.from_dict({"quantization_config": FP8})) == "fp8"
