"""Contexts read a few at a time, between steps of answers that are being written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..kv.context import Packed
from ..kv.store import ContextStore
from ..models.model import Model, Reading, RowPrompt, TokenIds

__all__ = ["Scratch", "pieces_of"]

_STATE_BYTES = 1 << 20  # of states a token, at most; a shorter context is read with its suffix


class Scratch:
    """A store of the contexts of one prompt, until its rows are made of them; in front of the one that lasts.

    Args:
        store: is given what was read, and asked; None where nothing is kept.
    """

    def __init__(self, store: ContextStore | None) -> None:
        self._store = store
        self._own: dict[TokenIds, Packed] = {}
        self._new: set[TokenIds] = set()

    @property
    def is_exact(self) -> bool:
        return self._store is None or self._store.is_exact

    def get(self, ids: Sequence[int]) -> Packed | None:
        own = self._own.get(tuple(ids))
        return own if own is not None or self._store is None else self._store.get(ids)

    def put(self, ids: Sequence[int], packed: Packed) -> Packed:
        kept = packed if self._store is None else self._store.put(ids, packed)
        self._own[tuple(ids)] = kept
        self._new.add(tuple(ids))
        return kept

    def drop(self, ids: Sequence[int]) -> None:
        self._own.pop(tuple(ids), None)
        if self._store is not None:
            self._store.drop(ids)

    def expect(self, contexts: Iterable[Sequence[int]]) -> None:
        if self._store is not None:
            self._store.expect(contexts)

    def __contains__(self, ids: Sequence[int]) -> bool:
        return tuple(ids) in self._own or (self._store is not None and ids in self._store)

    def as_new(self, prompt: RowPrompt, reading: Reading) -> Reading:
        """A reading in which contexts that were read for it do not count as spared."""
        pairs = zip(prompt.contexts, reading.reused, strict=True)
        return replace(reading, reused=tuple(0 if ids in self._new else count for ids, count in pairs))

    def clear(self) -> None:
        """Let go of the contexts."""
        self._own.clear()


def pieces_of(
    model: Model, contexts: Iterable[TokenIds], store: ContextStore, tokens: int
) -> Iterator[list[TokenIds]]:
    """Contexts that a store lacks, in runs of similar length.

    Args:
        model: reads them.
        contexts: token ids.
        store: where they will be put.
        tokens: rows times length of a run, at most; a longer context stands alone.
    """
    states = model.context_bytes(0)
    unread = {ids for ids in contexts if ids and states <= _STATE_BYTES * len(ids) and ids not in store}
    piece: list[TokenIds] = []
    for ids in sorted(unread, key=lambda ids: (len(ids), ids)):
        if piece and (len(piece) + 1) * len(ids) > tokens:
            yield piece
            piece = []
        piece.append(ids)
    if piece:
        yield piece
