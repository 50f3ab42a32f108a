"""Running `kv_child.py`, and killing it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_reference import engine_of
from kv_child import PASSAGES

from nbce_rag.answers.answer import Answer
from nbce_rag.engine.nbce import NBCE
from nbce_rag.kv.context import context_key
from nbce_rag.kv.folder import KVFolder
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.transformers.contexts import read_contexts

ROOT = Path(__file__).resolve().parent.parent


def assert_same_tokens(answer: Answer, wanted: Answer) -> None:
    """The same tokens for the same reasons; passages read in other batches differ in the last bits."""
    assert [t.id for t in answer.tokens] == [t.id for t in wanted.tokens]
    for a, b in zip(answer.tokens, wanted.tokens, strict=True):
        assert (a.logprob, *a.weights) == pytest.approx((b.logprob, *b.weights), abs=1e-4)


@contextmanager
def child_process(model: Path, folder: Path, rounds: int) -> Iterator[subprocess.Popen[str]]:
    """The child, once it has read its first batch; killed at the end if it is still there."""
    command = [sys.executable, str(ROOT / "tests" / "kv_child.py"), str(model), str(folder), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().strip().isdigit()
            # What it says must not fill the pipe.
            threading.Thread(target=child.stdout.read, daemon=True).start()
            yield child
        finally:
            child.kill()


def kill_while_writing(
    loaded: Any, model: Path, folder: Path, meanwhile: Callable[[], object]
) -> tuple[int, int]:
    """Kill -9 a process that fills a store, then check that the store is whole and of use.

    Args:
        loaded: the model, as the child loads it from `model`.
        model: its folder.
        folder: of the store.
        meanwhile: called after the child's first batch; when it returns, the child is killed.

    Returns:
        (contexts of the child in the store after the kill, scratch files left).

    Raises:
        AssertionError: a file is damaged, or an answer differs.
    """
    with child_process(model, folder, 100_000):
        meanwhile()
    left = len(list(folder.glob(".*.tmp")))
    store = PassageKVStore(folder=folder)
    nbce = NBCE(loaded, kv_store=store, max_tokens=4)
    plan = engine_of(nbce).plan(nbce.request("When?", PASSAGES))
    contexts = [row.context for row in plan.rows]
    keys = {context_key(loaded.fingerprint, ids) for ids in contexts if ids}
    # Others may have written into the folder meanwhile.
    found = sum(entry.path.name.partition(".")[0] in keys for entry in KVFolder(folder).entries())
    plain = NBCE(loaded, kv_store=False, max_tokens=4)
    for passages in (PASSAGES[:2], PASSAGES[-2:]):
        assert_same_tokens(nbce.answer("When?", passages), plain.answer("When?", passages))
    assert store.statistics.damaged == 0
    report = nbce.prefill(PASSAGES)
    assert report.kept >= min(found, len(PASSAGES)) - 1  # the prefix has a context too
    assert report.read + report.kept == len(PASSAGES)
    assert nbce.prefill(PASSAGES).read == 0
    reader = PassageKVStore(0, folder)
    assert len(read_contexts(loaded, contexts, reader.of(loaded), 1000)[1]) == len(contexts)
    assert (reader.statistics.damaged, reader.statistics.disk_hits) == (0, len(contexts))
    return found, left
