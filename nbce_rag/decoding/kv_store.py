"""Keys and values of contexts that were read before, reused exactly.

A passage's keys and values depend only on the model, its dtype and the ids of prefix + passage, not on
the question or the other passages. So they are kept under a hash of just these, least recently used
out first.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence

from ..errors import InputError
from .cache import ContextKV

__all__ = ["PassageKVStore", "context_key"]


def context_key(fingerprint: str, ids: Sequence[int]) -> str:
    """Key of a context: sha256 over the model's fingerprint (which covers its dtype) and the token ids."""
    digest = hashlib.sha256(fingerprint.encode())
    digest.update(struct.pack(f"<{len(ids)}q", *ids))
    return digest.hexdigest()


class PassageKVStore:
    """Contexts in memory, up to a number of bytes. Safe to use from several threads.

    Args:
        max_bytes: how much to keep; 0 keeps nothing. Default 1 GiB, which holds about 30,000 tokens of
            the packaged model in float32.

    Raises:
        InputError: a negative size.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        if max_bytes < 0:
            raise InputError(f"max_bytes={max_bytes} is negative; 0 switches the store off.")
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._bytes = 0
        self._entries: OrderedDict[str, ContextKV] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: str) -> ContextKV | None:
        """The context under this key, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(key)
            return found

    def put(self, key: str, context: ContextKV) -> None:
        """Keep a context; it must not be changed afterwards. One larger than the store is not kept."""
        size = _nbytes(context)
        if size > self.max_bytes:
            return
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return
            self._entries[key] = context
            self._bytes += size
            while self._bytes > self.max_bytes:
                _, evicted = self._entries.popitem(last=False)
                self._bytes -= _nbytes(evicted)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0


def _nbytes(context: ContextKV) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in context)
