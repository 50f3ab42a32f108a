"""A check in place of trust: models whose rows do not give what whole passes give are refused.

Models take the length of a cache for a position, forget a state, or scale by the longest row of a pass, all
without a word. Two rows of unequal length show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...errors import ModelError
from .attention import use_grouped_attention
from .bands import BAND_COST, can_be_banded
from .comparison import CONTEXTS, row_errors
from .layers import Layout
from .model import TransformersModel
from .probe import probe
from .twin import layer_kinds, twins
from .verdicts import Verdict, read_verdict, verdict_key, write_verdict

__all__ = ["checked", "judge"]

_WAY = ("at_once", "in_step", "first_position")
_TOLERANCE = 1e-3  # in float32: what is right was below 1e-4 in every model tried, what is wrong above 0.02
_ROUNDED_TOLERANCE = 0.25  # where only a model in half precision can be had, a lost context alone is seen


def checked(model: TransformersModel) -> TransformersModel:
    """The model, read in a way that is right; the verdict is kept for the next time.

    Raises:
        ModelError: there is none.
    """
    key = verdict_key(model.model)
    verdict = read_verdict(key)
    if verdict is None:
        verdict = judge(model)
        if not verdict.problem:  # which may be no fault of the model, such as memory that was short
            write_verdict(key, verdict)
    if verdict.right:
        way = {name: getattr(verdict, name) for name in _WAY}
        way["band_cost"] = BAND_COST if verdict.banded else None
        window = model.window - verdict.first_position  # places in the table of positions that no row reaches
        return replace(model, layout=replace(model.layout, **way), window=window)
    raise ModelError(
        f"{model.name!r} ({model.model.config.model_type}) cannot be read as rows of unequal length: "
        f"{_difference(verdict)}. Its answers would be wrong without a word. Use another model; "
        "check=False loads it all the same."
    )


def judge(model: TransformersModel) -> Verdict:
    """Compare rows with whole passes: of a float32 twin where one can be built, else of the model itself."""
    kinds = set(layer_kinds(model.model, model.layout))
    for twin in twins(model.model, model.layout):
        try:
            layout, _ = probe(twin, model.name)
        except ModelError:
            continue
        if set(layer_kinds(twin, layout)) == kinds:
            use_grouped_attention(twin)
            vocabulary = twin.config.get_text_config(decoder=True).vocab_size
            return _judge(replace(model, model=twin, layout=layout, vocab_size=vocabulary), _TOLERANCE)
    exact = model.model.dtype in (torch.float32, torch.float64)
    return _judge(model, _TOLERANCE if exact else _ROUNDED_TOLERANCE)


def _judge(model: TransformersModel, tolerance: float) -> Verdict:
    verdicts = []
    for layout in _ways(model):
        verdict = _compare(replace(model, layout=layout), tolerance)
        if verdict.right:
            return verdict
        verdicts.append(verdict)
    return verdicts[0]


def _ways(model: TransformersModel) -> Iterator[Layout]:
    """How rows may be read, the fastest first."""
    for in_step in (True, False):
        for first in (0, *_first_positions(model.model)):
            for at_once in (True, False) if model.layout.has_states else (True,):
                way = replace(model.layout, at_once=at_once, in_step=in_step, first_position=first)
                banded = replace(way, band_cost=0)  # so that the two rows are two bands
                if can_be_banded(way) and replace(model, layout=banded).is_banded:
                    yield banded
                yield way


def _first_positions(model: Any) -> set[int]:
    """RoBERTa and its kin begin behind the place of the padding token in their table of positions."""
    return {
        module.padding_idx + 1
        for module in model.modules()
        if hasattr(module, "position_embeddings") and isinstance(getattr(module, "padding_idx", None), int)
    }


def _compare(model: TransformersModel, tolerance: float) -> Verdict:
    try:
        errors = row_errors(model)
    except Exception as error:  # whatever a foreign model raises, rows are no way for it
        reason = str(error).strip().split("\n")[0]
        return Verdict(False, problem=f"{type(error).__name__}: {reason}")
    right = all(error < tolerance for error in errors)  # False for NaN
    way = {name: getattr(model.layout, name) for name in _WAY}
    banded = model.layout.band_cost is not None
    return Verdict(right, errors=[round(error, 9) for error in errors], banded=banded, **way)


def _difference(verdict: Verdict) -> str:
    if verdict.problem:
        return f"it raises {verdict.problem}"
    rows: Sequence[Any] = [
        f"the row with {tokens} tokens before the question is off by {error:.2g}"
        for tokens, error in zip(CONTEXTS, verdict.errors, strict=True)
    ]
    return f"{' and '.join(rows)}, where 1 is all that its tokens change"
