"""Longer rows without training: a model's rotary positions stretched by dynamic NTK or YaRN.

The frequencies are those of transformers' own `ROPE_INIT_FUNCTIONS`. They are computed once for the
length of a whole row and then kept, so that every key of the row is turned alike; transformers'
`dynamic` type turns later keys otherwise than earlier ones while a row grows.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ..model import Model
from .model import TransformersModel

__all__ = ["Stretched", "why_not"]


def why_not(model: Model) -> str | None:
    """Why the positions of a model cannot be stretched; None if they can."""
    if not isinstance(model, TransformersModel):
        return f"{model.name!r} is not read by transformers, whose rotary positions alone can be stretched."
    text = model.model.config.get_text_config(decoder=True)
    given = getattr(text, "rope_parameters", None)
    if not given or not _rotary(model.model):
        return f"{model.name!r} ({text.model_type}) has no rotary positions that could be stretched."
    kinds = {name: of_type.get("rope_type", "default") for name, of_type in _by_layer_type(given).items()}
    if not any(_is_global(name) for name in kinds):
        return f"{model.name!r} ({text.model_type}) has sliding windows only; longer rows change nothing."
    if scaled := sorted({kind for name, kind in kinds.items() if _is_global(name) and kind != "default"}):
        return f"{model.name!r} ({text.model_type}) has stretched positions already ({', '.join(scaled)})."
    return None


class Stretched:
    """A model beside the given one, on the same weights, whose rotary positions can be stretched.

    Args:
        model: the model; it stays as it is.
        kind: "dynamic" (dynamic NTK: a larger base, bloc97 and emozilla 2023) or "yarn" (arXiv
            2309.00071), with transformers' defaults.

    Raises:
        InputError: the model's positions cannot be stretched; see `why_not`.
    """

    def __init__(self, model: Model, kind: str) -> None:
        reason = why_not(model)
        if reason or not isinstance(model, TransformersModel):
            raise InputError(reason or "")
        self.kind = kind
        self._loaded = model
        shared = {id(tensor): tensor for tensor in (*model.model.parameters(), *model.model.buffers())}
        self._model = copy.deepcopy(model.model, shared)

    def to(self, length: int, factor: float) -> TransformersModel:
        """The model with a window of `length` tokens, its positions stretched by `factor` >= 1.

        The one of an earlier call changes with it.
        """
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        model = self._loaded
        config = copy.deepcopy(model.model.config.get_text_config(decoder=True))
        nested = _is_nested(config.rope_parameters)
        # Dynamic NTK takes its scale from the length; with its own factor of 1 that is the whole of it.
        numbers = {"factor": 1.0 if self.kind == "dynamic" else factor}
        for layer_type, given in _by_layer_type(config.rope_parameters).items():
            if _is_global(layer_type):
                given |= {
                    "rope_type": self.kind,
                    "original_max_position_embeddings": model.window,
                    **numbers,
                }
        for module in _rotary(self._model):
            for layer_type in _by_layer_type(config.rope_parameters):
                if not _is_global(layer_type):
                    continue
                inverse, scale = ROPE_INIT_FUNCTIONS[self.kind](
                    config,
                    model.device,
                    seq_len=round(factor * model.window),
                    layer_type=layer_type if nested else None,
                )
                prefix = f"{layer_type}_" if nested else ""
                for name in ("inv_freq", "original_inv_freq"):
                    module._buffers[f"{prefix}{name}"] = inverse
                setattr(module, f"{prefix}attention_scaling", scale)
        identity = model.identity.marked(f"{self.kind}|{factor}")
        return replace(model, model=self._model, window=length, identity=identity)


def _rotary(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "rope_type")]


def _is_nested(rope_parameters: dict[str, Any]) -> bool:
    return all(isinstance(value, dict) for value in rope_parameters.values())


def _by_layer_type(rope_parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters by layer type; a model with one kind of layer has them all under one name."""
    return rope_parameters if _is_nested(rope_parameters) else {"full_attention": rope_parameters}


def _is_global(layer_type: str) -> bool:
    """Whether a layer sees the whole row: one with a sliding window never sees a far position."""
    return "sliding" not in layer_type
