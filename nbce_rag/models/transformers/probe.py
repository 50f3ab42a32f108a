"""One pass of two tokens, which tells what the layers of a model keep: no arithmetic on configurations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    LinearAttentionCacheLayerMixin,
)

from ...errors import ModelError
from .devices import execution_device
from .layers import LayerKind, Layout, Part

__all__ = ["probe"]

_ARGUMENTS = ("past_key_values", "cache_params")
_MODULE_STATES = ("conv1d_state", "recurrent_states")


def probe(model: Any, name: str) -> tuple[Layout, int]:
    """What a model keeps, and what it needs while it reads.

    Args:
        model: a transformers causal LM in evaluation mode.
        name: what the user calls it, for messages.

    Returns:
        (what its layers keep, about the bytes that one token takes in a forward pass beside it).

    Raises:
        ModelError: it cannot read two tokens, or keeps something that has no place in rows.
    """
    kind = f"{name!r} ({model.config.model_type})"
    way_out = "Use another model; most decoder-only ones of transformers can be read as rows."
    if any(hasattr(module, state) for module in model.modules() for state in _MODULE_STATES):
        raise ModelError(
            f"{kind} is recurrent and keeps its state in its modules, which all rows would share. {way_out}"
        )
    ids = torch.zeros(1, 2, dtype=torch.long, device=execution_device(model))
    try:
        with _widest_output(model) as widest, torch.no_grad():
            output = model(input_ids=ids, use_cache=True)
    except Exception as error:  # whatever a foreign model raises, it cannot read
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{kind} cannot read two tokens ({type(error).__name__}: {reason}). {way_out}"
        ) from error
    for argument in _ARGUMENTS:
        cache = getattr(output, argument, None)
        if cache is not None:
            break
    else:
        raise ModelError(f"{kind} keeps no keys, values or states that could be given back to it. {way_out}")
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    linear = getattr(cache, "linear_cache", None)  # MiniMax, whose states stand beside the layers
    shared = type(cache).__module__ == "transformers.cache_utils" and isinstance(cache, Cache)
    if not shared and linear is None:
        raise ModelError(
            f"{kind} keeps its state in a {type(cache).__name__} of its own, which cannot be laid out as "
            f"rows. {way_out}"
        )
    kinds = [_kind_of(layer) for layer in cache.layers]
    for number, state in enumerate(linear or ()):
        if isinstance(state, Tensor):
            kinds[number : number + 1] = [LayerKind({"linear": _part(state, None)}, attends=False)]
    if None in kinds:
        layer = type(cache.layers[kinds.index(None)]).__name__
        raise ModelError(
            f"{kind} keeps something in its layers ({layer}) that belongs to no single token and no row, so "
            f"that rows of unequal length cannot be read together. {way_out}"
        )
    width = _width(model) * model.dtype.itemsize
    layout = Layout(tuple(kind for kind in kinds if kind is not None), argument)
    return layout, max(1, 4 * (4 * width + widest[0]))


def _kind_of(layer: Any) -> LayerKind | None:
    """None for a layer whose content is no function of single tokens or of one row."""
    if isinstance(layer, DummyLayer):
        return LayerKind({}, attends=False)
    attends = isinstance(layer, CacheLayerMixin)
    recurrent = isinstance(layer, LinearAttentionCacheLayerMixin)
    # A layer of the model's own may hold anything.
    if type(layer).__module__ != "transformers.cache_utils" or not (attends or recurrent):
        return None
    if getattr(layer, "indexer_position_ids", None) is not None:
        return None
    parts: dict[str, Part] = {}
    for name, tensor, tokens in (
        ("keys", getattr(layer, "keys", None), 1),
        ("values", getattr(layer, "values", None), 1),
        ("index", getattr(layer, "indexer_keys", None), 0),
    ):
        if attends and tensor is not None:
            parts[name] = _part(tensor, tokens)
    count = layer.number_of_states if recurrent else 0
    for number in range(count):
        for name, states in (("conv", layer.conv_states), ("rec", layer.recurrent_states)):
            if states[number] is not None:
                parts[f"{name}.{number}"] = _part(states[number], None)
    window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
    return LayerKind(parts, attends, window, count)


def _part(tensor: Tensor, tokens: int | None) -> Part:
    shape = list(tensor.shape[1:])
    if tokens is not None:
        shape[tokens] = 1
    return Part(tuple(shape), tensor.dtype, tensor.device, tokens)


def _width(model: Any) -> int:
    """Of a token's vector between layers; 0 where the model does not show what makes vectors of tokens."""
    try:
        return int(model.get_input_embeddings().weight.shape[-1])
    except (AttributeError, NotImplementedError):
        return 0


@contextmanager
def _widest_output(model: nn.Module) -> Iterator[list[int]]:
    """A list whose only number becomes the most bytes a token that a module of the model gives meanwhile.

    The output layer, and whatever gives what it gives, is left out: it is run on few tokens.
    """
    widest = [0]
    head = getattr(model, "get_output_embeddings", lambda: None)()

    def watch(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor) and module is not head:
            widest[0] = max(widest[0], output.nbytes // 2)

    hooks = [module.register_forward_hook(watch) for module in model.modules() if module is not model]
    try:
        yield widest
    finally:
        for hook in hooks:
            hook.remove()
