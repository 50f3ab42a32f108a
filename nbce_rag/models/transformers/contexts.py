"""Contexts: where what is kept of one comes from, and whether what a store gives can be that.

Contexts (prefix + passage) are read in length-sorted chunks, or taken from the store. Layers with a sliding
window keep no more of a context than what comes after it can see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from ...deadline import check_deadline
from ...kv.context import Packed, kinds
from ...kv.store import ContextStore
from ..model import TokenIds
from .base import LoadedModel
from .caches import row_cache
from .forward import row_arguments
from .layers import Layout
from .memory import RowMemory
from .staging import on_device

__all__ = ["keep_context", "read_anew", "read_contexts", "stored_contexts"]

_ENOUGH = 256  # tokens a pass, from which on a CPU multiplies no faster for more
_PADDING = 0.05  # of a pass, at most, where it could be spared
_STATE_BYTES = 1 << 20  # of states a token, at most; a shorter context is read again sooner than it is stored


def read_contexts(
    model: LoadedModel, contexts: Iterable[TokenIds], store: ContextStore | None, batch_tokens: int
) -> tuple[dict[TokenIds, Packed], set[TokenIds]]:
    """What the layers keep of each distinct context.

    Args:
        model: the model.
        contexts: token ids; empty ones are skipped.
        store: asked first, and given what was computed; but not contexts of a few tokens whose states
            take many times what their columns take, such as sentences.
        batch_tokens: rows times length of one forward pass, at most (a longer row goes alone).

    Returns:
        (packed contexts by ids, the ids that came from the store).
    """
    by_ids, unread = stored_contexts(model, contexts, store)
    reused = set(by_ids)
    return {**by_ids, **read_anew(model, unread, store, batch_tokens)}, reused


def read_anew(
    model: LoadedModel, contexts: Sequence[TokenIds], store: ContextStore | None, batch_tokens: int
) -> dict[TokenIds, Packed]:
    """What the layers keep of distinct contexts that no store has; arguments as in `read_contexts`."""
    by_ids: dict[TokenIds, Packed] = {}
    enough = _ENOUGH if model.device.type == "cpu" else batch_tokens
    for chunk in _chunks(sorted(contexts, key=len), batch_tokens, enough):
        check_deadline()
        for ids, packed in zip(chunk, _prefill(model, chunk), strict=True):
            by_ids[ids] = keep_context(model, ids, packed, store)
    return by_ids


def stored_contexts(
    model: LoadedModel, contexts: Iterable[TokenIds], store: ContextStore | None
) -> tuple[dict[TokenIds, Packed], list[TokenIds]]:
    """What a store has of contexts, on its way to a GPU, and the distinct ones that are to be read.

    Args:
        model, contexts, store: as in `read_contexts`.

    Returns:
        (packed contexts by ids, the ids of the others in order).
    """
    by_ids: dict[TokenIds, Packed] = {}
    unread: list[TokenIds] = []
    for ids in dict.fromkeys(contexts):
        if not ids:
            continue
        packed = None if store is None else store.get(ids)
        if store is not None and packed is not None and not _fits(packed, len(ids), model.layout):
            store.drop(ids)
            packed = None
        if packed is None:
            unread.append(ids)
        else:
            by_ids[ids] = packed if model.staging is not None else _on_devices(model.layout, packed)
    return by_ids, unread


def keep_context(model: LoadedModel, ids: TokenIds, packed: Packed, store: ContextStore | None) -> Packed:
    """A context that was read, as the store gives it from now on where it is worth storing."""
    worth = model.state_bytes <= _STATE_BYTES * len(ids)
    return store.put(ids, packed) if store is not None and worth else packed


def _prefill(model: LoadedModel, chunk: Sequence[TokenIds]) -> list[Packed]:
    """Contexts of similar length in one pass.

    Padding stands behind the tokens, where causal attention never looks, so that no mask is needed; in front
    of them where a layer keeps a state, which would go on through what stands behind.
    """
    longest = max(map(len, chunk))
    in_front = [longest - len(tokens) if model.layout.has_states else 0 for tokens in chunk]
    ids = torch.zeros(len(chunk), longest, dtype=torch.long)
    for row, (tokens, begin) in enumerate(zip(chunk, in_front, strict=True)):
        ids[row, begin : begin + len(tokens)] = torch.tensor(tokens)
    memory = RowMemory(in_front, longest, model.layout)
    cache = row_cache(memory, range(len(chunk)), 0, fresh=True)
    arguments: dict[str, Any] = {model.layout.argument: cache}
    if any(in_front):
        mask = cache.attention_mask(longest, model.device)
        arguments = row_arguments(model, cache, longest) | {"attention_mask": mask}
    with model.lock, torch.no_grad():
        # The model without its output layer: nobody asks what follows a passage.
        model.model.base_model(input_ids=on_device(ids, model.device), use_cache=True, **arguments)
        cache.advance(longest)
    # Copies, so that the store does not keep the whole padded batch alive.
    return [
        memory.cut(row, begin + len(tokens), model.staging)
        for row, (tokens, begin) in enumerate(zip(chunk, in_front, strict=True))
    ]


def _chunks(contexts: Sequence[TokenIds], batch_tokens: int, enough: int) -> Iterator[list[TokenIds]]:
    """Runs of contexts, sorted by length, whose rows times longest stay within the budget.

    A run of `enough` tokens ends before a context that would pad it by more than a little.
    """
    chunk: list[TokenIds] = []
    tokens = 0
    for ids in contexts:
        padded = (len(chunk) + 1) * len(ids)
        is_wasteful = tokens >= enough and padded > (1 + _PADDING) * (tokens + len(ids))
        if chunk and (padded > batch_tokens or is_wasteful):
            yield chunk
            chunk, tokens = [], 0
        chunk.append(ids)
        tokens += len(ids)
    if chunk:
        yield chunk


def _fits(packed: Packed, tokens: int, layout: Layout) -> bool:
    """Whether a stored context has the names, shapes and dtypes that the model would give."""
    shapes = {name: (shape, dtype) for name, shape, dtype in layout.shapes(tokens)}
    return dict(kinds(packed)) == shapes


def _on_devices(layout: Layout, packed: Packed) -> Packed:
    """A context from disk, each layer on the device that computes it."""
    devices = {f"{number}.{name}": part.device for number, name, part in layout.parts()}
    return {name: tensor.to(devices[name]) for name, tensor in packed.items()}
