"""How near reading passages comes to what the machine multiplies at, and where the rest of the time goes.

    python tests/benchmarks/profile_prefill.py [--passages 10] [--tokens 128] [--threads 1] [--model FOLDER]

In one run: passages read as they are ahead of a question, tokens a second; the products of one layer alone,
of the same shapes, at which rate they would be read if nothing else took time; a large square product; and
the passes by kind of operation (torch.profiler). Times are of the processor where there is one thread, so
that a busy machine is no matter.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.transformers.loading import load_model
from nbce_rag.models.transformers.packing import PackedLinear

KINDS = {
    "linear layers": ("mm", "addmm", "_linear_pointwise"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "bmm", "_softmax", "masked_fill_"),
    "copies and casts": ("copy_", "cat", "clone", "fill_"),
    "activations": ("gelu", "silu"),
}
LARGE = 2048  # the square product
REPEATS = 5


def kind_of(operation: str) -> str:
    name = operation.rpartition("::")[2]
    return next((kind for kind, names in KINDS.items() if name in names), "the rest")


def least_seconds(run: Callable[[], object]) -> float:
    """Least of some runs after one that warms up."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    run()
    times = []
    for _ in range(REPEATS):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def products_of(model: nn.Module) -> Counter[tuple[int, int]]:
    """(inputs, outputs) of the linear layers that a passage goes through, and how many there are of each."""
    output = model.get_output_embeddings()  # type: ignore[operator]
    return Counter(
        (layer.in_features, layer.out_features)
        for layer in model.modules()
        if isinstance(layer, (nn.Linear, PackedLinear)) and layer is not output
    )


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128], help="of passages, in turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    loaded = load_model(options.model, dtype=options.dtype)
    rng, most = random.Random(0), min(loaded.vocab_size, 50_000)
    lengths = [options.tokens[number % len(options.tokens)] for number in range(options.passages)]
    passages = [tuple(rng.randrange(most // 2, most) for _ in range(length)) for length in lengths]
    count = sum(lengths)

    def read() -> None:
        loaded.read(passages, PassageKVStore().of(loaded))

    seconds = least_seconds(read)
    products = products_of(loaded.model)
    work = 2 * count * sum(a * b * layers for (a, b), layers in products.items())
    alone = 0.0
    for (inputs, outputs), layers in products.items():
        layer = PackedLinear(torch.randn(outputs, inputs, dtype=loaded.model.dtype), None)
        x = torch.randn(count, inputs, dtype=loaded.model.dtype)
        with torch.no_grad():
            alone += layers * least_seconds(lambda layer=layer, x=x: layer(x))  # type: ignore[misc]
    square = torch.randn(LARGE, LARGE, dtype=loaded.model.dtype)
    rate = 2 * LARGE**3 / least_seconds(lambda: square @ square)

    found = {
        "tokens a second": count / seconds,
        "rate": work / seconds,
        "rate of its products": work / alone,
        "rate of a square product": rate,
    }
    print(f"{count} tokens in {1e3 * seconds:.0f} ms, {count / seconds:.0f} tokens a second")
    print(f"linear layers at {work / seconds / 1e9:.0f} GFLOP/s")
    print(f"their products alone at {work / alone / 1e9:.0f}; reading comes to {alone / seconds:.0%} of that")
    print(f"a product of {LARGE} x {LARGE} at {rate / 1e9:.0f}; to {work / seconds / rate:.0%} of that")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        read()
    spent: Counter[str] = Counter()
    by_operation: Counter[str] = Counter()
    for event in profiler.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
        by_operation[event.key] += event.self_cpu_time_total
    whole = sum(spent.values())
    for kind, micros in spent.most_common():
        print(f"{kind:<18} {micros / whole:>5.0%}")
    print(", ".join(f"{name} {micros / whole:.0%}" for name, micros in by_operation.most_common(12)))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
