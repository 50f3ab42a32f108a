"""What of a context each layer keeps, where, and for which model: known from the model alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from ...kv.context import ContextKV
from .loading import LoadedModel

__all__ = ["context_bytes", "fits", "kept_tokens", "label_of", "on_devices", "windows"]

_windows_of: WeakKeyDictionary[Any, tuple[int | None, ...]] = WeakKeyDictionary()


def windows(loaded: LoadedModel) -> tuple[int | None, ...]:
    """The sliding window of each layer, None where it sees everything; as transformers itself keeps it."""
    known = _windows_of.get(loaded.model)
    if known is None:
        layers: list[Any] = DynamicCache(config=loaded.model.config).layers
        found = [
            int(layer.sliding_window) if isinstance(layer, DynamicSlidingWindowLayer) else None
            for layer in layers
        ]
        known = tuple(found) if len(found) == loaded.layers else (None,) * loaded.layers
        _windows_of[loaded.model] = known
    return known


def kept_tokens(tokens: int, window: int | None) -> int:
    """Tokens of a context that what follows it can see.

    A window of W tokens counts the current one (transformers' mask: key > query - W), so that the first
    token behind a context sees the last W - 1 of it, and later ones see fewer.
    """
    return tokens if window is None else min(tokens, window - 1)


def context_bytes(loaded: LoadedModel, tokens: int) -> int:
    """About what the keys and values of a context of so many tokens take."""
    kept = sum(kept_tokens(tokens, window) for window in windows(loaded))
    return kept * loaded.kv_bytes // loaded.layers


def label_of(loaded: LoadedModel) -> dict[str, str]:
    """What stored contexts say of the model that they come from."""
    dtype = str(loaded.dtype).removeprefix("torch.")
    return {"fingerprint": loaded.fingerprint, "model": loaded.name, "dtype": dtype}


def fits(context: ContextKV, tokens: int, layers: Sequence[int | None]) -> bool:
    """Whether a stored context has the layers (`windows`) and lengths that the model would give."""
    return len(context) == len(layers) and all(
        keys.dim() == 3
        and keys.shape[:2] == values.shape[:2]
        and keys.shape[1] == kept_tokens(tokens, window)
        for (keys, values), window in zip(context, layers, strict=True)
    )


def on_devices(loaded: LoadedModel, context: ContextKV) -> ContextKV:
    """A context from disk, each layer on the device that computes it."""
    if loaded.device.type == "cpu" and not hasattr(loaded.model, "hf_device_map"):
        return context
    devices = dict.fromkeys(range(len(context)), loaded.device)
    if hasattr(loaded.model, "hf_device_map"):  # accelerate spread the model
        for module in loaded.model.modules():
            layer, parameter = getattr(module, "layer_idx", None), next(module.parameters(), None)
            if layer in devices and parameter is not None and parameter.device.type != "meta":
                devices[layer] = parameter.device
    return tuple((keys.to(devices[i]), values.to(devices[i])) for i, (keys, values) in enumerate(context))
