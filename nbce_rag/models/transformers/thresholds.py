"""Lengths beyond which no rows of unequal length can be right; a model's window ends before them.

Beyond them a model turns or scales every token by the longest row of a pass or by the length of the cache,
and what was kept of shorter ones no longer fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["most_tokens"]

_LENGTH_BOUND = ("longrope", "dynamic")


def most_tokens(config: Any) -> int | None:
    """The most tokens of a row for which a model of this configuration can be right; None without a bound.

    Args:
        config: of the text part.
    """
    return min(_bounds(config), default=None)


def _bounds(config: Any) -> Iterator[int]:
    # Positions of the cache, the same for all rows, scale the queries from `floor_scale` on (Llama 4), and
    # from `log_scaling_n_floor` on (Inkling).
    floor = getattr(config, "floor_scale", None)
    if isinstance(floor, int) and getattr(config, "attn_temperature_tuning", True):
        yield floor - 1
    floor = getattr(config, "log_scaling_n_floor", None)
    if isinstance(floor, int):
        yield floor
    # Rotary frequencies follow the longest row of a pass.
    rope = getattr(config, "rope_parameters", None)
    for parameters in _of_layer_types(rope if isinstance(rope, Mapping) else {}):
        if parameters.get("rope_type") in _LENGTH_BOUND:
            original = parameters.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            bound = original or getattr(config, "max_position_embeddings", None)
            if isinstance(bound, int):
                yield bound


def _of_layer_types(rope: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    return nested or [rope]
