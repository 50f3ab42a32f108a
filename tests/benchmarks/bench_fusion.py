"""How long each fusion rule takes for one decoding step, and what its shortcuts save.

    python tests/benchmarks/bench_fusion.py [--passages 10] [--vocab 262144] [--repeats 30] [--json FILE]
    python tests/benchmarks/bench_fusion.py --model-step [--model FOLDER]

The second form also loads a model (the packaged default), times its own step over as many rows of 150
tokens, and times the rules on the log-probs that it gives.

One question: log-probs [1, passages + 1, vocab], float32. Rows have the long tail of a language model's
distribution; some are nearly certain, some are open, one is so flat that its nucleus holds tens of
thousands of tokens, which is the worst case for top-p without a full sort.

Compared with: the same rule with its nucleus found by sorting every row (min-entropy, mean, max), and the
mixture over the whole vocabulary with the cutoff applied afterwards (posterior). Experts has no shortcut.
That the two agree is checked before they are timed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from nbce_rag.fusion import RULES, Fused, FusionRule, FusionState, Posterior, contrast, responsibilities

NEG_INF = -math.inf
# Zipf exponents of the rows, used in turn: from nearly certain to nearly flat.
EXPONENTS = (2.5, 4.0, 3.0, 1.6, 4.0, 2.5, 5.0, 1.4, 3.0, 4.0, 1.1)


def realistic_log_probs(rows: int, vocab: int, seed: int = 0) -> Tensor:
    """[1, rows, vocab] float32, every row a Zipf law over its own order of the tokens."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.arange(1, vocab + 1, dtype=torch.float64).log()
    favourites = torch.randperm(vocab, generator=generator)
    log_probs = []
    for row in range(rows):
        order = favourites.clone()
        # Rows agree on what is likely, and differ in the order of it.
        head = min(50, vocab)
        order[:head] = order[torch.randperm(head, generator=generator)]
        logits = torch.empty(vocab, dtype=torch.float64)
        logits[order] = -EXPONENTS[row % len(EXPONENTS)] * ranks
        noise = torch.randn(vocab, dtype=torch.float64, generator=generator)
        log_probs.append((logits + 0.3 * noise).log_softmax(-1))
    return torch.stack(log_probs).float()[None]


def sorted_nucleus(log_probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """`nbce_rag.fusion.nucleus` by a full sort of every row."""
    values = log_probs.sort(-1, descending=True).values
    p = values.exp()
    kept = p.cumsum(-1) - p < top_p
    kept[..., 0] = True
    threshold = torch.where(kept, values, math.inf).amin(-1)
    return threshold, -torch.where(values >= threshold[..., None], p * values, 0.0).sum(-1)


def whole_mixture(rule: Posterior, log_probs: Tensor, state: FusionState) -> Fused:
    """`Posterior.fuse` by the mixture over the whole vocabulary."""
    rows, baseline = log_probs[:, 1:], log_probs[:, 0]
    weights = rule.log_prior(state, rows[..., 0]).exp()
    if state.evidence is not None:
        weights = (1 - rule.epsilon) * state.evidence + rule.epsilon * weights
    log_p = (rows + weights.log()[..., None]).logsumexp(1)
    excluded = log_p < log_p.amax(-1, keepdim=True) + math.log(rule.cutoff)
    fused = contrast(log_p, baseline, rule.beta)
    if state.evidence is None:
        others = (1 - weights) / (rows.shape[1] - 1)
        fused = fused + rule.gamma * (log_p - (rows + others.log()[..., None]).logsumexp(1))
    return Fused(fused.masked_fill(excluded, NEG_INF), weights)


def median_ms(step: Callable[[], object], repeats: int) -> float:
    for _ in range(3):
        step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def first_step_state(passages: int) -> FusionState:
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(1, passages, generator=generator) * 0.3 + 0.4
    relevance = torch.randn(1, passages, generator=generator) * 5
    return FusionState(scores=scores, relevance=relevance, refusal=torch.full((1, passages), 0.01))


def measure(rule: FusionRule, log_probs: Tensor, repeats: int) -> dict[str, Any]:
    """Median milliseconds of the first step, of a later step, and of the naive later step."""
    passages = log_probs.shape[1] - 1
    state = first_step_state(passages)
    fused = rule.fuse(log_probs, state)
    token = int(fused.log_probs[0].argmax())
    state.evidence = responsibilities(fused.weights, log_probs[:, 1:, token])

    def naive() -> Fused:
        if isinstance(rule, Posterior):
            return whole_mixture(rule, log_probs, state)
        module = sys.modules[type(rule).__module__]
        with mock.patch.object(module, "nucleus", sorted_nucleus):
            return rule.fuse(log_probs, state)

    result: dict[str, Any] = {
        "rule": rule.name,
        "first_ms": median_ms(lambda: rule.fuse(log_probs, first_step_state(passages)), repeats),
        "step_ms": median_ms(lambda: rule.fuse(log_probs, state), repeats),
        "naive_ms": None,
        "ratio": None,
    }
    if hasattr(rule, "top_p") or isinstance(rule, Posterior):
        fast, slow = rule.fuse(log_probs, state), naive()
        torch.testing.assert_close(fast.weights, slow.weights)
        # A token whose mass falls on the edge itself may fall either way in float32.
        differ = int(((fast.log_probs == NEG_INF) != (slow.log_probs == NEG_INF)).sum())
        if differ > 1e-4 * log_probs.shape[-1] or fast.log_probs.argmax() != slow.log_probs.argmax():
            raise AssertionError(f"{rule!r} differs from its naive version in {differ} tokens")
        result["naive_ms"] = median_ms(naive, max(3, repeats // 3))
        result["ratio"] = result["naive_ms"] / result["step_ms"]
    return result


def model_step(model: str | None, passages: int, repeats: int) -> tuple[float, Tensor]:
    """Median milliseconds of the model's step, and its log-probs [1, passages + 1, vocab] after a prompt."""
    from nbce_rag.models.loading import load_model
    from nbce_rag.models.model import RowPrompt
    from nbce_rag.prompts.encoder import PromptEncoder
    from nbce_rag.prompts.template import PromptTemplate

    loaded = load_model(model)
    encoder = PromptEncoder(PromptTemplate.for_tokenizer(loaded.tokenizer), loaded.tokenizer)
    texts = [f"Ship number {n} was built in {1800 + n} and sank in {1900 + n}. " * 6 for n in range(passages)]
    contexts = [encoder.context({}), *(encoder.context({0: encoder.passage_ids(None, t)}) for t in texts)]
    suffix = encoder.suffix("In which year was ship number 3 built?").ids
    rows, [reading] = loaded.open([RowPrompt(tuple(contexts), suffix)], repeats + 8)
    log_probs = reading.log_probs
    token = torch.full((passages + 1, 1), int(log_probs[1].argmax()))
    return median_ms(lambda: rows.step(token), repeats), log_probs[None]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--vocab", type=int, default=262_144)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--model-step", action="store_true", help="time a model's step too")
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    options = parser.parse_args(arguments)

    step_ms = None
    if options.model_step:
        step_ms, log_probs = model_step(options.model, options.passages, options.repeats)
    else:
        log_probs = realistic_log_probs(options.passages + 1, options.vocab)
    threshold, entropy = sorted_nucleus(log_probs, 0.95)
    sizes = (log_probs >= threshold[..., None]).sum(-1)[0].tolist()
    with torch.inference_mode():
        results = [measure(kind(), log_probs, options.repeats) for kind in RULES.values()]
        softmax_ms = median_ms(lambda: log_probs.log_softmax(-1), options.repeats)

    print(f"log-probs {list(log_probs.shape)}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"entropy of the rows, nats: {' '.join(f'{x:.1f}' for x in entropy[0].tolist())}")
    print(f"tokens in their nuclei:    {' '.join(map(str, sizes))}")
    print(f"log_softmax of all rows, for scale: {softmax_ms:.1f} ms")
    if step_ms is not None:
        print(f"the model's own step: {step_ms:.1f} ms")
    print()
    columns = f"{'first step':>11} {'step':>9} {'naive':>9} {'naive/step':>11} {'of model':>9}"
    print(f"{'rule':<12} {columns}   (median ms)")
    for result in results:
        naive, ratio = ("-", "-")
        if result["naive_ms"] is not None:
            naive, ratio = f"{result['naive_ms']:.1f}", f"{result['ratio']:.1f}"
        first, step = result["first_ms"], result["step_ms"]
        result["share_of_model_step"] = share = None if step_ms is None else step / step_ms
        of_model = "-" if share is None else f"{share:.1%}"
        print(f"{result['rule']:<12} {first:>11.1f} {step:>9.1f} {naive:>9} {ratio:>11} {of_model:>9}")

    report = {
        "shape": list(log_probs.shape),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "repeats": options.repeats,
        "nucleus_sizes": sizes,
        "log_softmax_ms": softmax_ms,
        "model_step_ms": step_ms,
        "rules": results,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
