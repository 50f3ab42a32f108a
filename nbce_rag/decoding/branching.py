"""Looking ahead: what would follow each of the first tokens that an answer may begin with?

A small model is often unsure how to begin and sure how to go on, once the beginning is the right one.
So a few beginnings are followed for some tokens, each in the row of the passage that supports it, and
the fusion rule is told how sure that row was on the way. Branching at the first token and believing the
surest branch is due to Wang and Zhou (arXiv 2402.10200).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..models import LoadedModel
from .cache import RowCache
from .prefill import forward

__all__ = ["Branch", "Progress", "follow"]

Progress = Callable[[Sequence[int]], Literal["blank", "open", "ended"]]
"""Tells of the token ids of an answer whether it has no text yet, may go on, or has come to its end."""


@dataclass(slots=True)
class Branch:
    """One beginning, followed.

    Attributes:
        tokens: the first token and those that were the likeliest after it.
        log_probs: of the tokens behind the first, nats.
    """

    tokens: list[int]
    log_probs: list[float]


def follow(
    loaded: LoadedModel,
    cache: RowCache,
    rows: Sequence[int],
    firsts: Sequence[int],
    ended: Sequence[Progress],
    depth: int,
) -> list[Branch]:
    """Go on greedily behind each first token, all in one batch, until the answer ends.

    Args:
        loaded: the model.
        cache: prompts read; left as it is.
        rows: the row of the cache in which each branch grows; repeats allowed.
        firsts: the first token of each.
        ended: tells where each answer ends.
        depth: most tokens of a branch, the first among them; the cache has room for them.
    """
    branches = [Branch([token], []) for token in firsts]
    grown = cache.keep(torch.tensor(list(rows)))
    growing = list(range(len(branches)))
    for _ in range(depth - 1):
        ids = torch.tensor([[branch.tokens[-1]] for branch in branches])
        best = forward(loaded, grown, ids)[:, 0].max(-1)
        for index in growing:
            branches[index].tokens.append(int(best.indices[index]))
            branches[index].log_probs.append(float(best.values[index]))
        growing = [index for index in growing if ended[index](branches[index].tokens) != "ended"]
        if not growing:
            break
    return branches
