"""Prompts into rows: contexts into one cache, and each question's suffix behind them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import chain

import torch
from torch import Tensor

from ...errors import warn
from ...kv.store import ContextStore
from ..model import Reading, RowPrompt, TokenIds
from .attention import attends_grouped
from .bands import BandedMemory
from .base import LoadedModel
from .cache import RowCache
from .contexts import keep_context, read_anew, stored_contexts
from .forward import check_numbers, forward
from .memory import RowMemory
from .rows import CachedRows, Recording
from .staging import with_room
from .state_rows import StateRows
from .static_step import PlayedStep, can_be_static
from .suffix import read_suffix

__all__ = ["open_rows"]

_SHORT = 128  # tokens of a context that is read with its suffix on a GPU, at most


def open_rows(
    model: LoadedModel,
    prompts: Sequence[RowPrompt],
    room: int,
    store: ContextStore | None,
    batch_tokens: int,
) -> tuple[CachedRows, list[Reading]]:
    """See `nbce_rag.models.model.Model.open`."""
    contexts = [ids for prompt in prompts for ids in prompt.contexts]
    packed, unread = stored_contexts(model, contexts, store)
    reused = set(packed)
    heads = _heads(model, prompts, set(unread), store)
    # All that is read apart, before the rows that it is laid into are there.
    apart = {ids for prompt, some in zip(prompts, heads, strict=True) for ids in _apart(prompt, some)}
    packed |= read_anew(model, [ids for ids in unread if ids in apart], store, batch_tokens)
    longest = max(prompt.longest for prompt in prompts)
    lengths = [len(ids) + len(prompt.suffix) for prompt in prompts for ids in prompt.contexts]
    # All rows end at one column, where the longest prompt ends; or begin at one.
    ends = [longest] * len(contexts) if model.layout.in_step else lengths
    begins = [end - length for end, length in zip(ends, lengths, strict=True)]
    capacity = longest + max(room, *(len(prompt.refusal) for prompt in prompts))
    memory = (BandedMemory if model.is_banded else RowMemory)(begins, capacity, model.layout)
    for row, (ids, head) in enumerate(zip(contexts, chain.from_iterable(heads), strict=True)):
        if ids and not head:
            memory.place(row, packed[ids], len(ids))
    del packed
    readings: list[Reading] = []
    first = 0
    for prompt, some in zip(prompts, heads, strict=True):
        rows = range(first, first + len(prompt.contexts))
        first = rows.stop
        spared = tuple(
            len(ids) if ids in reused and not head else 0
            for ids, head in zip(prompt.contexts, some, strict=True)
        )
        starts = [ends[row] - len(prompt.suffix) for row in rows]
        readings.append(read_suffix(model, memory, rows, starts, prompt, batch_tokens, spared, some))
        for row, start, ids, head in zip(rows, starts, prompt.contexts, some, strict=True):
            if head and store is not None and ids and ids not in reused:
                keep_context(model, ids, memory.cut(row, start, model.staging), store)
    if model.staging is not None:
        # Once for all, when everything is launched.
        check_numbers(model, torch.cat([reading.log_probs for reading in readings]))

    def read(cache: RowCache, ids: Tensor) -> Tensor:
        # A GPU is not waited for at every step; NaN shows in what the rows come to.
        return forward(model, cache, ids, checked=model.device.type == "cpu")[0]

    rows_of = StateRows if model.layout.has_states else CachedRows
    return rows_of(memory, ends, ends, read, _recording(model)), readings


def _heads(
    model: LoadedModel, prompts: Sequence[RowPrompt], unread: Set[TokenIds], store: ContextStore | None
) -> list[list[int]]:
    """Of each prompt's rows: in how many columns before the suffix they are read in one pass with it; 0 where
    their context is read, or was, before.

    A GPU takes longer to be asked for a pass over short contexts, such as sentences, than it takes to do it.
    Not where a store rounds what it keeps: then the suffix has to see what it will see the next time.
    """
    if not _reads_at_once(model) or not (store is None or store.is_exact):
        return [[0] * len(prompt.contexts) for prompt in prompts]
    heads = []
    for prompt in prompts:
        head = max((len(ids) for ids in prompt.contexts if ids in unread), default=0)
        short = head if head <= _SHORT else 0
        heads.append([short if len(ids) <= short else 0 for ids in prompt.contexts])
    return heads


def _apart(prompt: RowPrompt, heads: Sequence[int]) -> list[TokenIds]:
    """The contexts that are not read in one pass with the suffix."""
    return [ids for ids, head in zip(prompt.contexts, heads, strict=True) if not head]


def _reads_at_once(model: LoadedModel) -> bool:
    """Whether rows may begin within a pass, behind tokens that nobody sees."""
    return model.staging is not None and can_be_static(model.layout) and attends_grouped(model.model)


def _recording(model: LoadedModel) -> Recording | None:
    """How steps of the model's rows are recorded, if they are."""
    recorder = model.recorder
    if recorder is None or not can_be_static(model.layout):
        return None

    def record(memory: RowMemory) -> PlayedStep | None:
        if model.recording_failed:
            return None
        try:
            return with_room(
                model.layout.device, lambda: PlayedStep(model, memory, recorder, compiled=model.compiled)
            )
        except torch.OutOfMemoryError:
            return None  # other rows may leave more memory
        except RuntimeError as error:
            model.recording_failed.append(str(error))
            warn(
                f"{model.name!r} cannot be recorded on its device, so every step is launched anew, which "
                f"takes longer: {str(error).splitlines()[0]}"
            )
            return None

    return record
