"""What a KV store has seen, tier by tier."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RemoteStatistics", "StoreStatistics"]


@dataclass(frozen=True, slots=True)
class RemoteStatistics:
    """What one store object has seen of its remote tier.

    Attributes:
        name: its URL, without what may be secret.
        is_open: whether it is left alone now, since it did not answer, failed, or was too slow.
        is_read: whether the last contexts were asked for: bringing them was expected to take less time than
            reading. None before the first.
        hits, misses: contexts that came, and that it did not have.
        skipped: contexts that were not asked for.
        late: contexts that reading was not kept waiting for any longer.
        failures: calls that failed or were not answered within the time limit.
        damaged: contexts that came torn, or were not what their name says.
        sent, unsent: contexts that were sent, and that were not: it could not be written, or too many waited.
        waiting: contexts that are still to be sent.
        bytes_received, bytes_sent: in all.
        bytes_per_second, latency: how fast they come, and seconds until they begin to; None if not known.
        tokens_per_second: how fast the model reads; None if not known.
    """

    name: str
    is_open: bool = False
    is_read: bool | None = None
    hits: int = 0
    misses: int = 0
    skipped: int = 0
    late: int = 0
    failures: int = 0
    damaged: int = 0
    sent: int = 0
    unsent: int = 0
    waiting: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    bytes_per_second: float | None = None
    latency: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What one store object has seen; `KVFolder.counts` has the numbers of all processes.

    Attributes:
        memory_hits, memory_misses: contexts found in memory, and not.
        disk_hits, disk_misses: of the latter, those found on disk, and not. 0 without a folder.
        damaged: files that were dropped.
        written, evicted: files written, and removed to stay within the limit.
        remote: what was seen of the remote tier; None without one.
    """

    memory_hits: int = 0
    memory_misses: int = 0
    disk_hits: int = 0
    disk_misses: int = 0
    damaged: int = 0
    written: int = 0
    evicted: int = 0
    remote: RemoteStatistics | None = None
