"""What is compared with: transformers' `generate` on one prompt, and the published loop as it stands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

__all__ = ["Timing", "generate_concatenated", "plain_loop"]


@dataclass(frozen=True)
class Timing:
    """Seconds to the first token, seconds for all, and the tokens; rows that were read and slept."""

    first: float
    total: float
    ids: tuple[int, ...]
    row_steps: int = 0
    slept_row_steps: int = 0


def generate_concatenated(model: Any, prompt: Sequence[int], tokens: int) -> Timing:
    """Greedy `model.generate` over one prompt, exactly `tokens` new tokens.

    The first token is timed by a run of its own, since `generate` returns when all are there.
    """
    ids = torch.tensor([list(prompt)], device=model.device)

    def run(count: int) -> tuple[float, list[int]]:
        config = GenerationConfig(
            max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=True, pad_token_id=0
        )
        start = time.perf_counter()
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return time.perf_counter() - start, output[0, ids.shape[1] :].tolist()

    first, _ = run(1)
    total, answer = run(tokens)
    return Timing(first, total, tuple(answer))


def plain_loop(
    model: Any, rows: Sequence[Sequence[int]], tokens: int, *, beta: float = 0.25, eta: float = 0.1
) -> Timing:
    """The published NBCE loop (kexue.fm/archives/9617 and 9632), written down straightforwardly.

    All rows are padded on the left and read for this question; every step sorts every row's whole
    distribution for top-p, takes the row of least entropy, contrasts it with the row without a passage
    and appends the best token to all rows. The cache is transformers' own.

    Args:
        model: a causal language model.
        rows: token ids of each row's prompt, the row without a passage first.
        tokens: how many to make.
        beta, eta: as in `nbce_rag.fusion.MinEntropy`.
    """
    start = time.perf_counter()
    device = model.device
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, longest - len(row) :] = torch.tensor(list(row))
        mask[place, longest - len(row) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = DynamicCache()
    previous: int | None = None
    answer: list[int] = []
    first = 0.0
    with torch.no_grad():
        while len(answer) < tokens:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            log_probs = _top_p(logits.float().log_softmax(-1), 0.95)
            entropy = -(log_probs.exp() * log_probs.clamp(min=-100)).sum(-1)[1:]
            if previous is not None:
                entropy[previous] -= eta
            previous = int(entropy.argmin())
            pooled, baseline = log_probs[previous + 1], log_probs[0]
            fused = torch.where(baseline.isinf(), pooled, (1 + beta) * pooled - beta * baseline)
            answer.append(int(fused.argmax()))
            first = first or time.perf_counter() - start
            ids = torch.full((len(rows), 1), answer[-1], device=device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
    return Timing(first, time.perf_counter() - start, tuple(answer))


def _top_p(log_probs: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, places = log_probs.sort(dim=-1, descending=True)
    p = ordered.exp()
    removed = p.cumsum(-1) - p >= top_p
    return log_probs.masked_fill(removed.scatter(-1, places, removed), -torch.inf)
