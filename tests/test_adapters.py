"""LoRA adapters of peft: by name, beside a base, as an object; switched, merged, refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tiny_models import build_model, build_tokenizer

from nbce_rag import NBCE
from nbce_rag.errors import InputError, MissingDependencyError, ModelError
from nbce_rag.models.loading import load_model
from nbce_rag.models.transformers.loading import wrap_model
from nbce_rag.models.transformers.packing import PackedLinear

peft = pytest.importorskip("peft")

IDS = torch.arange(2, 40).view(1, -1)
PASSAGES = ["The ferry is run by Ada.", "It leaves at noon."]


def trained(base: Any, seed: int = 1, **options: Any) -> Any:
    """A `PeftModel` whose adapter does something, as training would leave it."""
    torch.manual_seed(seed)
    options = {"target_modules": ["q_proj", "v_proj", "up_proj"], **options}
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **options)
    return peft.get_peft_model(base, config).eval()


@pytest.fixture(scope="session")
def make_adapter(tiny_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`make_adapter(seed=1, ...)`: (folder by peft, logits that its model gives)."""

    def make(family: str = "llama", seed: int = 1, **options: Any) -> tuple[Path, torch.Tensor]:
        base = tf.AutoModelForCausalLM.from_pretrained(tiny_folder(family), dtype=torch.float32)
        model = trained(base, seed, **options)
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        with torch.no_grad():
            return folder, model(IDS).logits

    return make


def load(model: Any, **options: Any) -> Any:
    return load_model(model, **{"device": "cpu", "dtype": "float32", **options})


def logits(loaded: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = loaded.model(IDS).logits
    return result


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------------------------------------------
# By name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": "all-linear"},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [5, 6, 7]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"use_dora": True},
        {"lora_bias": True},
        {"use_rslora": True},
    ],
    ids=str,
)
def test_an_adapter_by_name_and_beside_its_base(
    options: dict[str, Any], make_adapter: Any, tiny_folder: Callable[..., Path]
) -> None:
    folder, expected = make_adapter(**options)
    by_name = load(folder)
    beside = load(tiny_folder("llama"), adapter=folder)
    for loaded in (by_name, beside):
        assert close(logits(loaded), expected)
        assert any(isinstance(module, PackedLinear) for module in loaded.model.modules())
        assert close(logits(load(folder, optimize=False)), expected)
    assert by_name.name == str(folder)
    assert beside.name == str(tiny_folder("llama"))
    base = load(tiny_folder("llama"))
    assert not close(logits(base), expected)
    assert len({by_name.fingerprint, beside.fingerprint, base.fingerprint}) == 3
    assert load(folder).fingerprint == by_name.fingerprint


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma3"])
def test_adapters_of_other_families(family: str, make_adapter: Any) -> None:
    folder, expected = make_adapter(family, target_modules=["c_attn"] if family == "gpt2" else ["k_proj"])
    assert close(logits(load(folder)), expected)


def test_other_kinds_of_adapters(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    for number, config in enumerate(
        (
            peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False),
            peft.LoHaConfig(target_modules=["k_proj"], r=2, init_weights=False),
            peft.OFTConfig(target_modules=["k_proj"], oft_block_size=8, init_weights=False),
        )
    ):
        base = tf.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.float32)
        torch.manual_seed(0)
        model = peft.get_peft_model(base, config).eval()
        model.save_pretrained(tmp_path / str(number))
        assert close(logits(load(tmp_path / str(number))), model(IDS).logits)


def test_an_adapter_keeps_the_dtype_of_its_base(make_adapter: Any) -> None:
    folder, _ = make_adapter()
    loaded = load(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    NBCE(loaded, max_tokens=3).answer("Who?", PASSAGES)


def test_the_tokenizer_of_an_adapter_is_taken(make_adapter: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(make_adapter()[0], tmp_path / "adapter")
    assert not load(folder).tokenizer.has_chat_template
    build_tokenizer(chat=True).save_pretrained(folder)
    assert load(folder).tokenizer.has_chat_template


def test_a_retrained_adapter_of_the_same_name(make_adapter: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(make_adapter(seed=1)[0], tmp_path / "adapter")
    first = load(folder).fingerprint
    shutil.copytree(make_adapter(seed=2)[0], folder, dirs_exist_ok=True)
    second = load(folder).fingerprint
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 64}))
    assert len({first, second, load(folder).fingerprint}) == 3


def test_an_adapter_on_an_offloaded_base(make_adapter: Any) -> None:
    folder, expected = make_adapter()
    assert close(logits(load(folder, device=None, device_map="cpu")), expected)


# ---------------------------------------------------------------------------------------------------------
# What is refused


def test_peft_may_be_missing(
    make_adapter: Any, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make_adapter()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest)
    )
    for model, options in ((folder, {}), (tiny_folder("llama"), {"adapter": folder})):
        with pytest.raises(MissingDependencyError, match=r"needs peft: pip install 'nbce-rag\[lora\]'"):
            load(model, **options)


@pytest.mark.parametrize("family", ["gpt2", "phi"])
def test_an_adapter_of_another_base(family: str, make_adapter: Any, tiny_folder: Callable[..., Path]) -> None:
    """GPT-2 has no such layers, Phi has some of other sizes."""
    folder, _ = make_adapter(target_modules=["k_proj"])
    with pytest.raises(ModelError, match="does not fit") as caught:
        load(tiny_folder(family), adapter=folder)
    assert str(folder) in str(caught.value)
    assert str(tiny_folder("llama")) in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "extra", "renamed"])
def test_weights_without_a_place_or_not_there(change: str, make_adapter: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(make_adapter()[0], tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    if change != "extra":
        tensor = tensors.pop(first)
    if change != "missing":
        tensors[first.replace("layers.0", "layers.9")] = (
            tensors[max(tensors)] if change == "extra" else tensor
        )
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, file)
    with pytest.raises(
        ModelError, match=r"does not fit LlamaForCausalLM: it (lacks weights|has weights with)"
    ):
        load(folder)


@pytest.mark.parametrize("kind", ["prompt", "prefix", "alora"])
def test_adapters_that_do_more_than_change_layers(
    kind: str, tiny_folder: Callable[..., Path], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    config = {
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "alora": lambda: peft.LoraConfig(
            task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[5]
        ),
    }[kind]()
    base = tf.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.float32)
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path)
    for attempt in (lambda: load(tmp_path), lambda: wrap_model(model, tiny_tokenizer)):
        with pytest.raises(ModelError, match="Use LoRA or another adapter"):
            attempt()


def test_a_base_that_is_not_named_or_not_there(make_adapter: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(make_adapter()[0], tmp_path / "adapter")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="does not say which model it was trained on; give that as model="):
        load(folder)
    file.write_text(json.dumps(config | {"base_model_name_or_path": "/no/such/base"}))
    with pytest.raises(ModelError, match=r"Cannot load the model '/no/such/base'"):
        load(folder)


def test_an_adapter_whose_base_is_an_adapter(make_adapter: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(make_adapter()[0], tmp_path / "adapter")
    file = folder / "adapter_config.json"
    inner, _ = make_adapter()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(inner)}))
    with pytest.raises(ModelError, match="is an adapter itself"):
        load(folder)


def test_names_that_are_no_adapters(
    make_adapter: Any, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, _ = make_adapter()
    for wrong in (tmp_path, tmp_path / "none", tiny_folder("llama"), "no/such-adapter", "what is this?"):
        with pytest.raises(ModelError, match="No adapter at") as caught:
            load(tiny_folder("llama"), adapter=wrong)
        assert repr(str(wrong)) in str(caught.value)
    with pytest.raises(InputError, match="is an adapter itself"):
        load(folder, adapter=folder)


def test_unsafe_or_damaged_adapters(make_adapter: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(make_adapter()[0], tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    with pytest.raises(ModelError, match="or is damaged"):
        load(folder)
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        load(folder)
    file.write_bytes(content)
    for text in ("", "{", "[]", '{"peft_type": "NO_SUCH"}'):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"Cannot use the adapter_config\.json of the adapter"):
            load(folder)


def test_a_whole_model_with_an_adapter_in_one_folder(
    make_adapter: Any, tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "both")
    shutil.copytree(make_adapter()[0], folder, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="holds a whole model and an adapter"):
        load(folder)
    (folder / "model.safetensors").unlink()  # a config beside an adapter is common
    assert close(logits(load(folder)), make_adapter()[1])


# ---------------------------------------------------------------------------------------------------------
# Objects, and what is switched on them


def answer(engine: NBCE) -> tuple[str, list[tuple[float, ...]]]:
    made = engine.answer("Who runs the ferry?", PASSAGES)
    return made.text, [tuple(round(weight, 3) for weight in token.weights) for token in made.tokens]


def test_adapters_are_switched_and_never_share_keys_and_values(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = trained(build_model("llama", len(tiny_tokenizer)), target_modules="all-linear")
    torch.manual_seed(2)
    model.add_adapter(
        "other",
        peft.LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    stored = NBCE.from_pretrained(model, tokenizer=tiny_tokenizer, kv_store=tmp_path, max_tokens=6)
    plain = NBCE.from_pretrained(model, tokenizer=tiny_tokenizer, kv_store=False, max_tokens=6)
    answers: dict[str, Any] = {}
    fingerprints: dict[str, str] = {}
    for turn in range(2):
        for state in ("default", "other", "off"):
            model.set_adapter("default" if state == "off" else state)
            if state == "off":
                with model.disable_adapter():
                    assert answer(stored) == answer(plain)
                    made, fingerprint = answer(stored), stored.model.fingerprint
            else:
                assert answer(stored) == answer(plain)
                made, fingerprint = answer(stored), stored.model.fingerprint
            assert answers.setdefault(state, made) == made
            assert fingerprints.setdefault(state, fingerprint) == fingerprint
            assert turn == 0 or stored.answer("Who?", PASSAGES).usage.cached_tokens > 0
    assert len(set(map(str, answers.values()))) == 3
    assert len(set(fingerprints.values())) == 3
    base = NBCE.from_pretrained(
        build_model("llama", len(tiny_tokenizer)), tokenizer=tiny_tokenizer, kv_store=False, max_tokens=6
    )
    assert answer(base) == answers["off"]


def test_a_merged_adapter(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = trained(build_model("llama", len(tiny_tokenizer)))
    stored = NBCE.from_pretrained(model, tokenizer=tiny_tokenizer, kv_store=tmp_path, max_tokens=6)
    before, beside = stored.model.fingerprint, answer(stored)
    model.merge_adapter()
    assert stored.model.fingerprint != before
    assert answer(stored)[0] == beside[0]
    model.unmerge_adapter()
    whole = NBCE.from_pretrained(
        model.merge_and_unload(), tokenizer=tiny_tokenizer, kv_store=False, max_tokens=6
    )
    assert answer(whole)[0] == beside[0]


@pytest.mark.parametrize("change", ["scale", "weights", "delete"])
def test_other_changes_of_an_adapter(change: str, tiny_tokenizer: Any) -> None:
    model = trained(build_model("llama", len(tiny_tokenizer)))
    wrapped = wrap_model(model, tiny_tokenizer)
    before = wrapped.fingerprint
    layer = model.get_base_model().model.layers[1].self_attn.q_proj
    if change == "scale":
        layer.set_scale("default", 0.5)
    elif change == "weights":
        with torch.no_grad():
            layer.lora_B["default"].weight[0, 0] += 1e-3
    else:
        layer.delete_adapter("default")
    assert wrapped.fingerprint != before


def test_a_transformers_model_with_adapters_in_it(
    make_adapter: Any, tiny_folder: Callable[..., Path]
) -> None:
    folder, expected = make_adapter()
    model = tf.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.float32)
    model.load_adapter(str(folder))
    wrapped = wrap_model(model, build_tokenizer())
    on = wrapped.fingerprint
    assert close(logits(wrapped), expected)
    model.disable_adapters()
    assert wrapped.fingerprint != on


def test_scores_follow_an_adapter_of_the_output_layer(tiny_tokenizer: Any) -> None:
    for name in ("target_modules", "modules_to_save"):
        model = trained(build_model("llama", len(tiny_tokenizer)), seed=1, **{name: ["lm_head"]})
        assert wrap_model(model, tiny_tokenizer).output_weight is None
    model = trained(build_model("llama", len(tiny_tokenizer)))
    assert wrap_model(model, tiny_tokenizer).output_weight is not None


# ---------------------------------------------------------------------------------------------------------
# Through the frameworks


def test_adapters_through_langchain(make_adapter: Any, tiny_folder: Callable[..., Path]) -> None:
    langchain_nbce = pytest.importorskip("langchain_nbce")
    folder, _ = make_adapter(target_modules="all-linear")
    base = str(tiny_folder("llama"))
    common = {"device": "cpu", "dtype": "float32", "max_tokens": 6}
    plain = langchain_nbce.NBCELLM(model=base, **common)
    beside = langchain_nbce.NBCELLM(model=base, adapter=str(folder), **common)
    by_name = langchain_nbce.NBCELLM(model=str(folder), **common)
    assert beside.invoke("The ferry") == by_name.invoke("The ferry") != plain.invoke("The ferry")
    assert len({str(llm.identity) for llm in (plain, beside, by_name)}) == 3


def test_adapters_through_llama_index(make_adapter: Any, tiny_folder: Callable[..., Path]) -> None:
    llama_index_nbce = pytest.importorskip("llama_index_nbce")
    folder, _ = make_adapter(target_modules="all-linear")
    base = str(tiny_folder("llama"))
    common = {"device": "cpu", "dtype": "float32"}
    plain = llama_index_nbce.NBCELLM(base, load=common, max_tokens=6)
    beside = llama_index_nbce.NBCELLM(base, load={**common, "adapter": folder}, max_tokens=6)
    by_name = llama_index_nbce.NBCELLM(str(folder), load=common, max_tokens=6)
    texts = [str(llm.complete("The ferry")) for llm in (plain, beside, by_name)]
    assert texts[0] != texts[1] == texts[2]


def test_a_loaded_model_takes_no_adapter_by_name(make_adapter: Any, tiny_tokenizer: Any) -> None:
    model = build_model("llama", len(tiny_tokenizer))
    with pytest.raises(InputError, match="adapter: a model that is already loaded stays as it is"):
        load_model(model, tokenizer=tiny_tokenizer, adapter=make_adapter()[0])
