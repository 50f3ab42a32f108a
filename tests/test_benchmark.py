"""`nbce-rag bench`: its work, its baselines, its figures and its command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import PASSAGES, QUESTION, TEMPLATE, greedy_by_transformers, prompt_ids, row_prompts
from tiny_models import build_tokenizer
from typer.testing import CliRunner

from nbce_rag import NBCE, MinEntropy
from nbce_rag.benchmark import machine, run, workload
from nbce_rag.benchmark.baselines import Timing, generate_concatenated, plain_loop
from nbce_rag.benchmark.machine import floor_seconds, peak_memory
from nbce_rag.benchmark.run import benchmark
from nbce_rag.benchmark.workload import make_workload
from nbce_rag.cli.main import app
from nbce_rag.errors import InputError
from nbce_rag.models.transformers.loading import load_model
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer

Make = Callable[..., NBCE]
VARIANTS = ["concat", "plain", "one-row", "cold", "disk", "ram", "cold+lookup", "disk+lookup", "ram+lookup"]
RATIOS = {
    "ttft_ram_vs_concat",
    "ttft_disk_vs_concat",
    "ttft_cold_vs_concat",
    "ms_per_token_vs_plain",
    "ms_per_token_lookup_vs_plain",
    "ms_per_token_vs_one_row",
    "step_vs_floor",
}
SMALL: dict[str, Any] = {
    "passages": 3,
    "passage_tokens": 30,
    "question_tokens": 6,
    "tokens": 5,
    "repeats": 1,
}


def test_passages_and_question_have_the_lengths_asked_for() -> None:
    tokenizer = TransformersTokenizer(build_tokenizer())
    work = make_workload(tokenizer, passages=4, passage_tokens=64, question_tokens=9)

    def length(text: str) -> int:
        return len(tokenizer.encode(text))

    # Cut and read again, the last token may be spelled by another.
    assert all(abs(length(passage.text) - 64) <= 1 for passage in work.passages)
    assert abs(length(work.question) - 9) <= 1
    assert work.passages[2].text.startswith(work.question)
    assert len({passage.text for passage in work.passages}) == 4
    assert work == make_workload(tokenizer, passages=4, passage_tokens=64, question_tokens=9)
    assert work != make_workload(tokenizer, passages=4, passage_tokens=64, question_tokens=9, seed=1)
    for impossible in ((0, 10, 2), (1, 10, 6), (1, 10, 0)):
        with pytest.raises(InputError):
            make_workload(
                tokenizer,
                passages=impossible[0],
                passage_tokens=impossible[1],
                question_tokens=impossible[2],
            )


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_the_plain_loop_is_min_entropy(
    family: str, make_nbce: Make, tiny_folder: Callable[..., Path]
) -> None:
    """What is compared with does the same as ours, token by token."""
    nbce = make_nbce(family, prompt=TEMPLATE, fusion=MinEntropy())
    answer = nbce.answer(QUESTION, PASSAGES, max_tokens=10)
    plain = load_model(tiny_folder(family), device="cpu", dtype="float32", optimize=False)
    timed = plain_loop(plain.model, row_prompts(nbce, QUESTION, PASSAGES), 10)
    ours = [token.id for token in answer.tokens]
    assert [id_ for id_ in timed.ids if id_ in ours][: len(ours)] == ours
    assert len(timed.ids) == 10
    assert 0 < timed.first < timed.total


def test_the_concatenated_prompt_is_generate(make_nbce: Make, tiny_folder: Callable[..., Path]) -> None:
    nbce = make_nbce("llama", prompt=TEMPLATE)
    plain = run._endless(load_model(tiny_folder("llama"), device="cpu", dtype="float32", optimize=False))
    prompt = prompt_ids(nbce, QUESTION, PASSAGES)
    timed = generate_concatenated(plain.model, prompt, 8)
    assert (
        list(timed.ids)[: len(wanted)] == wanted
        if (wanted := greedy_by_transformers(nbce, prompt, 8))
        else True
    )
    assert len(timed.ids) == 8  # no end token stops it


def test_an_answer_that_ended_early_is_divided_by_its_own_tokens() -> None:
    runs = [
        Timing(1.0, 4.0, (1, 2, 3, 4), 3, 0),
        Timing(2.0, 2.5, (1,), 0, 0),
        Timing(1.0, 9.0, (1, 2), 1, 0),
    ]
    figures = run._figures(runs, 0, 1)
    assert figures["ms_per_token"] == 1000.0
    assert figures["answer_s"]["64"] == 64.0


def test_the_report(tiny_folder: Callable[..., Path]) -> None:
    seen: list[tuple[int, int, str]] = []
    report = benchmark(tiny_folder("gemma3"), progress=lambda *now: seen.append(now), **SMALL)
    assert list(report["variants"]) == VARIANTS
    assert set(report["ratios"]) == RATIOS
    for figures in report["variants"].values():
        assert figures["ttft_s"] > 0
        assert figures["tokens_per_s"] == pytest.approx(1000 / figures["ms_per_token"])
        assert figures["peak_bytes"] >= 0
        assert figures["kv_bytes_per_token"] > 0
    first = {name: figures["ttft_s"] for name, figures in report["variants"].items()}
    assert report["ratios"]["ttft_disk_vs_concat"] == pytest.approx(first["concat"] / first["disk"])
    assert report["same_tokens"]
    for figures in report["variants"].values():
        assert figures["answer_s"]["64"] == pytest.approx(
            figures["ttft_s"] + 63 * figures["ms_per_token"] / 1000
        )
    rows = SMALL["passages"] + 1
    assert report["variants"]["ram"]["row_steps"] >= rows * (SMALL["tokens"] - 1)
    assert report["variants"]["one-row"]["row_steps"] == SMALL["tokens"] - 1
    assert [done for done, _, _ in seen] == list(range(18))
    assert {total for _, total, _ in seen} == {18}
    json.dumps(report, allow_nan=False)


def test_each_variant_reads_what_its_name_says(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[bool, str, int]] = []
    ask = run._answer

    def watched(nbce: NBCE, work: Any, tokens: int, drafts: int) -> Timing:
        if not work.passages:
            return ask(nbce, work, tokens, drafts)
        answer = nbce.answer(work.question, work.passages, max_tokens=1)
        where = "none" if nbce.kv_store is None else "disk" if nbce.kv_store.folder else "memory"
        answers.append((answer.usage.cached_tokens > 0, where, drafts))
        return ask(nbce, work, tokens, drafts)

    monkeypatch.setattr(run, "_answer", watched)
    benchmark(tiny_folder("llama"), **SMALL)
    one_turn = [(where != "none", where, drafts) for drafts in (0, 8) for where in ("none", "disk", "memory")]
    assert answers == one_turn * 2


@pytest.mark.packaged
def test_peers_read_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    small: dict[str, Any] = SMALL | {"passages": 2, "tokens": 3}
    report = benchmark(peers=True, **small)
    assert list(report["variants"]) == [*VARIANTS, "llama.cpp", "llama.cpp+prefix"]
    assert report["ratios"]["answer_64_vs_llama_cpp"] > 0
    ours, theirs = (report["variants"][name]["answer_s"]["64"] for name in ("ram", "llama.cpp"))
    assert report["ratios"]["answer_64_vs_llama_cpp"] == pytest.approx(ours / theirs)


def test_peers_need_a_gguf_file() -> None:
    with pytest.raises(InputError, match="is none; leave out --peers"):
        benchmark("a-folder", peers=True, **SMALL)


def test_impossible_numbers_are_refused_before_a_model_is_loaded() -> None:
    for name in ("tokens", "repeats", "threads"):
        impossible: dict[str, Any] = {name: -1}
        with pytest.raises(InputError, match=name):
            benchmark("no such model", **impossible)


def test_the_floor_is_the_longer_of_reading_and_multiplying() -> None:
    few = floor_seconds(10**9, 10**6, 1, torch.device("cpu"), torch.float32)
    assert few["seconds"] == pytest.approx(10**9 / few["bandwidth"])
    many = floor_seconds(10**3, 10**9, 10**4, torch.device("cpu"), torch.float32)
    assert many["seconds"] == pytest.approx(2 * 10**13 / many["rate"])


def test_peak_memory_sees_what_was_freed_again() -> None:
    with peak_memory(torch.device("cpu")) as peak:
        block = torch.ones(64 * 2**20)
        del block
    assert peak.bytes > 100 * 2**20  # looked at every few milliseconds, so perhaps not at its highest
    with peak_memory(torch.device("cpu")) as little:
        pass
    assert little.bytes < 50 * 2**20


def test_the_command(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    runner = CliRunner()
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    model = str(tiny_folder("qwen3"))
    out = tmp_path / "bench.json"
    done = runner.invoke(app, ["bench", "--model", model, "--json", str(out), *options])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines() if line.split()[0] in VARIANTS] == VARIANTS
    assert set(json.loads(out.read_text())["ratios"]) == RATIOS
    wrong = runner.invoke(
        app, ["bench", "--model", model, "--json", str(tmp_path / "no" / "b.json"), *options]
    )
    assert wrong.exit_code == 2
    assert "does not exist" in wrong.stderr
    assert machine.describe(torch.device("cpu"))["threads"] >= 1
    assert workload.TEMPLATE.stop == ()
