"""The same GGUF file read by llama.cpp and by transformers, in turns.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_llama_cpp.py [--model FILE] [--passages 10] [--cpu]

The first token with nothing stored and from memory, and a token after it, without drafts; the least of
several turns. `--cpu` counts seconds of the processor, for machines that others use too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbce_rag import NBCE, PassageKVStore
from nbce_rag.benchmark.workload import TEMPLATE, make_workload

VARIANTS: dict[str, dict[str, Any]] = {
    "llama.cpp": {"backend": "llama.cpp"},
    "transformers": {"backend": "transformers"},
    "transformers float32": {"backend": "transformers", "dtype": "float32"},
}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", help="GGUF file; default: the packaged model")
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--passage-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16, help="new tokens")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--fusion", default="min-entropy", help="rule; posterior adds rows of sentences")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    clock = time.process_time if options.cpu else time.perf_counter

    engines = {
        name: NBCE.from_pretrained(
            options.model,
            prompt=TEMPLATE,
            fusion=options.fusion,
            prompt_lookup_num_tokens=0,
            **loading,
        )
        for name, loading in VARIANTS.items()
    }
    least: dict[str, dict[str, float]] = {name: {} for name in engines}
    for _ in range(options.turns):
        for name, nbce in engines.items():
            for figure, seconds in _turn(nbce, options, clock).items():
                least[name][figure] = min(seconds, least[name].get(figure, seconds))
    print(f"{'':<22} {'nothing stored, s':>18} {'from memory, s':>15} {'ms a token':>11}")
    for name, figures in least.items():
        print(f"{name:<22} {figures['cold']:>18.2f} {figures['warm']:>15.2f} {1e3 * figures['token']:>11.0f}")
    if options.json is not None:
        options.json.write_text(json.dumps(least, indent=2) + "\n", encoding="utf-8")
    return least


def _turn(nbce: NBCE, options: Any, clock: Callable[[], float]) -> dict[str, float]:
    work = make_workload(
        nbce.model.tokenizer,
        passages=options.passages,
        passage_tokens=options.passage_tokens,
        question_tokens=16,
    )
    fresh = nbce.updated(kv_store=PassageKVStore())

    def ask(tokens: int) -> tuple[float, int]:
        start = clock()
        answer = fresh.answer(work.question, work.passages, max_tokens=tokens)
        return clock() - start, len(answer.tokens)

    cold, _ = ask(1)
    warm, _ = ask(1)
    whole, count = ask(options.tokens)
    return {"cold": cold, "warm": warm, "token": (whole - warm) / max(1, count - 1)}


if __name__ == "__main__":
    main(sys.argv[1:])
