"""Where a decoding step spends its time, with and without what this package changes in a model on the CPU.

    python tests/benchmarks/profile_step.py [--passages 10] [--steps 10] [--model FOLDER]

Rows of 150 tokens, torch.profiler, milliseconds a step by kind of operation: linear layers (the output
layer among them), attention, softmax over the vocabulary, and everything else.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from nbce_rag.models.model import RowPrompt
from nbce_rag.models.transformers.loading import load_model
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.template import PromptTemplate

KINDS = {
    "linear layers": ("mm", "addmm", "_linear_pointwise"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "bmm", "_softmax", "masked_fill_"),
    "log-softmax": ("_log_softmax",),
}


def kind_of(operation: str) -> str:
    name = operation.rpartition("::")[2]
    return next((kind for kind, names in KINDS.items() if name in names), "the rest")


def main(arguments: list[str] | None = None) -> dict[bool, dict[str, float]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    options = parser.parse_args(arguments)

    found: dict[bool, dict[str, float]] = {}
    for optimize in (False, True):
        loaded = load_model(options.model, optimize=optimize)
        texts = [
            f"Ship {n} was built in {1800 + n} and sank in 19{n:02}. " * 6 for n in range(options.passages)
        ]
        encoder = PromptEncoder(PromptTemplate.for_tokenizer(loaded.tokenizer), loaded.tokenizer)
        contexts = [encoder.context({}), *(encoder.context({0: encoder.passage_ids(None, t)}) for t in texts)]
        suffix = encoder.suffix("In which year was ship number 3 built?").ids
        rows, [reading] = loaded.open([RowPrompt(tuple(contexts), suffix)], 3 * options.steps + 8)
        log_probs = reading.log_probs
        token = torch.full((len(log_probs), 1), int(log_probs[1].argmax()))
        times = []
        for _ in range(options.steps + 3):
            start = time.perf_counter()
            rows.step(token)
            times.append(time.perf_counter() - start)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(options.steps):
                rows.step(token)
        spent: Counter[str] = Counter()
        for event in profiler.key_averages():
            spent[kind_of(event.key)] += event.self_cpu_time_total / 1e3 / options.steps
        found[optimize] = {"step": 1e3 * statistics.median(times[3:]), **spent}
        del rows, loaded
    print(f"{'ms a step':<16} {'plain':>8} {'changed':>8}")
    for kind in ("step", *KINDS, "the rest"):
        print(f"{kind:<16} {found[False].get(kind, 0.0):>8.1f} {found[True].get(kind, 0.0):>8.1f}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
