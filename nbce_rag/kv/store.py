"""Keys and values of contexts that were read before, reused exactly.

A passage's keys and values depend only on the model, its dtype and the ids of prefix + passage, not on
the question or the other passages. So they are kept under a hash of just these: in memory, least
recently used out first, if there is a folder, on disk behind it, and, if there is a bucket that machines
share, there.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from ..checks import Range
from ..errors import InputError, warn
from ..files import cache_dir
from .codec import Codec, resolve_codec
from .context import Packed, context_key, nbytes
from .disk import DiskTier
from .folder import check_bytes
from .forks import renew_in_children
from .remote import RemoteTier
from .staging import DeviceTier, Staging
from .statistics import StoreStatistics

__all__ = ["ContextStore", "ModelIdentity", "PassageKVStore", "StoreLike", "resolve_store"]


class ContextStore(Protocol):
    """Where a backend looks for contexts of one model, and puts those that it has read."""

    @property
    def is_exact(self) -> bool:
        """Whether it gives every bit of what was put."""
        ...

    def get(self, ids: Sequence[int]) -> Packed | None:
        """What is kept of the context with these token ids, or None."""
        ...

    def put(self, ids: Sequence[int], packed: Packed) -> Packed:
        """Keep a context, which must not be changed afterwards; as the store will give it from now on."""
        ...

    def drop(self, ids: Sequence[int]) -> None:
        """Forget a context that turned out not to be what it should."""
        ...

    def expect(self, contexts: Iterable[Sequence[int]]) -> None:
        """Contexts that will be got next; those that lie far away come at once, where that is worth it."""
        ...

    def __contains__(self, ids: Sequence[int]) -> bool:
        """Whether it is there, without reading it; what lies on other machines does not count."""
        ...


class ModelIdentity(Protocol):
    """What tells the contexts of one model from those of another.

    Attributes:
        fingerprint: changes with the weights, their dtype and whatever else changes a context.
        name: what the user called the model.
        dtype: of its keys and values, such as "bfloat16".
        staging: moves contexts to its device and back; None where it takes them from the processor's memory.
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def staging(self) -> Staging | None: ...


_SECONDS = Range(0, above=True, note="in seconds")


class PassageKVStore:
    """Contexts in memory, up to a number of bytes, in a folder and in a bucket behind it. Safe to use from
    threads.

    Several stores, in one process or in several, may share a folder. A context that is found there is
    mapped into memory, checked, and from then on counts as in memory. New ones are written behind: what
    is still to be written when the process ends is written then, and what a process that is killed
    leaves is never half a context.

    For a model on a GPU, contexts in memory are in pinned memory, from which one copy each, beside what the
    GPU computes, takes them up; and those used last stay on the GPU, until its memory is needed otherwise.

    A bucket is shared by machines that give the model the same name. What it has is checked on arrival; it
    is asked for where bringing it takes less time than reading it, as both are measured here
    (`statistics.remote`). No answer fails for it; one that hangs is waited for once, for the time limit.

    Args:
        max_bytes: how much to keep in memory; 0 keeps nothing. Default 1 GiB, which holds about 30,000
            tokens of the packaged model in float32.
        folder: where to keep contexts from process to process; None keeps them in memory alone.
        device_bytes: how much to keep on a GPU; None is a quarter of what is free there when it is first used
            (nothing where `max_bytes` is 0), 0 keeps nothing. Rows that need the memory get it.
        max_disk_bytes: most bytes of the folder; None takes the limit kept in it (`nbce-rag kv
            --max-bytes`), 16 GiB if there is none.
        codec: "int8" rounds keys and values to 8 bits, "half" the states of recurrent layers to 16, in both
            tiers (`nbce_rag.kv.codec` gives the bounds); answers then differ, and say so. None keeps every
            bit.
        remote: a bucket: "s3://bucket/prefix", "gs://...", "az://...", "file:///..." or a store of obstore's
            (extra `[remote]`). Credentials come from the environment, as obstore finds them.
        remote_seconds: time limit of what an answer waits for.
        remote_writes: whether contexts that are read here are sent there, from behind. False for machines
            that may read only: whoever writes there can change answers.
        salt: a secret of a tenant. Contexts are kept under keys that only who knows it can make, in all
            tiers, so that nobody finds out by the time of an answer what others have read.

    Raises:
        InputError: no size or time, an unknown codec, the folder is a file, or the remote cannot be opened.
        MissingDependencyError: `remote` without obstore.
    """

    def __init__(
        self,
        max_bytes: int = 1 << 30,
        folder: str | os.PathLike[str] | None = None,
        *,
        device_bytes: int | None = None,
        max_disk_bytes: int | None = None,
        codec: str | Codec | None = None,
        remote: str | Any | None = None,
        remote_seconds: float = 2.0,
        remote_writes: bool = True,
        salt: str = "",
    ) -> None:
        check_bytes("max_bytes", max_bytes, "0 switches the store off")
        if device_bytes is not None:
            check_bytes("device_bytes", device_bytes, "0 keeps nothing on a GPU")
        _SECONDS.check("remote_seconds", remote_seconds)
        if not isinstance(salt, str):
            raise InputError(f"salt= takes a text, and no {type(salt).__name__}.")
        self.max_bytes = max_bytes
        self.codec = resolve_codec(codec)
        self._salt = salt
        self._bytes = 0
        self._entries: OrderedDict[str, Packed] = OrderedDict()
        self._on_device = DeviceTier(device_bytes if max_bytes or device_bytes is not None else 0)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._disk: DiskTier | None = None
        if folder is not None:
            self._disk = DiskTier(folder, self.codec.name, max_disk_bytes)
            weakref.finalize(self, self._disk.close)
        self._remote: RemoteTier | None = None
        if remote is not None:
            self._remote = RemoteTier(remote, self.codec.name, remote_seconds, remote_writes)
        renew_in_children(self)

    def renew(self) -> None:
        """For a child process: another thread of the parent may have been in the middle of a change."""
        self._lock = threading.Lock()
        self._bytes = sum(map(nbytes, self._entries.values()))
        self._on_device.renew()

    def __len__(self) -> int:
        """Contexts in memory."""
        return len(self._entries)

    def __bool__(self) -> bool:
        return True  # a store is something, also while it is empty

    def __contains__(self, key: str) -> bool:
        """Whether a context is in memory or in the folder, without reading it."""
        return key in self._entries or (self._disk is not None and key in self._disk)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory now; those mapped from files count."""
        return self._bytes

    def bytes_on(self, device: torch.device) -> int:
        """Bytes held on a GPU now."""
        return self._on_device.held(device)

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
        """Contexts found in any tier."""
        seen = self.statistics
        return seen.memory_hits + seen.disk_hits + (seen.remote.hits if seen.remote else 0)

    @property
    def misses(self) -> int:
        """Contexts found in none."""
        seen = self.statistics
        return seen.memory_misses - seen.disk_hits - (seen.remote.hits if seen.remote else 0)

    @property
    def statistics(self) -> StoreStatistics:
        """What this store has seen."""
        remote = None if self._remote is None else self._remote.statistics
        return StoreStatistics(**(self._counts if self._disk is None else self._disk.totals), remote=remote)

    def of(self, model: ModelIdentity) -> ContextStore:
        """This store as a model sees it: its own contexts, by their token ids."""
        fingerprint = model.fingerprint  # which takes some milliseconds
        label = {"fingerprint": fingerprint, "model": model.name, "dtype": model.dtype}
        return _ContextsOfModel(self, fingerprint, label, model.staging)

    def key(self, fingerprint: str, ids: Sequence[int]) -> str:
        """The key of a context in this store: `context_key` with its salt."""
        return context_key(fingerprint, ids, self._salt)

    def expect(self, contexts: Mapping[str, int | None]) -> None:
        """Contexts that will be got next: what only the remote may have comes at once, if that is worth it.

        Args:
            contexts: tokens by key; None where that is not known.
        """
        if self._remote is not None:
            missing = {key: tokens for key, tokens in contexts.items() if key not in self}
            if missing:
                self._remote.expect(missing)

    def get(
        self,
        key: str,
        label: Mapping[str, str] | None = None,
        tokens: int | None = None,
        staging: Staging | None = None,
    ) -> Packed | None:
        """The context under this key, or None.

        Args:
            key: `PassageKVStore.key`.
            label: what a file must say of itself beside its key: fingerprint, model, dtype. As in `put`.
            tokens: how many it has, by which the remote weighs what reading it would take.
            staging: of the device that it is for; None gives it in the processor's memory.
        """
        try:
            packed = self._get(key, label or {}, tokens, staging)
        finally:
            if self._remote is not None:
                self._remote.pace.mark()
        if packed is None:
            return None
        try:
            return self.codec.decode(packed)
        except (ValueError, RuntimeError):  # RuntimeError: shapes that do not go together
            self.drop(key)
            return None

    def _get(
        self, key: str, label: Mapping[str, str], tokens: int | None, staging: Staging | None
    ) -> Packed | None:
        packed: Packed | None
        with self._lock:
            packed = self._entries.get(key)
            if packed is not None:
                self._entries.move_to_end(key)
        there = None if staging is None else self._on_device.get(key, staging.device)
        is_held = packed is not None or there is not None
        self._count(memory_hits=int(is_held), memory_misses=int(not is_held))
        if self._disk is not None and is_held:
            self._disk.touch(key)
        if there is not None:
            return there
        if packed is None and self._disk is not None:
            packed = self._disk.get(key, label)
            if packed is not None:
                packed = self._kept(key, packed, staging)
        if packed is None and self._remote is not None:
            packed = self._remote.get(key, label, tokens)
            if packed is not None:
                packed = self._kept(key, packed, staging)
                if self._disk is not None:
                    self._disk.put(key, packed, label)
        if packed is None or staging is None:
            return packed
        there = staging.upload(staging.pinned(packed))
        self._on_device.put(key, there, staging)
        return there

    def _kept(self, key: str, packed: Packed, staging: Staging | None) -> Packed:
        """A context from further away, which is in memory from now on if it is not too large."""
        if staging is not None:
            packed = staging.pinned(packed)
        self._keep(key, packed)
        return packed

    def put(
        self,
        key: str,
        context: Packed,
        label: Mapping[str, str] | None = None,
        tokens: int | None = None,
        staging: Staging | None = None,
    ) -> Packed:
        """Keep a context; it must not be changed afterwards. One larger than a tier is not kept in it.

        Args:
            key, label: as in `get`.
            context: what is kept of it.
            staging: of the device that it is on; None where that is the processor.
            tokens: how many it has, where it was read since this thread last asked the store for one.

        Returns:
            The context as the store will give it from now on: rounded, if the codec rounds, so that
            answers do not depend on what was in the store before.
        """
        if self._remote is not None and tokens is not None:
            self._remote.pace.add_reading(tokens)
        encoded = packed = self.codec.encode(context)
        if staging is not None:
            # From here on nobody touches the device: the writers work beside it.
            there = staging.flat(encoded)
            self._on_device.put(key, there, staging)
            lasts = self.max_bytes or self._disk is not None or self._remote is not None
            packed = staging.download(there) if lasts else there
        self._keep(key, packed)
        if self._disk is not None:
            self._disk.put(key, packed, label or {})
        if self._remote is not None:
            self._remote.put(key, packed, label or {})
        return self.codec.decode(encoded) if self.codec.note else context

    def drop(self, key: str) -> None:
        """Forget a context that turned out not to be what it should."""
        with self._lock:
            gone = self._entries.pop(key, {})
            self._bytes -= nbytes(gone)
        self._on_device.drop(key)
        if self._disk is not None:
            self._disk.drop(key)
        if self._remote is not None:
            self._remote.drop(key)

    def clear(self) -> None:
        """Forget everything that is in memory, the device's too; the folder stays as it is."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0
        self._on_device.clear()

    def take_problem(self) -> str:
        """Why the folder cannot be written, the first time this is asked after it was found out; else ""."""
        return "" if self._disk is None else self._disk.take_problem()

    def take_notes(self) -> list[str]:
        """What is wrong with the folder and with the remote, the first time this is asked after it was found
        out."""
        remote = "" if self._remote is None else self._remote.take_problem()
        return [problem for problem in (self.take_problem(), remote) if problem]

    def flush(self) -> None:
        """Wait until everything is on disk, and sent, for which there is a time limit of 30 s. Warns
        (NbceWarning) if it cannot be written, or was not sent."""
        problems = [self.settle()]
        if self._remote is not None:
            problems.append(self._remote.drain())
            problems.append(self._remote.take_problem())
        for problem in filter(None, problems):
            warn(problem)

    def settle(self) -> str:
        """Wait until everything is on disk; why it cannot be written, as `take_problem` says it."""
        if self._disk is not None:
            self._disk.flush()
        return self.take_problem()

    def close(self) -> None:
        """`flush`, and let the writer go. The store can be used again; doing it twice does no harm."""
        self.flush()
        if self._disk is not None:
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
    """A store with the fingerprint, the label and the device of one model bound to it."""

    store: PassageKVStore
    fingerprint: str
    label: Mapping[str, str]
    staging: Staging | None

    @property
    def is_exact(self) -> bool:
        return not self.store.codec.note

    def get(self, ids: Sequence[int]) -> Packed | None:
        return self.store.get(self._key(ids), self.label, len(ids), self.staging)

    def put(self, ids: Sequence[int], packed: Packed) -> Packed:
        return self.store.put(self._key(ids), packed, self.label, len(ids), self.staging)

    def drop(self, ids: Sequence[int]) -> None:
        self.store.drop(self._key(ids))

    def expect(self, contexts: Iterable[Sequence[int]]) -> None:
        self.store.expect({self._key(ids): len(ids) for ids in contexts if ids})

    def __contains__(self, ids: Sequence[int]) -> bool:
        return self._key(ids) in self.store

    def _key(self, ids: Sequence[int]) -> str:
        return self.store.key(self.fingerprint, ids)


StoreLike: TypeAlias = PassageKVStore | str | os.PathLike[str] | bool | None
"""What `NBCE` takes for a store."""


def resolve_store(store: StoreLike) -> PassageKVStore | None:
    """The store that is meant: None is one in memory, True one in the user's cache folder too, False none; a
    URL is one in memory and in a bucket.

    Raises:
        InputError: it is nothing of the kind, a path that is a file, or a bucket that cannot be opened.
        MissingDependencyError: a bucket without obstore.
    """
    if store is False:
        return None
    if store is None or store is True:
        return PassageKVStore(folder=cache_dir() / "kv" if store else None)
    if isinstance(store, PassageKVStore):
        return store
    if isinstance(store, str) and "://" in store:
        return PassageKVStore(remote=store)
    if isinstance(store, (str, os.PathLike)):
        return PassageKVStore(folder=store)
    raise InputError(
        f"kv_store={store!r} is no KV store; give a PassageKVStore, a folder, a URL, True, False or None."
    )
