"""Prompts into rows: contexts into one cache, and each question's suffix behind them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...errors import warn
from ...kv.store import ContextStore
from ..model import Reading, RowPrompt
from .base import LoadedModel
from .cache import RowCache
from .contexts import read_contexts
from .forward import forward
from .memory import RowMemory
from .rows import CachedRows, Recording
from .state_rows import StateRows
from .static_step import PlayedStep, can_be_static
from .suffix import read_suffix

__all__ = ["open_rows"]


def open_rows(
    model: LoadedModel,
    prompts: Sequence[RowPrompt],
    room: int,
    store: ContextStore | None,
    batch_tokens: int,
) -> tuple[CachedRows, list[Reading]]:
    """See `nbce_rag.models.model.Model.open`."""
    contexts = [ids for prompt in prompts for ids in prompt.contexts]
    packed, reused = read_contexts(model, contexts, store, batch_tokens)
    longest = max(prompt.longest for prompt in prompts)
    lengths = [len(ids) + len(prompt.suffix) for prompt in prompts for ids in prompt.contexts]
    # All rows end at one column, where the longest prompt ends; or begin at one.
    ends = [longest] * len(contexts) if model.layout.in_step else lengths
    begins = [end - length for end, length in zip(ends, lengths, strict=True)]
    capacity = longest + max(room, *(len(prompt.refusal) for prompt in prompts))
    memory = RowMemory(begins, capacity, model.layout)
    for row, ids in enumerate(contexts):
        if ids:
            memory.place(row, packed[ids], len(ids))
    del packed
    readings: list[Reading] = []
    first = 0
    for prompt in prompts:
        rows = range(first, first + len(prompt.contexts))
        first = rows.stop
        spared = tuple(len(ids) if ids in reused else 0 for ids in prompt.contexts)
        starts = [ends[row] - len(prompt.suffix) for row in rows]
        readings.append(read_suffix(model, memory, rows, starts, prompt, batch_tokens, spared))

    def read(cache: RowCache, ids: Tensor) -> Tensor:
        # A GPU is not waited for at every step; NaN shows in what the rows come to.
        return forward(model, cache, ids, checked=model.device.type == "cpu")[0]

    rows_of = StateRows if model.layout.has_states else CachedRows
    return rows_of(memory, ends, ends, read, _recording(model)), readings


def _recording(model: LoadedModel) -> Recording | None:
    """How steps of the model's rows are recorded, if they are."""
    recorder = model.recorder
    if recorder is None or not can_be_static(model.layout):
        return None

    def record(memory: RowMemory) -> PlayedStep | None:
        if model.recording_failed:
            return None
        try:
            return PlayedStep(model, memory, recorder, compiled=model.compiled)
        except RuntimeError as error:
            model.recording_failed.append(str(error))
            warn(
                f"{model.name!r} cannot be recorded on its device, so every step is launched anew, which "
                f"takes longer: {str(error).splitlines()[0]}"
            )
            return None

    return record
