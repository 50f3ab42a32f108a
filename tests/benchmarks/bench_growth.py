"""How time and memory grow with the number of passages of a question, or of questions at once.

    python tests/benchmarks/bench_growth.py [--passages 10 20 40 80 400] [--tokens 8] [--model FOLDER]
    python tests/benchmarks/bench_growth.py --questions 1 8 16 32 64 --passages 8

With `--questions` each question has passages of its own, and they are asked in one batch.

Every passage is read anew (nothing is kept from question to question). Memory is what the question takes
at its peak beyond the weights. Each size is asked once after a small one that warms up; `--repeats` takes
the median of several. `--cpu` counts the time of the processor, on one thread, for a machine that is busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from nbce_rag import NBCE
from nbce_rag.benchmark.machine import peak_memory
from nbce_rag.benchmark.workload import TEMPLATE, make_workload


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passages", type=int, nargs="+", default=[10, 20, 40, 80, 400])
    parser.add_argument("--questions", type=int, nargs="+", default=[1], help="asked at once")
    parser.add_argument("--passage-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=8, help="new tokens")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--cpu", action="store_true", help="one thread, and the processor's time")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args(arguments)
    if options.cpu:
        torch.set_num_threads(1)
    clock = time.process_time if options.cpu else time.perf_counter

    nbce = NBCE.from_pretrained(
        options.model, dtype=options.dtype, prompt=TEMPLATE, kv_store=False, max_tokens=options.tokens
    )

    def ask(questions: int, count: int) -> tuple[float, int, int]:
        work = [
            make_workload(
                nbce.model.tokenizer,
                passages=count,
                passage_tokens=options.passage_tokens,
                question_tokens=16,
                seed=seed,
            )
            for seed in range(questions)
        ]
        start = clock()
        with peak_memory(torch.device("cpu")) as peak:
            answers = nbce.batch([(one.question, one.passages) for one in work])
        return clock() - start, peak.bytes, sum(one.usage.prompt_tokens for one in answers)

    ask(1, 2)
    rows: list[dict[str, Any]] = []
    print(
        f"{'questions':>9} {'passages':>8} {'prompt tokens':>14} {'seconds':>8} {'ratio':>6} {'peak MiB':>9} "
        f"{'ratio':>6}"
    )
    for questions, count in product(options.questions, options.passages):
        runs = [ask(questions, count) for _ in range(options.repeats)]
        seconds = statistics.median(run[0] for run in runs)
        peak = max(run[1] for run in runs)
        row = {
            "questions": questions,
            "passages": count,
            "prompt_tokens": runs[0][2],
            "seconds": seconds,
            "peak_bytes": peak,
        }
        rows.append(row)
        slower, larger = seconds / rows[0]["seconds"], peak / max(rows[0]["peak_bytes"], 1)
        print(
            f"{questions:>9} {count:>8} {row['prompt_tokens']:>14} {seconds:>8.1f} {slower:>6.1f} "
            f"{peak / 2**20:>9.0f} "
            f"{larger:>6.1f}",
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
