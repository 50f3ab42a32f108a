"""The benchmark: variants measured in turn, in one run on one machine, and their ratios."""

from __future__ import annotations

import copy
import dataclasses
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from ..checks import Range
from ..engine.nbce import NBCE
from ..errors import NbceWarning
from ..kv.context import Packed
from ..kv.staging import Staging
from ..kv.store import PassageKVStore
from ..models.transformers.loading import load_model
from ..models.transformers.model import TransformersModel
from .baselines import Timing, generate_concatenated, plain_loop
from .llama_cpp import LlamaCppPeer, gguf_of
from .machine import describe, floor_seconds, peak_memory
from .workload import TEMPLATE, Workload, make_workload

__all__ = ["benchmark"]

Progress = Callable[[int, int, str], None]
"""Called with (runs done, runs in all, name of the variant that runs next)."""

ANSWERS = (32, 64, 128, 256)
"""Tokens of the whole answers whose time is reckoned."""


def benchmark(
    model: str | os.PathLike[str] | None = None,
    *,
    passages: int = 10,
    passage_tokens: int = 128,
    question_tokens: int = 16,
    tokens: int = 64,
    repeats: int = 3,
    threads: int | None = None,
    fusion: str = "posterior",
    device: str | None = None,
    dtype: str = "auto",
    peers: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time to the first token, time a token and memory of each variant.

    Variants: `concat`, transformers' `generate` on the concatenated prompt; `plain`, the published loop;
    `one-row`, this engine on the question alone; `cold`, nothing in the KV store; `disk`, passages and their
    sentences in the store's folder only; `ram`, in its memory; and the last three with `+lookup`, drafts by
    prompt lookup. With `peers` also `llama.cpp`, which reads the concatenated prompt from the same GGUF file
    with as many threads, and `llama.cpp+prefix`, where all passages were read before in this order. They take
    turns, so that a busy moment of the machine does not hit one alone; figures are medians.

    Args:
        model: as in `NBCE.from_pretrained`; loaded twice, as transformers made it for the first two variants,
            and as this package does for the others.
        passages, passage_tokens, question_tokens: the work; see `make_workload`.
        tokens: new tokens, at least 2.
        repeats: runs of each variant, at least 1, after one that is not counted.
        threads: torch threads; None leaves them.
        fusion: rule of our variants.
        device, dtype: as in `load_model`.
        peers: whether llama.cpp takes part.
        progress: told how far the run is.

    Returns:
        `machine`, `model`, `settings`, `floor`, `variants` by name (`ttft_s`, `ms_per_token`,
        `tokens_per_s`, `answer_s`: seconds of answers of 32 to 256 tokens, reckoned from these two,
        `peak_bytes` beyond the weights and what the KV store holds, `kv_bytes_per_token`, `row_steps` and
        `slept_row_steps` of an answer, 0 where rows are not counted), `ratios`, and `same_tokens` (whether
        all of our variants gave the same answer).

    Raises:
        InputError: impossible numbers, or peers that cannot read the model.
        MissingDependencyError: llama-cpp-python is not installed, and `peers` is true.
        ModelError: the model cannot be loaded.
    """
    for name, value, least in (("tokens", tokens, 2), ("repeats", repeats, 1), ("threads", threads or 1, 1)):
        Range(least, whole=True).check(name, value)
    if threads is not None:
        torch.set_num_threads(threads)
    gguf = gguf_of(model) if peers else None
    ours = _endless(load_model(model, device=device, dtype=dtype))
    plain = _endless(_plain(ours, model, device, dtype))
    # As transformers made it: its weights are counted, not those of a packed copy.
    weights = {p.data_ptr(): p for p in plain.model.parameters()}.values()
    count, size = sum(p.numel() for p in weights), sum(p.nbytes for p in weights)
    read = plain.model.get_input_embeddings().weight
    if plain.model.get_output_embeddings().weight.data_ptr() != read.data_ptr():
        count, size = count - read.numel(), size - read.nbytes  # a lookup, not a product
    work = make_workload(
        plain.tokenizer, passages=passages, passage_tokens=passage_tokens, question_tokens=question_tokens
    )
    floor = floor_seconds(size, count, passages + 1, plain.device, plain.model.dtype)
    runs: dict[str, list[Timing]] = {}
    peaks: dict[str, list[int]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nbce-rag-bench-"))
        variants = _variants(plain, ours, work, tokens, fusion, Path(folder))
        if gguf is not None:
            longest = len(_whole_prompt(ours, work)) + tokens + 1
            peer = stack.enter_context(closing(LlamaCppPeer(gguf, torch.get_num_threads(), longest)))
            variants |= _peer_variants(peer, ours, work, tokens)
        for turn in range(repeats + 1):
            for place, (name, run) in enumerate(variants.items()):
                if progress is not None:
                    progress(turn * len(variants) + place, (repeats + 1) * len(variants), name)
                with peak_memory(plain.device) as peak:
                    timed = run()
                if turn:  # the first round warms up
                    runs.setdefault(name, []).append(timed)
                    peaks.setdefault(name, []).append(peak.bytes)
    figures = {name: _figures(timed, max(peaks[name]), plain.kv_bytes) for name, timed in runs.items()}
    answers = {timed.ids for name in _OURS for timed in runs[name]}
    return {
        "machine": describe(plain.device),
        "model": plain.name,
        "dtype": plain.dtype,
        "settings": {
            "passages": passages,
            "passage_tokens": passage_tokens,
            "question_tokens": question_tokens,
            "tokens": tokens,
            "repeats": repeats,
            "fusion": fusion,
        },
        "floor": {**floor, "ms_per_step": 1e3 * floor["seconds"], "weight_bytes": size},
        "variants": figures,
        "ratios": _ratios(figures, floor["seconds"]),
        "same_tokens": len(answers) == 1,
    }


_OURS = ("cold", "disk", "ram", "cold+lookup", "disk+lookup", "ram+lookup")


class _ReadAhead(PassageKVStore):
    """Holds what was read before a question came, and nothing that is read for one: each run is the first."""

    is_full = False

    def put(
        self,
        key: str,
        context: Packed,
        label: Mapping[str, str] | None = None,
        tokens: int | None = None,
        staging: Staging | None = None,
    ) -> Packed:
        return context if self.is_full else super().put(key, context, label, tokens, staging)


def _endless(model: TransformersModel) -> TransformersModel:
    """The model without end tokens, so that every variant makes the same number of tokens."""
    generation = getattr(model.model, "generation_config", None)
    if generation is not None:
        generation.eos_token_id = None
    return dataclasses.replace(model, eos_ids=frozenset())


def _plain(
    ours: TransformersModel, model: str | os.PathLike[str] | None, device: str | None, dtype: str
) -> TransformersModel:
    """The model as transformers makes it; of the same weights on a GPU, which may have no room for two."""
    if ours.device.type == "cpu":
        return load_model(model, device=device, dtype=dtype, optimize=False)
    weights = {id(tensor): tensor for tensor in (*ours.model.parameters(), *ours.model.buffers())}
    native = copy.deepcopy(ours.model, weights)
    native.set_attn_implementation("sdpa")
    return dataclasses.replace(ours, model=native, recorder=None)


def _variants(
    plain: TransformersModel, ours: TransformersModel, work: Workload, tokens: int, fusion: str, folder: Path
) -> dict[str, Callable[[], Timing]]:
    in_memory = _ReadAhead()
    for store in (in_memory, _ReadAhead(0, folder)):
        NBCE(ours, prompt=TEMPLATE, fusion=fusion, kv_store=store).prefill(work.passages)
        store.flush()
        store.is_full = True
    memory = NBCE(ours, prompt=TEMPLATE, fusion=fusion, kv_store=in_memory)
    plan = memory._engine.plan(memory.request(work.question, work.passages))
    rows = [[*row.context, *plan.suffix.ids] for row in plan.rows]
    prompt = _whole_prompt(ours, work)

    def on_disk() -> NBCE:
        # A new store each time: what an earlier run left in memory does not count.
        store = _ReadAhead(0, folder)
        store.is_full = True
        return NBCE(ours, prompt=TEMPLATE, fusion=fusion, kv_store=store)

    cold = NBCE(ours, prompt=TEMPLATE, fusion=fusion, kv_store=False)
    variants: dict[str, Callable[[], Timing]] = {
        "concat": lambda: generate_concatenated(plain.model, prompt, tokens),
        "plain": lambda: plain_loop(plain.model, rows, tokens),
        "one-row": lambda: _one_row(cold, work, tokens),
    }
    for name, drafts in (("", 0), ("+lookup", 8)):
        variants[f"cold{name}"] = lambda drafts=drafts: _answer(cold, work, tokens, drafts)  # type: ignore[misc]
        variants[f"disk{name}"] = lambda drafts=drafts: _answer(on_disk(), work, tokens, drafts)  # type: ignore[misc]
        variants[f"ram{name}"] = lambda drafts=drafts: _answer(memory, work, tokens, drafts)  # type: ignore[misc]
    return variants


def _whole_prompt(model: TransformersModel, work: Workload, question: str | None = None) -> list[int]:
    """Token ids of the concatenated prompt."""
    nbce = NBCE(model, prompt=TEMPLATE, kv_store=False)
    count = len(work.passages)
    plan = nbce._engine.plan(nbce.request(question or work.question, work.passages, passages_per_row=count))
    return [*plan.rows[-1].context, *plan.suffix.ids]


def _peer_variants(
    peer: LlamaCppPeer, model: TransformersModel, work: Workload, tokens: int
) -> dict[str, Callable[[], Timing]]:
    prompt, before = _whole_prompt(model, work), _whole_prompt(model, work, "What else?")
    return {
        "llama.cpp": lambda: peer.answer(prompt, tokens),
        "llama.cpp+prefix": lambda: peer.answer(prompt, tokens, before),
    }


def _one_row(nbce: NBCE, work: Workload, tokens: int) -> Timing:
    """The question without any passage, which is what a warning would say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NbceWarning)
        return _answer(nbce, Workload((), work.question), tokens, 0)


def _answer(nbce: NBCE, work: Workload, tokens: int, drafts: int) -> Timing:
    """One question; the first token is timed as a caller sees it, with the planning of rows before it."""
    start = time.perf_counter()
    answer = nbce.answer(
        work.question,
        work.passages,
        max_tokens=tokens,
        prompt_lookup_num_tokens=drafts,
        conflicts=False,
    )
    total = time.perf_counter() - start
    assert answer.timings.first_token is not None
    after = answer.timings.total - answer.timings.first_token
    usage = answer.usage
    ids = tuple(token.id for token in answer.tokens)
    return Timing(total - after, total, ids, usage.row_steps, usage.slept_row_steps)


def _figures(runs: list[Timing], peak: int, kv_bytes: int) -> dict[str, Any]:
    # An answer that goes round in circles is ended before it has all of its tokens.
    seconds = statistics.median((run.total - run.first) / max(1, len(run.ids) - 1) for run in runs)
    first = statistics.median(run.first for run in runs)
    return {
        "ttft_s": first,
        "ms_per_token": 1e3 * seconds,
        "tokens_per_s": 1 / seconds,
        "answer_s": {str(length): first + (length - 1) * seconds for length in ANSWERS},
        "row_steps": runs[-1].row_steps,
        "slept_row_steps": runs[-1].slept_row_steps,
        "peak_bytes": peak,
        "kv_bytes_per_token": kv_bytes,
    }


def _ratios(figures: dict[str, dict[str, Any]], floor: float) -> dict[str, float]:
    first = {name: values["ttft_s"] for name, values in figures.items()}
    further = {name: values["ms_per_token"] for name, values in figures.items()}
    ratios = {
        "ttft_ram_vs_concat": first["concat"] / first["ram"],
        "ttft_disk_vs_concat": first["concat"] / first["disk"],
        "ttft_cold_vs_concat": first["concat"] / first["cold"],
        "ms_per_token_vs_plain": further["plain"] / further["ram"],
        "ms_per_token_lookup_vs_plain": further["plain"] / further["ram+lookup"],
        "ms_per_token_vs_one_row": further["ram"] / further["one-row"],
        "step_vs_floor": further["ram"] / (1e3 * floor),
    }
    if "llama.cpp" in figures:
        for length in ANSWERS:
            ours, theirs = (figures[name]["answer_s"][str(length)] for name in ("ram", "llama.cpp"))
            ratios[f"answer_{length}_vs_llama_cpp"] = ours / theirs
    return ratios
