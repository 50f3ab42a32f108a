"""Figures of what a server is doing now, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Mapping

from .admission import Admission
from .metrics import StateCollector
from .served import Opening, Served, load_of

__all__ = ["state_of"]


def state_of(admission: Admission, opening: Opening) -> StateCollector:
    """Queue, rows, keys and values, and indexes; what is not open yet has no figures."""

    def served() -> Served | None:
        return opening.served

    def rows() -> Mapping[str, float]:
        return {} if (open_now := served()) is None else {"": load_of(open_now).rows}

    def waiting() -> Mapping[str, float]:
        return {"": admission.waiting + (0 if (open_now := served()) is None else load_of(open_now).waiting)}

    def kv_bytes() -> Mapping[str, float]:
        store = None if (open_now := served()) is None else open_now.nbce.kv_store
        return {} if store is None else {"memory": store.nbytes}

    def kv_hits() -> Mapping[str, float]:
        store = None if (open_now := served()) is None else open_now.nbce.kv_store
        if store is None:
            return {}
        counts = store.statistics
        return {"memory": counts.memory_hits, "disk": counts.disk_hits}

    def kv_misses() -> Mapping[str, float]:
        store = None if (open_now := served()) is None else open_now.nbce.kv_store
        return {} if store is None else {"": store.misses}

    def passages() -> Mapping[str, float]:
        open_now = served()
        return {} if open_now is None else {name: len(index) for name, index in open_now.indexes.items()}

    return StateCollector(
        {
            "requests_running": ("Questions that are being answered.", lambda: {"": admission.running}),
            "requests_waiting": ("Questions that wait for their turn.", waiting),
            "waiting_prompt_tokens": (
                "Prompt tokens of the questions that wait.",
                lambda: {"": admission.waiting_tokens},
            ),
            "rows_running": ("Rows that the model decodes.", rows),
            "kv_store_bytes.tier": ("Keys and values that are kept.", kv_bytes),
            "index_passages.index": ("Passages of an index.", passages),
            "ready": ("Whether questions are answered.", lambda: {"": float(served() is not None)}),
        },
        {
            "kv_store_hits.tier": ("Contexts that were there already.", kv_hits),
            "kv_store_misses": ("Contexts that had to be read.", kv_misses),
        },
    )
