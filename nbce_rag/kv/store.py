"""Keys and values of contexts that were read before, reused exactly.

A passage's keys and values depend only on the model, its dtype and the ids of prefix + passage, not on
the question or the other passages. So they are kept under a hash of just these: in memory, least
recently used out first, and, if there is a folder, on disk behind it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from ..errors import InputError, warn
from ..files import cache_dir
from .codec import Codec, resolve_codec
from .context import Packed, context_key, nbytes
from .disk import DiskTier
from .folder import check_bytes
from .forks import renew_in_children

__all__ = ["ContextStore", "ModelIdentity", "PassageKVStore", "StoreLike", "StoreStatistics", "resolve_store"]


class ContextStore(Protocol):
    """Where a backend looks for contexts of one model, and puts those that it has read."""

    def get(self, ids: Sequence[int]) -> Packed | None:
        """What is kept of the context with these token ids, or None."""
        ...

    def put(self, ids: Sequence[int], packed: Packed) -> Packed:
        """Keep a context, which must not be changed afterwards; as the store will give it from now on."""
        ...

    def drop(self, ids: Sequence[int]) -> None:
        """Forget a context that turned out not to be what it should."""
        ...

    def __contains__(self, ids: Sequence[int]) -> bool:
        """Whether it is there, without reading it."""
        ...


class ModelIdentity(Protocol):
    """What tells the contexts of one model from those of another.

    Attributes:
        fingerprint: changes with the weights, their dtype and whatever else changes a context.
        name: what the user called the model.
        dtype: of its keys and values, such as "bfloat16".
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What one store object has seen; `KVFolder.counts` has the numbers of all processes.

    Attributes:
        memory_hits, memory_misses: contexts found in memory, and not.
        disk_hits, disk_misses: of the latter, those found on disk, and not. 0 without a folder.
        damaged: files that were dropped.
        written, evicted: files written, and removed to stay within the limit.
    """

    memory_hits: int = 0
    memory_misses: int = 0
    disk_hits: int = 0
    disk_misses: int = 0
    damaged: int = 0
    written: int = 0
    evicted: int = 0


class PassageKVStore:
    """Contexts in memory, up to a number of bytes, and in a folder behind it. Safe to use from threads.

    Several stores, in one process or in several, may share a folder. A context that is found there is
    mapped into memory, checked, and from then on counts as in memory. New ones are written behind: what
    is still to be written when the process ends is written then, and what a process that is killed
    leaves is never half a context.

    Args:
        max_bytes: how much to keep in memory; 0 keeps nothing. Default 1 GiB, which holds about 30,000
            tokens of the packaged model in float32.
        folder: where to keep contexts from process to process; None keeps them in memory alone.
        max_disk_bytes: most bytes of the folder; None takes the limit kept in it (`nbce-rag kv
            --max-bytes`), 16 GiB if there is none.
        codec: "int8" rounds keys and values to 8 bits, "half" the states of recurrent layers to 16, in both
            tiers (`nbce_rag.kv.codec` gives the bounds); answers then differ, and say so. None keeps every
            bit.

    Raises:
        InputError: no size, an unknown codec, or the folder is a file.
    """

    def __init__(
        self,
        max_bytes: int = 1 << 30,
        folder: str | os.PathLike[str] | None = None,
        *,
        max_disk_bytes: int | None = None,
        codec: str | Codec | None = None,
    ) -> None:
        check_bytes("max_bytes", max_bytes, "0 switches the store off")
        self.max_bytes = max_bytes
        self.codec = resolve_codec(codec)
        self._bytes = 0
        self._entries: OrderedDict[str, Packed] = OrderedDict()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._disk: DiskTier | None = None
        if folder is not None:
            self._disk = DiskTier(folder, self.codec.name, max_disk_bytes)
            weakref.finalize(self, self._disk.close)
        renew_in_children(self)

    def renew(self) -> None:
        """For a child process: another thread of the parent may have been in the middle of a change."""
        self._lock = threading.Lock()
        self._bytes = sum(map(nbytes, self._entries.values()))

    def __len__(self) -> int:
        """Contexts in memory."""
        return len(self._entries)

    def __bool__(self) -> bool:
        return True  # a store is something, also while it is empty

    def __contains__(self, key: str) -> bool:
        """Whether a context is in either tier, without reading it."""
        return key in self._entries or (self._disk is not None and key in self._disk)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory now; those mapped from files count."""
        return self._bytes

    @property
    def folder(self) -> Path | None:
        """The folder, if there is one."""
        return None if self._disk is None else self._disk.folder.path

    @property
    def max_disk_bytes(self) -> int:
        """Most bytes of the folder; 0 if there is none."""
        return 0 if self._disk is None else self._disk.max_bytes

    @property
    def hits(self) -> int:
        """Contexts found in either tier."""
        return self.statistics.memory_hits + self.statistics.disk_hits

    @property
    def misses(self) -> int:
        """Contexts found in neither."""
        return self.statistics.memory_misses - self.statistics.disk_hits

    @property
    def statistics(self) -> StoreStatistics:
        """What this store has seen."""
        return StoreStatistics(**(self._counts if self._disk is None else self._disk.totals))

    def of(self, model: ModelIdentity) -> ContextStore:
        """This store as a model sees it: its own contexts, by their token ids."""
        label = {"fingerprint": model.fingerprint, "model": model.name, "dtype": model.dtype}
        return _ContextsOfModel(self, model.fingerprint, label)

    def get(self, key: str, label: Mapping[str, str] | None = None) -> Packed | None:
        """The context under this key, or None.

        Args:
            key: `context_key`.
            label: what a file must say of itself beside its key: fingerprint, model, dtype. As in `put`.
        """
        with self._lock:
            packed = self._entries.get(key)
            if packed is not None:
                self._entries.move_to_end(key)
        self._count(memory_hits=int(packed is not None), memory_misses=int(packed is None))
        if self._disk is not None:
            if packed is not None:
                self._disk.touch(key)
            else:
                packed = self._disk.get(key, label or {})
                if packed is not None:
                    self._keep(key, packed)
        if packed is None:
            return None
        try:
            return self.codec.decode(packed)
        except ValueError:
            self.drop(key)
            return None

    def put(self, key: str, context: Packed, label: Mapping[str, str] | None = None) -> Packed:
        """Keep a context; it must not be changed afterwards. One larger than a tier is not kept in it.

        Returns:
            The context as the store will give it from now on: rounded, if the codec rounds, so that
            answers do not depend on what was in the store before.
        """
        packed = self.codec.encode(context)
        self._keep(key, packed)
        if self._disk is not None:
            self._disk.put(key, packed, label or {})
        return self.codec.decode(packed) if self.codec.note else context

    def drop(self, key: str) -> None:
        """Forget a context that turned out not to be what it should."""
        with self._lock:
            gone = self._entries.pop(key, {})
            self._bytes -= nbytes(gone)
        if self._disk is not None:
            self._disk.drop(key)

    def clear(self) -> None:
        """Forget everything that is in memory; the folder stays as it is."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def take_problem(self) -> str:
        """Why the folder cannot be written, the first time this is asked after it was found out; else ""."""
        return "" if self._disk is None else self._disk.take_problem()

    def flush(self) -> None:
        """Wait until everything is on disk. Warns (NbceWarning) if it cannot be written."""
        if problem := self.settle():
            warn(problem)

    def settle(self) -> str:
        """Wait until everything is on disk; why it cannot be written, as `take_problem` says it."""
        if self._disk is not None:
            self._disk.flush()
        return self.take_problem()

    def close(self) -> None:
        """`flush`, and let the writer go. The store can be used again; doing it twice does no harm."""
        if self._disk is not None:
            self.flush()
            self._disk.close()

    def _keep(self, key: str, packed: Packed) -> None:
        size = nbytes(packed)
        if size > self.max_bytes:
            return
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return
            self._entries[key] = packed
            self._bytes += size
            while self._bytes > self.max_bytes:
                _, evicted = self._entries.popitem(last=False)
                self._bytes -= nbytes(evicted)

    def _count(self, **events: int) -> None:
        if self._disk is not None:
            self._disk.count(**events)
        else:
            with self._lock:
                self._counts.update(events)


@dataclass(frozen=True, slots=True)
class _ContextsOfModel:
    """A store with the fingerprint and label of one model bound to it."""

    store: PassageKVStore
    fingerprint: str
    label: Mapping[str, str]

    def get(self, ids: Sequence[int]) -> Packed | None:
        return self.store.get(context_key(self.fingerprint, ids), self.label)

    def put(self, ids: Sequence[int], packed: Packed) -> Packed:
        return self.store.put(context_key(self.fingerprint, ids), packed, self.label)

    def drop(self, ids: Sequence[int]) -> None:
        self.store.drop(context_key(self.fingerprint, ids))

    def __contains__(self, ids: Sequence[int]) -> bool:
        return context_key(self.fingerprint, ids) in self.store


StoreLike: TypeAlias = PassageKVStore | str | os.PathLike[str] | bool | None
"""What `NBCE` takes for a store."""


def resolve_store(store: StoreLike) -> PassageKVStore | None:
    """The store that is meant: None is one in memory, True one in the user's cache folder too, False none.

    Raises:
        InputError: it is nothing of the kind, or a path that is a file.
    """
    if store is False:
        return None
    if store is None or store is True:
        return PassageKVStore(folder=cache_dir() / "kv" if store else None)
    if isinstance(store, PassageKVStore):
        return store
    if isinstance(store, (str, os.PathLike)):
        return PassageKVStore(folder=store)
    raise InputError(
        f"kv_store={store!r} is no KV store; give a PassageKVStore, a folder, True, False or None."
    )
