"""A small float32 model of the same code and configuration, with weights under which every context matters.

Whether rows give what whole passes give depends on a model's code and configuration, not on its weights. So
it is tried on a twin: one layer of each kind at full width, few experts, a small vocabulary, short windows,
and no flat weights behind which a lost context could hide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from .layers import Layout

__all__ = ["layer_kinds", "twins"]

_VOCABULARY = 512
_INNER = 64
_EXPERTS = 8
_WINDOW = 16
_FLAT = 0.05
_STD = 0.12

_DROPPED = (
    "quantization_config",
    "dtype",
    "torch_dtype",
    "_name_or_path",
    "auto_map",
    "transformers_version",
)
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_USED = ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k")
_GROUPS = ("n_group", "topk_group")
_WINDOWS = ("sliding_window", "sliding_window_size", "attention_chunk_size", "local_attention")
_DEPTHS = ("num_hidden_layers", "depth", "num_layers", "n_layers", "n_layer")


def twins(model: Any, layout: Layout) -> Iterator[Any]:
    """Twins of a transformers causal LM, on the CPU in evaluation mode, the smallest first.

    Args:
        model: it stays as it is.
        layout: what its layers keep.

    Yields:
        Those that can be built; none where the code does not build from a configuration.
    """
    text = model.config.get_text_config(decoder=True)
    kinds = layer_kinds(model, layout)
    first = sorted({kind: place for place, kind in reversed(list(enumerate(kinds)))}.values())
    some = first if len(first) > 1 else [0, 1][: len(kinds)]
    prefix = list(range(max(max(first), min(1, len(kinds) - 1)) + 1))
    every = list(range(len(kinds)))
    for layers, widths in ((some, True), (prefix, True), (prefix, False), (every, False)):
        for architecture, config in _configs(model, text, layers, widths):
            twin = _build(architecture, config)
            if twin is not None:
                yield twin


def layer_kinds(model: Any, layout: Layout) -> list[str]:
    """What tells the layers of a model apart: what they keep, and of what they are made."""
    count = len(layout.layers)
    made_of: list[list[str]] = [[]] * count
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            # Of the model's own classes alone: those of linear layers change where weights are quantised.
            made_of = [
                sorted({type(part).__name__ for part in layer.modules() if ".mod" in type(part).__module__})
                for layer in module
            ]
            break
    types = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()
    types = types if len(types) == count else [""] * count
    return [
        f"{[(name, part.shape) for name, part in kind.parts.items()]} {kind.window is None} {type_} {names}"
        for kind, type_, names in zip(layout.layers, types, made_of, strict=True)
    ]


def _configs(model: Any, text: Any, layers: list[int], widths: bool) -> Iterator[tuple[Any, Any]]:
    """(architecture, configuration) with these layers; of the whole model, then of its text part alone."""
    small = _small(text.to_dict(), layers, widths)
    whole = model.config.to_dict()
    parts = [name for name, value in whole.items() if isinstance(value, Mapping) and name.endswith("_config")]
    place = next((name for name in parts if getattr(model.config, name) is text), None)
    try:
        if place is None:
            yield type(model), type(text).from_dict(small)
            return
        rest = {
            name: _tower(value) if name in parts else value
            for name, value in whole.items()
            if name not in _DROPPED
        }
        yield type(model), type(model.config).from_dict(rest | {place: small})
        if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
            yield MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], type(text).from_dict(small)
    except Exception:  # a configuration that does not let itself be made smaller
        return


def _small(config: Mapping[str, Any], layers: list[int], widths: bool) -> dict[str, Any]:
    """A configuration of these layers only."""
    count = next((int(config[name]) for name in _DEPTHS if config.get(name)), len(layers))
    vocabulary = config.get("vocab_size")
    positions = config.get("max_position_embeddings") or math.inf
    small = {}
    for name, value in config.items():
        if name in _DROPPED:
            continue
        if isinstance(value, (list, tuple)) and len(value) == count and max(layers) < count:
            value = [value[layer] for layer in layers]
        if name in _DEPTHS:
            value = len(layers)
        elif name == "num_kv_shared_layers" and value:
            value = sum(layer >= count - value for layer in layers)
        elif name == "per_layer_config" and value:
            of_layer = {int(layer): own for layer, own in value.items()}
            value = {str(new): of_layer[old] for new, old in enumerate(layers) if old in of_layer}
        elif name == "first_k_dense_replace" and value:
            value = sum(layer < value for layer in layers)
        elif name.endswith("token_id"):
            value = _token(value)
        elif isinstance(value, int) and value == vocabulary:
            value = min(value, _VOCABULARY)
        elif widths and not (name in _WINDOWS and isinstance(value, int) and value >= positions):
            value = _narrow(name, value)  # but a window that no row leaves
        small[name] = value
    return small


def _narrow(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_narrow(name, one) for one in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if "intermediate_size" in name:
        return min(value, _INNER)
    if name in _EXPERT_COUNTS or name in _EXPERTS_USED:
        return min(value, _EXPERTS)
    if name in _GROUPS:
        return min(value, 1)
    return min(value, _WINDOW) if name in _WINDOWS else value


def _token(value: Any) -> Any:
    if isinstance(value, list):
        return [_token(one) for one in value]
    return value if not isinstance(value, int) or value < _VOCABULARY else 1


def _tower(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of pictures or sounds, which nobody will show it."""
    return {name: 1 if name in _DEPTHS and value else value for name, value in config.items()}


def _build(architecture: Any, config: Any) -> Any | None:
    """None where the code refuses the configuration, or where there is no memory for it."""
    if _float32_bytes(architecture, config) > psutil.virtual_memory().available // 2:
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            twin = architecture(config).float().eval()
            with torch.no_grad():
                for parameter in twin.parameters():
                    if parameter.dim() >= 2 and float(parameter.std()) < _FLAT:
                        parameter.normal_(0.0, min(_STD, 1 / math.sqrt(parameter.shape[-1])))
    except Exception:  # whatever foreign code raises, it is no twin
        return None
    return twin


def _float32_bytes(architecture: Any, config: Any) -> int:
    """Of the weights; 0 where they cannot be counted without being made."""
    try:
        with torch.device("meta"):
            numbers: int = sum(parameter.numel() for parameter in architecture(config).parameters())
            return 4 * numbers
    except Exception:
        return 0
