"""One pass of new tokens over the cache of some rows."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ...errors import NumericalError
from .base import LoadedModel
from .rows import RowCache

__all__ = ["forward"]


def forward(
    model: LoadedModel,
    cache: RowCache,
    ids: Tensor,
    positions: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Read new tokens; the cache grows by them.

    Args:
        model: the model.
        cache: rows with something or nothing in them.
        ids: [R, T] the new tokens.
        positions: [K] within T whose log-probs are asked for; None is all of them.
        hidden: [Q] within T whose last hidden states are asked for; None asks for none.

    Returns:
        ([R, K, V] log-probs, float32, on the model's device; [R, Q, H] hidden states or None).

    Raises:
        NumericalError: NaN among the logits.
    """
    device, tokens = model.device, ids.shape[1]
    arguments: dict[str, Any] = {}
    whole = positions is None or "logits_to_keep" not in inspect.signature(model.model.forward).parameters
    if not whole and positions is not None:
        arguments["logits_to_keep"] = positions.to(device)
    if hidden is not None:
        arguments["output_hidden_states"] = True
    with model.lock, torch.no_grad():
        output = model.model(
            input_ids=ids.to(device),
            attention_mask=cache.attention_mask(tokens).to(device),
            # Rows of finished questions run along, maybe past the window, where some models have no position.
            position_ids=cache.position_ids(tokens).clamp(max=model.window - 1).to(device),
            past_key_values=cache,
            use_cache=True,
            **arguments,
        )
        logits = output.logits
        if whole and positions is not None:
            logits = logits[:, positions.to(device)]
        log_probs = _log_softmax(logits)
    # One NaN in a row's logits makes its whole log-softmax NaN, so one value a row tells.
    if bool(log_probs[..., 0].isnan().any()):
        raise NumericalError(
            f"{model.name!r} gave NaN instead of probabilities (dtype {model.dtype}); "
            "load it with dtype='float32', or check its weights."
        )
    return log_probs, None if hidden is None else output.hidden_states[-1][:, hidden.to(device)]


def _log_softmax(logits: Tensor) -> Tensor:
    """[..., V] log-probs in float32.

    On the CPU row by row: a copy of all logits in float32 beside the result is memory that the system hands
    out anew at each step, which for 27 rows of a large vocabulary takes five times as long as the arithmetic.
    """
    if logits.device.type != "cpu":
        return logits.float().log_softmax(-1)
    log_probs = torch.empty(logits.shape, dtype=torch.float32)
    rows = logits.reshape(-1, logits.shape[-1])
    for row, target in zip(rows, log_probs.view(rows.shape), strict=True):
        torch.log_softmax(row.float(), -1, out=target)
    return log_probs
