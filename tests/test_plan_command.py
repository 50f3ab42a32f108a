"""`nbce-rag plan`: what it says is what a loaded model, a folder and an index really take."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_reference import engine_of
from gguf_tools import write_gguf
from test_cli import run
from tiny_models import build_model, build_tokenizer

from nbce_rag.engine.nbce import NBCE
from nbce_rag.engine.sizing import CapacityPlan, Workload, index_bytes, plan_capacity
from nbce_rag.errors import InputError
from nbce_rag.index import PassageIndex
from nbce_rag.kv.folder import KVFolder
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.description import describe_model
from nbce_rag.passages import Passage


def planned(model: Path | str, load: Workload, **options: Any) -> CapacityPlan:
    return plan_capacity(load, model, **{"device": "cpu", "dtype": "float32", **options})


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2"])
def test_numbers_are_those_of_the_loaded_model(
    family: str, tiny_folder: Callable[..., Path], tiny_loaded: Callable[..., Any]
) -> None:
    loaded, load = tiny_loaded(family), Workload(k=3, passage_tokens=40, answer_tokens=9)
    plan = planned(tiny_folder(family), load)
    assert (load.rows, load.row_tokens) == (1 + 3 + 16 + 1, 12 + 40 + 50 + 9)
    rows = loaded.cost(load.rows, load.row_tokens)
    assert plan.answer_bytes == rows + load.row_tokens * loaded.activation_bytes
    described = describe_model(tiny_folder(family), rows=1, tokens=1, device="cpu", dtype="float32")
    assert plan.weight_bytes == described.weight_bytes
    for tokens in (0, 1, 5, 6, 7, 8, 9, 30, 1000):
        assert described.context_bytes(tokens) == loaded.context_bytes(tokens)


def test_a_recurrent_model_stores_no_sentences(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

    tokenizer = build_tokenizer()
    config = Qwen3_5TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        linear_num_key_heads=16,
        linear_num_value_heads=64,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        layer_types=["linear_attention", "full_attention"],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    described = describe_model(tmp_path, rows=1, tokens=1, device="cpu", dtype="float32")
    assert described.state_bytes is not None
    assert described.token_bytes is not None
    assert described.context_bytes(100) == described.state_bytes + 100 * described.token_bytes
    assert described.state_bytes > (1 << 20) * 2
    few = Workload(passage_tokens=50)
    with_sentences, without = (
        planned(tmp_path, Workload(passage_tokens=50, sentences=sentences)) for sentences in (True, False)
    )
    assert few.contexts[1] == (2, 37)
    assert with_sentences.passage_kv_bytes is not None
    assert without.passage_kv_bytes is not None
    assert with_sentences.passage_kv_bytes > 2 * without.passage_kv_bytes  # 37 tokens carry these states


def texts(count: int, words: int) -> list[Passage]:
    """Prose of so many words a passage, in sentences of a dozen, from a page of the docs."""
    pool = (Path(__file__).parents[1] / "examples" / "docs" / "method.md").read_text(encoding="utf-8").split()
    dice = random.Random(0)
    passages = []
    for number in range(count):
        chosen = [word.strip(".!?|`*$") or "and" for word in dice.choices(pool, k=words)]
        sentences = (" ".join(chosen[i : i + 12]).capitalize() + "." for i in range(0, words, 12))
        passages.append(Passage(" ".join(sentences), title=f"Page {number}"))
    return passages


def folder_is_as_planned(nbce: NBCE, passages: list[Passage], model: Path | str, dtype: str) -> None:
    """The folder that reading ahead makes, without sentences and with them."""
    assert nbce.kv_store is not None
    assert nbce.kv_store.folder is not None
    plan_of = engine_of(nbce).plan
    tokens = [len(plan_of(nbce.request("?", (passage,))).rows[1].context) for passage in passages]
    average = round(sum(tokens) / len(tokens)) - 12  # what the plan adds for wording
    for sentences, tolerance in ((False, 0.05), (True, 0.5)):
        nbce.prefill(passages, sentences=sentences)
        nbce.kv_store.flush()
        load = Workload(passages=len(passages), passage_tokens=average, sentences=sentences)
        plan = planned(model, load, dtype=dtype)
        assert plan.kv_bytes == pytest.approx(KVFolder(nbce.kv_store.folder).nbytes(), rel=tolerance)


def test_a_folder_takes_what_was_planned(
    make_nbce: Callable[..., NBCE], tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    nbce = make_nbce("llama", kv_store=PassageKVStore(0, tmp_path))
    folder_is_as_planned(nbce, texts(6, 24), tiny_folder("llama"), "float32")


@pytest.mark.packaged
def test_the_packaged_model_takes_what_was_planned(tmp_path: Path) -> None:
    nbce = NBCE.from_pretrained(dtype="bfloat16", device="cpu", kv_store=PassageKVStore(0, tmp_path / "kv"))
    folder_is_as_planned(nbce, texts(4, 120), "gemma3-270m", "bfloat16")


def test_an_index_takes_what_was_planned(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    index = PassageIndex.create(tmp_path / "index", lambda texts: numbers.normal(size=(len(texts), 64)))
    passages = texts(6000, 40)
    index.add(passages)
    index.close()
    size = sum(file.stat().st_size for file in (tmp_path / "index").iterdir())
    tokens = sum(len(passage.text.encode()) for passage in passages) // (4 * 6000)
    load = Workload(passages=6000, passage_tokens=tokens, dimension=64)
    assert index_bytes(load) == pytest.approx(size, rel=0.15)
    wide = [index_bytes(Workload(dimension=dimension)) for dimension in (384, 768, 1024, 4096)]
    assert wide == sorted(wide)


def test_users_become_answers_and_instances(tiny_folder: Callable[..., Path]) -> None:
    load = Workload(users=600, questions_per_hour=30, seconds=20, answer_tokens=100)
    assert load.questions_per_second == 5
    assert load.answers_at_once == 100
    plan = planned(tiny_folder("llama"), load, tokens_per_second=60)
    assert plan.tokens_per_second == 500
    assert plan.instances == 9  # ceil(500 / 60); memory is none too small for a tiny model
    assert plan.answers_per_instance is not None
    assert plan.answers_per_instance > 100
    assert plan.read_tokens_per_second[0] < plan.read_tokens_per_second[1]
    assert not [note for note in plan.notes if "by memory alone" in note]
    assert Workload().answers_at_once == 1


@pytest.mark.parametrize("free", [10**6, 10**10])
def test_memory_decides_too(
    free: int, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbce_rag.models.transformers import description

    monkeypatch.setattr(description, "free_bytes", lambda device: free)
    load = Workload(users=10_000, questions_per_hour=36, passages=0)
    plan = planned(tiny_folder("llama"), load)
    assert plan.usable_bytes == round(0.9 * free)
    assert plan.answer_bytes is not None
    fitting = max(0, (plan.usable_bytes - plan.weight_bytes) // plan.answer_bytes)
    assert plan.answers_per_instance == fitting
    if fitting:
        assert plan.instances == -(-load.answers_at_once // fitting)
    else:
        assert plan.instances is None
        assert any("Not one answer fits" in note for note in plan.notes)


def test_a_gguf_file_is_counted_as_it_lies_there(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    path = write_gguf(tmp_path / "tiny.gguf", build_model("llama", len(tokenizer)), tokenizer)
    load = Workload(passages=10)
    packed = planned(path, load, backend="llama.cpp")
    loaded = planned(path, load, backend="transformers")
    assert packed.weight_bytes == path.stat().st_size
    assert loaded.weight_bytes == loaded.model.weight_bytes
    assert any("llama.cpp would keep the weights packed" in note for note in loaded.notes)


def test_what_is_said(tiny_folder: Callable[..., Path]) -> None:
    arguments = ["plan", "--passages", "1000", "--users", "5", "--model", str(tiny_folder("llama"))]
    arguments += ["--answer-tokens", "4000"]
    arguments += ["--device", "cpu", "--dtype", "float32"]
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "1,000 passages of 200 tokens, 5 users" in done.stdout
    for words in ("weights", "at most 26 rows", "free here", "a passage", "on disk", "instances"):
        assert words in done.stdout
    assert "is longer than the model's window" in done.stdout
    assert "1 passage of 200 tokens, 1 user\n" in run("plan", "--passages", "1", *arguments[5:]).stdout
    report = json.loads(run(*arguments, "--json", "--no-kv-sentences").stdout)
    assert report["workload"]["sentences"] is False
    assert report["rows"] == 26
    assert report["kv_bytes"] == 1000 * report["passage_kv_bytes"]
    assert report["model"]["window_bytes"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seconds", "0"), ("--questions-per-hour", "-1"), ("--tokens-per-second", "nan"), ("--dtype", "half")],
)
def test_wrong_numbers_are_one_line(option: str, value: str, tiny_folder: Callable[..., Path]) -> None:
    done = run("plan", "--model", str(tiny_folder("llama")), option, value)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_no_model_there(tmp_path: Path) -> None:
    done = run("plan", "--model", str(tmp_path))
    assert done.exit_code == 2
    assert "holds no config.json" in done.stderr
    done = run("plan", "--backend", "vlm")
    assert done.exit_code == 2
    assert "backend='vlm' is not known" in done.stderr
    with pytest.raises(InputError, match="users=0 is out of range"):
        Workload(users=0)
