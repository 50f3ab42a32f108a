"""A step over rows of very different lengths: in bands, and in one tensor as wide as the longest row.

    python tests/benchmarks/bench_bands.py [--steps 12] [--dtype bfloat16] [--model FOLDER]

Ten passages of 512 tokens with sixteen sentences; eight passages of 250 with sixteen sentences and a row of
several passages. Milliseconds of CPU time a step, the median, and the MiB that keys and values take.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from dataclasses import replace

import torch

from nbce_rag.models.model import RowPrompt
from nbce_rag.models.transformers.bands import BandedMemory
from nbce_rag.models.transformers.loading import load_model

ROWS = {
    "10 x 512 and 16 sentences": [4, *[512] * 10, *[60] * 16],
    "8 x 250, 16 sentences, one of 1,700": [4, *[250] * 8, *[60] * 16, 1700],
}


def main(arguments: list[str] | None = None) -> dict[str, list[tuple[float, float]]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    options = parser.parse_args(arguments)

    loaded = load_model(options.model, dtype=options.dtype)
    random.seed(1)
    figures: dict[str, list[tuple[float, float]]] = {}
    print(f"{'rows':<36} {'bands: ms':>10} {'MiB':>6} {'one tensor: ms':>15} {'MiB':>6}")
    for name, lengths in ROWS.items():
        top = min(5000, loaded.vocab_size)
        contexts = tuple(tuple(random.randrange(10, top) for _ in range(length)) for length in lengths)
        prompt = RowPrompt(contexts, tuple(range(20, 36)))
        figures[name] = []
        for band_cost in (loaded.layout.band_cost, None):
            model = replace(loaded, layout=replace(loaded.layout, band_cost=band_cost))
            rows, _ = model.open([prompt], options.steps)
            times = []
            for token in range(options.steps):
                start = time.process_time()
                rows.step(torch.full((len(lengths), 1), 100 + token))
                times.append(1e3 * (time.process_time() - start))
            memory = rows.memory
            parts = [band.memory for band in memory.bands] if isinstance(memory, BandedMemory) else [memory]
            taken = sum(tensor.nbytes for part in parts for layer in part.layers for tensor in layer.values())
            figures[name].append((statistics.median(times), taken / 2**20))
        (bands, small), (tensor, large) = figures[name]
        print(f"{name:<36} {bands:>10.1f} {small:>6.0f} {tensor:>15.1f} {large:>6.0f}")
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
