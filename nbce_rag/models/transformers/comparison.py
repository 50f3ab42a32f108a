"""Rows of unequal length against whole passes without anything kept: how far off a model's rows are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model import RowPrompt
from .model import TransformersModel

__all__ = ["CONTEXTS", "row_errors"]

CONTEXTS = (3, 17)
"""Tokens of the contexts of the two rows that are compared."""

_SUFFIX = 5
_STEPS = (1, 3, 1)  # tokens


def row_errors(model: TransformersModel) -> tuple[float, ...]:
    """The largest difference of each row's log-probs, in units of the largest change that its context makes.

    Rounding leaves about 1e-5 in float32; what is wrong is above 0.02, and 1 where a context is lost. NaN
    where either gives NaN.

    Args:
        model: whose contexts, suffix and steps are read; the rows have contexts of `CONTEXTS` tokens.
    """
    generator = torch.Generator().manual_seed(7)
    count = sum(CONTEXTS) + _SUFFIX + sum(_STEPS)
    drawn = torch.randint(3, min(model.vocab_size, 500), (count,), generator=generator).tolist()
    contexts = (tuple(drawn[: CONTEXTS[0]]), tuple(drawn[CONTEXTS[0] : sum(CONTEXTS)]))
    behind = drawn[sum(CONTEXTS) :]
    rows, [reading] = model.open([RowPrompt(contexts, tuple(behind[:_SUFFIX]))], sum(_STEPS))
    parts, first = [reading.log_probs[:, None]], _SUFFIX
    for tokens in _STEPS:
        parts.append(rows.step(torch.tensor([behind[first : first + tokens]] * len(contexts))))
        first += tokens
    ours = torch.cat(parts, 1)
    bare = _whole(model, behind)[_SUFFIX - 1 :]
    errors = []
    for row, context in zip(ours, contexts, strict=True):
        whole = _whole(model, [*context, *behind])[len(context) + _SUFFIX - 1 :]
        effect = (whole - bare).abs().amax().clamp(min=1e-6)
        errors.append(float((row - whole).abs().amax() / effect))
    return tuple(errors)


def _whole(model: TransformersModel, ids: Sequence[int]) -> Tensor:
    """[T, V] log-probs after each token by one pass that keeps nothing."""
    with model.lock, torch.no_grad():
        output = model.model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
        log_probs: Tensor = output.logits[0].float().log_softmax(-1)
        return log_probs
