"""Contexts: what each layer keeps of one, where it comes from, and how it is packed for a store.

Contexts (prefix + passage) are read without padding masks, in length-sorted chunks, or taken from the store.
Layers with a sliding window keep no more of a context than what comes after it can see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from ...kv.context import Packed
from ...kv.store import ContextStore
from ..model import TokenIds
from .base import LoadedModel

__all__ = ["context_bytes", "kept_tokens", "read_contexts", "windows"]

_windows_of: WeakKeyDictionary[Any, tuple[int | None, ...]] = WeakKeyDictionary()


def windows(model: LoadedModel) -> tuple[int | None, ...]:
    """The sliding window of each layer, None where it sees everything; as transformers itself keeps it."""
    cached = _windows_of.get(model.model)
    if cached is None:
        layers: list[Any] = DynamicCache(config=model.model.config).layers
        of_layers = [
            int(layer.sliding_window) if isinstance(layer, DynamicSlidingWindowLayer) else None
            for layer in layers
        ]
        cached = tuple(of_layers) if len(of_layers) == model.layers else (None,) * model.layers
        _windows_of[model.model] = cached
    return cached


def kept_tokens(tokens: int, window: int | None) -> int:
    """Tokens of a context that what follows it can see.

    A window of W tokens counts the current one (transformers' mask: key > query - W), so that the first
    token behind a context sees the last W - 1 of it, and later ones see fewer.
    """
    return tokens if window is None else min(tokens, window - 1)


def context_bytes(model: LoadedModel, tokens: int) -> int:
    """About what the keys and values of a context of so many tokens take."""
    kept = sum(kept_tokens(tokens, window) for window in windows(model))
    return kept * model.kv_bytes // model.layers


def read_contexts(
    model: LoadedModel, contexts: Iterable[TokenIds], store: ContextStore | None, batch_tokens: int
) -> tuple[dict[TokenIds, Packed], set[TokenIds]]:
    """Keys and values of each distinct context.

    Args:
        model: the model.
        contexts: token ids; empty ones are skipped.
        store: asked first, and given what was computed.
        batch_tokens: rows times length of one forward pass, at most (a longer row goes alone).

    Returns:
        (keys and values by ids, the ids that came from the store).
    """
    by_ids: dict[TokenIds, Packed] = {}
    unread: list[TokenIds] = []
    for ids in dict.fromkeys(contexts):
        if not ids:
            continue
        packed = None if store is None else store.get(ids)
        if store is not None and packed is not None and not _fits(packed, len(ids), windows(model)):
            store.drop(ids)
            packed = None
        if packed is None:
            unread.append(ids)
        else:
            by_ids[ids] = _on_devices(model, packed)
    reused = set(by_ids)
    for chunk in _chunks(sorted(unread, key=len), batch_tokens):
        for ids, packed in zip(chunk, _prefill(model, chunk), strict=True):
            by_ids[ids] = packed if store is None else store.put(ids, packed)
    return by_ids, reused


def _prefill(model: LoadedModel, chunk: Sequence[TokenIds]) -> list[Packed]:
    """Keys and values of contexts of similar length in one pass.

    Padding stands behind the tokens, where causal attention never looks, so no mask is needed.
    """
    longest = max(map(len, chunk))
    ids = torch.zeros(len(chunk), longest, dtype=torch.long)
    for row, tokens in enumerate(chunk):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    cache = DynamicCache()
    with model.lock, torch.no_grad():
        # The model without its output layer: nobody asks what follows a passage.
        model.model.base_model(input_ids=ids.to(model.device), past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers  # plain ones: a cache made without a config has no others

    # Copies, so that the store does not keep the whole padded batch alive.
    def cut(states: Tensor, row: int, tokens: int, window: int | None) -> Tensor:
        return states[row, :, tokens - kept_tokens(tokens, window) : tokens].clone()

    return [
        {
            f"{number}.{name}": cut(states, row, len(ids), window)
            for number, (layer, window) in enumerate(zip(layers, windows(model), strict=True))
            for name, states in (("keys", layer.keys), ("values", layer.values))
        }
        for row, ids in enumerate(chunk)
    ]


def _chunks(contexts: Sequence[TokenIds], batch_tokens: int) -> Iterator[list[TokenIds]]:
    """Runs of contexts, sorted by length, whose rows times longest stay within the budget."""
    chunk: list[TokenIds] = []
    for ids in contexts:
        if chunk and (len(chunk) + 1) * len(ids) > batch_tokens:
            yield chunk
            chunk = []
        chunk.append(ids)
    if chunk:
        yield chunk


def _fits(packed: Packed, tokens: int, layers: Sequence[int | None]) -> bool:
    """Whether a stored context has the layers (`windows`) and lengths that the model would give."""
    names = {f"{number}.{name}" for number in range(len(layers)) for name in ("keys", "values")}
    return packed.keys() == names and all(
        packed[f"{number}.keys"].dim() == 3
        and packed[f"{number}.keys"].shape[:2] == packed[f"{number}.values"].shape[:2]
        and packed[f"{number}.keys"].shape[1] == kept_tokens(tokens, window)
        for number, window in enumerate(layers)
    )


def _on_devices(model: LoadedModel, packed: Packed) -> Packed:
    """A context from disk, each layer on the device that computes it."""
    if model.device.type == "cpu" and not hasattr(model.model, "hf_device_map"):
        return packed
    devices = dict.fromkeys(range(model.layers), model.device)
    if hasattr(model.model, "hf_device_map"):  # accelerate spread the model
        for module in model.model.modules():
            layer, parameter = getattr(module, "layer_idx", None), next(module.parameters(), None)
            if layer in devices and parameter is not None and parameter.device.type != "meta":
                devices[layer] = parameter.device
    return {name: tensor.to(devices[int(name.partition(".")[0])]) for name, tensor in packed.items()}
