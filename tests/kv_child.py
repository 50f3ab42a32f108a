"""A process of its own that reads passages into a KV store, for tests that kill it or work beside it.

    python tests/kv_child.py MODEL FOLDER ROUNDS

Each round reads what is not in the folder. A line a batch goes to stdout.
"""

from __future__ import annotations

import sys

from nbce_rag.passages import Passage

PASSAGES = [
    Passage(
        f"Number {number}: the ferry leaves at {number % 24} and carries {number * 7} boxes. "
        * (1 + number % 3)
    )
    for number in range(60)
]


def main(model: str, folder: str, rounds: str) -> None:
    """Reads the passages again and again."""
    import torch

    from nbce_rag import NBCE, PassageKVStore
    from nbce_rag.engine import prefill as kv_fill
    from nbce_rag.models.transformers.loading import load_model

    torch.set_num_threads(1)
    kv_fill._BATCH = 10
    loaded = load_model(model, device="cpu", dtype="float32")
    for _ in range(int(rounds)):
        nbce = NBCE(loaded, kv_store=PassageKVStore(0, folder))
        nbce.prefill(PASSAGES, progress=lambda done, total, what: print(done, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
