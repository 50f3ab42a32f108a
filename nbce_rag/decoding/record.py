"""What the processor has to know of a step before a token is chosen.

On a CPU that is all there already. A GPU is waited for whenever a number of it is looked at, so there
everything is brought over in one copy for all questions: the fused scores, the weights, and what each row
says of the likeliest tokens. Only a token beyond those costs another wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fusion import Fused
from ..fusion.truncation import nucleus

__all__ = ["StepRecord", "read_records"]

_LIKELIEST = 64  # tokens of which every row's log-prob is brought along


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One question's step, on the processor.

    Attributes:
        scores: [V] fused log-probs, normalised.
        weights: [n] of the passage rows, as in `Fused`.
        entropies: [n + 1] of the rows, nats; None where nobody asks.
        rows: [n + 1, V] log-probs, wherever they are.
        likeliest: log-probs [n + 1] of some tokens by every row.
    """

    scores: Tensor
    weights: Tensor
    entropies: Tensor | None
    rows: Tensor
    likeliest: dict[int, Tensor]

    def of_token(self, token: int) -> Tensor:
        """[n + 1] log-probs of a token by every row."""
        if token not in self.likeliest:
            self.likeliest[token] = self.rows[:, token].cpu()
        return self.likeliest[token]


def read_records(steps: Sequence[tuple[Tensor, Fused, bool]]) -> list[StepRecord]:
    """Records of several questions' steps, for one wait.

    Args:
        steps: of each its rows [n + 1, V], the fused scores [V], normalised, with the weights [n], and
            whether entropies are asked for.
    """
    if all(rows.device.type == "cpu" for rows, _, _ in steps):
        return [
            StepRecord(fused.log_probs, fused.weights, nucleus(rows, 1.0)[1] if entropies else None, rows, {})
            for rows, fused, entropies in steps
        ]
    packed = [_packed(rows, fused, entropies) for rows, fused, entropies in steps]
    copied = torch.cat([part for parts in packed for part in parts]).cpu()
    lengths = [part.numel() for parts in packed for part in parts]
    pieces = iter(copied.split(lengths))  # type: ignore[no-untyped-call]
    records = []
    for rows, _, entropies in steps:
        scores, weights, tokens, values = (next(pieces) for _ in range(4))
        of_tokens = values.view(len(rows), -1).unbind(1)
        likeliest = dict(zip(map(int, tokens.tolist()), of_tokens, strict=True))
        records.append(StepRecord(scores, weights, next(pieces) if entropies else None, rows, likeliest))
    return records


def _packed(rows: Tensor, fused: Fused, entropies: bool) -> list[Tensor]:
    """Flat tensors of float32, which holds token ids exactly up to 2^24."""
    tokens = fused.log_probs.topk(min(_LIKELIEST, rows.shape[-1])).indices
    parts = [fused.log_probs, fused.weights, tokens, rows.index_select(1, tokens).flatten()]
    if entropies:
        parts.append(nucleus(rows, 1.0)[1])
    return [part.float() for part in parts]
