"""Contexts into sequences: from the store, byte for byte, or read anew and put there."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...kv.context import Packed
from ...kv.store import ContextStore
from ..model import TokenIds
from .session import Part, Session, TokenSequence

__all__ = ["read_contexts"]

_STATE = "state"


def read_contexts(
    session: Session, contexts: Iterable[TokenIds], store: ContextStore | None, batch_tokens: int
) -> tuple[dict[TokenIds, TokenSequence], set[TokenIds]]:
    """A sequence of each distinct context.

    Args:
        session: where they are to be.
        contexts: token ids; empty ones are skipped.
        store: asked first, and given what was computed: one tensor of bytes, llama.cpp's own.
        batch_tokens: tokens of one pass, at most (a longer context goes alone).

    Returns:
        (sequences by ids, the ids that came from the store).
    """
    sequences: dict[TokenIds, TokenSequence] = {}
    unread: list[TokenIds] = []
    for ids in dict.fromkeys(contexts):
        if not ids:
            continue
        sequence = None if store is None else _restored(session, ids, store)
        if sequence is None:
            unread.append(ids)
        else:
            sequences[ids] = sequence
    reused = set(sequences)
    new = [Part(session.empty(), ids) for ids in unread]
    for _ in session.read(new, batch_tokens):
        pass
    for ids, part in zip(unread, new, strict=True):
        sequences[ids] = part.sequence
        if store is not None:
            store.put(ids, {_STATE: session.save(part.sequence)})
    return sequences, reused


def _restored(session: Session, ids: TokenIds, store: ContextStore) -> TokenSequence | None:
    packed = store.get(ids)
    if packed is None:
        return None
    sequence = session.restored(packed[_STATE], ids) if _fits(packed) else None
    if sequence is None:
        store.drop(ids)
    return sequence


def _fits(packed: Packed) -> bool:
    """Whether it is what this backend keeps; whether the bytes are of this context, llama.cpp sees."""
    return packed.keys() == {_STATE} and packed[_STATE].dtype == torch.uint8 and packed[_STATE].dim() == 1
