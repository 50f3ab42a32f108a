"""`nbce-rag models`: the families, and what one model is, keeps and needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_tools import write_gguf
from test_cli import run
from tiny_models import CHAT_TEMPLATE, TOOL_TEMPLATE, build_model, build_tokenizer

from nbce_rag.errors import InputError, ModelError
from nbce_rag.models.description import ModelDescription, describe_model
from nbce_rag.models.families import WAYS, families
from nbce_rag.models.transformers.loading import load_model

_THINKER = CHAT_TEMPLATE.replace(
    "<|assistant|>\n",
    "<|assistant|>\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
)


def described(path: Path | str, **options: Any) -> ModelDescription:
    options = {"device": "cpu", "dtype": "float32", **options}
    return describe_model(path, rows=9, tokens=700, **options)


@pytest.fixture
def with_template(tmp_path: Path) -> Callable[[str], Path]:
    """`with_template(text)`: a folder with a model whose tokenizer has this chat template."""

    def folder(template: str) -> Path:
        tokenizer = build_tokenizer()
        tokenizer.chat_template = template
        build_model("llama", len(tokenizer)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return folder


def test_all_families_are_listed() -> None:
    done = run("models")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    for family in families().families.values():
        assert any(line.startswith(family.name) and WAYS[family.way][:8] in line for line in lines), family
    assert f"tried with transformers {families().transformers}" in done.stdout
    data = json.loads(run("models", "--json").stdout)
    assert data == families().to_dict()


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_numbers_are_those_of_the_loaded_model(
    family: str, tiny_folder: Callable[..., Path], tiny_loaded: Callable[..., Any]
) -> None:
    loaded, model = tiny_loaded(family), described(tiny_folder(family))
    assert model.architecture == type(loaded.model).__name__
    assert model.way == "rows"
    assert model.reason == ""
    assert model.window == loaded.window
    assert model.token_bytes == loaded.kv_bytes
    assert model.state_bytes == loaded.state_bytes == 0
    assert model.keeps.startswith("keys and values")
    plain = build_model(family, loaded.vocab_size)
    assert model.parameters == sum(parameter.numel() for parameter in plain.parameters())
    assert model.weight_bytes == 4 * model.parameters
    assert model.needed_bytes == model.weight_bytes + loaded.cost(9, 700) + 700 * loaded.activation_bytes
    assert model.fits


def test_a_recurrent_model_says_what_its_states_take(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

    tokenizer = build_tokenizer()
    config = Qwen3_5TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu", dtype="float32")
    model = described(tmp_path)
    assert model.state_bytes == loaded.state_bytes > 0
    assert model.token_bytes == loaded.kv_bytes > 0
    assert "states" in model.keeps
    done = run("models", str(tmp_path), "--device", "cpu")
    assert "a context, whatever its length" in done.stdout


def test_half_precision_takes_half(tiny_folder: Callable[..., Path]) -> None:
    full, half = (described(tiny_folder("llama"), dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert full.weight_bytes == 2 * half.weight_bytes
    assert full.token_bytes is not None
    assert half.token_bytes is not None
    assert full.token_bytes == 2 * half.token_bytes
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("template", "knows_tools", "thinks", "off"),
    [
        (CHAT_TEMPLATE, False, False, {}),
        (TOOL_TEMPLATE, True, False, {}),
        (_THINKER, False, True, {"enable_thinking": False}),
    ],
    ids=["plain", "tools", "thinking"],
)
def test_the_chat_template_is_looked_at(
    with_template: Callable[[str], Path],
    template: str,
    knows_tools: bool,
    thinks: bool,
    off: dict[str, Any],
) -> None:
    folder = with_template(template)
    model = described(folder)
    assert model.has_chat_template
    assert (model.knows_tools, model.thinks, model.thinking_off) == (knows_tools, thinks, off)
    shown = run("models", str(folder), "--device", "cpu").stdout
    assert ("told of tools by it" in shown) == knows_tools
    assert ("switched off by enable_thinking=false" in shown) == thinks


def test_one_model_in_the_terminal(tiny_folder: Callable[..., Path]) -> None:
    folder = str(tiny_folder("gemma3"))
    done = run("models", folder, "--dtype", "float32", "--device", "cpu")
    assert done.exit_code == 0, done.output
    for text in ("gemma3_text (Gemma3ForCausalLM)", WAYS["rows"], "a token", "512 tokens a row", "float32"):
        assert text in done.stdout
    assert "none; a plain prompt" in done.stdout
    assert "which is enough" in done.stdout
    data = json.loads(run("models", folder, "--json").stdout)
    assert data["fits"] is True
    assert data["window"] == 512


def test_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header tells; nothing is unpacked."""
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    tokenizer = build_tokenizer(bos=False)
    file = write_gguf(tmp_path / "tiny.gguf", build_model("llama", len(tokenizer)), tokenizer)
    model = described(file)
    assert (model.architecture, model.window, model.has_chat_template) == ("LlamaForCausalLM", 512, False)
    assert model.token_bytes == 4 * 2 * 3 * 2 * 8  # float32, keys and values, layers, heads, their dimension
    assert not (tmp_path / "cache").exists()


def test_weights_are_not_read(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    for file in tiny_folder("llama").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert described(tmp_path).parameters == described(tiny_folder("llama")).parameters


def test_packed_weights_take_what_their_files_take(with_template: Callable[[str], Path]) -> None:
    folder = with_template(CHAT_TEMPLATE)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = described(folder)
    assert model.quantisation == "gptq"
    assert model.weight_bytes == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert "packed by gptq" in run("models", str(folder)).stdout


def test_memory_that_is_not_there(tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbce_rag.models.transformers.description.free_bytes", lambda device: 1000)
    assert described(tiny_folder("llama")).fits is False
    shown = run("models", str(tiny_folder("llama")), "--dtype", "float32").stdout
    assert "too little for the weights alone; take a smaller model, or --dtype bfloat16" in shown


def test_a_model_that_is_refused_says_why(tmp_path: Path) -> None:
    from transformers import T5Config

    T5Config(vocab_size=99).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    done = run("models", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "not at all" in done.stdout
    assert "encoder-decoder" in done.stdout
    assert "cannot be built" in done.stdout
    model = described(tmp_path)
    assert (model.way, model.token_bytes, model.needed_bytes, model.fits) == ("refused", None, None, None)


@pytest.mark.parametrize("name", ["nobody/nothing", "missing.gguf", "."])
def test_what_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("models", name)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(ModelError):
        described(name)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="give the folder that it is in"):
        described(file)


def test_a_damaged_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="Cannot read the model"):
        described(tmp_path)


@pytest.mark.parametrize("options", [{"dtype": "int3"}, {"device": "abacus"}])
def test_unknown_options(options: dict[str, str], tiny_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError):
        described(tiny_folder("llama"), **options)
    [(name, value)] = options.items()
    assert run("models", str(tiny_folder("llama")), f"--{name}", value).exit_code == 2


def test_the_name_of_a_family_asks_no_hub() -> None:
    result = run("models", "llama")
    assert result.exit_code == 0
    assert result.stdout.startswith("llama: all rows in one pass; keys and values")
    assert json.loads(run("models", "llama", "--json").stdout)["way"] == "rows"
