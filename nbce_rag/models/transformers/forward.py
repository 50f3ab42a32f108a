"""One pass of new tokens over the cache of some rows."""

from __future__ import annotations

import inspect
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...errors import NumericalError
from .base import LoadedModel
from .cache import RowCache
from .staging import on_device

__all__ = ["check_numbers", "forward", "row_arguments", "write_ids"]

_WRITTEN = 16  # tokens a row that are written rather than copied


def forward(
    model: LoadedModel,
    cache: RowCache,
    ids: Tensor,
    positions: Tensor | None = None,
    hidden: Tensor | None = None,
    checked: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Read new tokens; the cache grows by them.

    Args:
        model: the model.
        cache: rows with something or nothing in them.
        ids: [R, T] the new tokens.
        positions: [K] within T whose log-probs are asked for; None is all of them.
        hidden: [Q] within T whose last hidden states are asked for; None asks for none.
        checked: whether to look for NaN, for which a GPU is waited for.

    Returns:
        ([R, K, V] log-probs, float32, on the model's device; [R, Q, H] hidden states or None).

    Raises:
        NumericalError: NaN among the logits, where that is looked for.
    """
    if ids.shape[1] > 1 and not model.layout.at_once:
        return _one_by_one(model, cache, ids, positions, hidden, checked)
    device, tokens = model.device, ids.shape[1]
    arguments: dict[str, Any] = row_arguments(model, cache, tokens)
    whole = positions is None or "logits_to_keep" not in inspect.signature(model.model.forward).parameters
    if not whole and positions is not None:
        arguments["logits_to_keep"] = on_device(positions, device)
    if hidden is not None:
        arguments["output_hidden_states"] = True
    with model.lock, torch.no_grad():
        output = model.model(input_ids=_on(device, ids), use_cache=True, **arguments)
        cache.advance(tokens)
        logits = output.logits
        if whole and positions is not None:
            logits = logits[:, on_device(positions, device)]
        log_probs = _log_softmax(logits)
    if checked:
        check_numbers(model, log_probs)
    return log_probs, None if hidden is None else output.hidden_states[-1][:, on_device(hidden, device)]


def check_numbers(model: LoadedModel, log_probs: Tensor) -> None:
    """Raises NumericalError where log-probs [..., V] are NaN; a GPU is waited for."""
    # One NaN in a row's logits makes its whole log-softmax NaN, so one value a row tells.
    if bool(log_probs[..., 0].isnan().any()):
        raise NumericalError(
            f"{model.name!r} gave NaN instead of probabilities (dtype {model.dtype}); "
            "load it with dtype='float32', or check its weights."
        )


def row_arguments(model: LoadedModel, cache: RowCache, tokens: int) -> dict[str, Any]:
    """Arguments of a forward pass of so many new tokens that say which rows they go into."""
    arguments: dict[str, Any] = {model.layout.argument: cache}
    if model.layout.has_columns:  # elsewhere there is nothing to mask, and no position
        arguments["attention_mask"] = cache.attention_mask(tokens, model.device)
        # Rows of finished questions run along, maybe past the window, where some models have no position.
        positions = cache.position_ids(tokens, model.device).clamp(max=model.window - 1)
        arguments["position_ids"] = positions + model.layout.first_position
    return arguments


def _on(device: torch.device, ids: Tensor) -> Tensor:
    """Token ids [R, T] on a device. Those of a step are written there by what launches take along."""
    if device.type == "cpu" or ids.device.type != "cpu" or ids.shape[1] > _WRITTEN:
        return on_device(ids, device)
    there = torch.empty(ids.shape, dtype=torch.long, device=device)
    write_ids(there, ids)
    return there


def write_ids(there: Tensor, ids: Tensor) -> None:
    """Write token ids [R, T] into a tensor of a device by what launches take along: runs of equal rows."""
    first = 0
    for tokens, some in groupby(ids.tolist()):
        last = first + len(list(some))
        for place, token in enumerate(tokens):
            there[first:last, place] = token
        first = last


def _one_by_one(
    model: LoadedModel,
    cache: RowCache,
    ids: Tensor,
    positions: Tensor | None,
    hidden: Tensor | None,
    checked: bool,
) -> tuple[Tensor, Tensor | None]:
    """For models that forget their state when they are given several tokens."""
    first = None if hidden is None else torch.zeros(1, dtype=torch.long)
    passes = [forward(model, cache, token[:, None], None, first, checked) for token in ids.unbind(1)]
    places = range(len(passes)) if positions is None else positions.tolist()
    log_probs = torch.cat([passes[place][0] for place in places], 1)
    if hidden is None:
        return log_probs, None
    states = [state for _, state in passes if state is not None]
    return log_probs, torch.cat([states[place] for place in hidden.tolist()], 1)


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
