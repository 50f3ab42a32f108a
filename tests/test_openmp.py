"""Teams of OpenMP: given back by whoever leaves the rest to another thread, and made anew when needed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbce_rag import NBCE
from nbce_rag.embedding import sentence_transformer
from nbce_rag.engine import worker as working
from nbce_rag.openmp import give_back_team

TASKS = Path("/proc/self/task")
SCRIPT = """
import os, sys, torch
from nbce_rag.openmp import give_back_team

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
before = threads()
numbers = torch.arange(1 << 20, dtype=torch.float32)
first = numbers.sqrt()
"""


def in_new_process(script: str) -> str:
    """What a script prints that has computed with three threads; some runtimes end no team."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    if run.stdout.strip() == "no runtime of GNU's":
        pytest.skip(run.stdout.strip())
    return run.stdout


@pytest.mark.skipif(not TASKS.exists(), reason="counts the threads that Linux lists")
def test_a_team_ends_and_another_one_computes_the_same() -> None:
    shown = in_new_process(
        """
        from nbce_rag.openmp import _runtimes
        if not _runtimes():
            sys.exit(print("no runtime of GNU's"))
        team = threads() - before
        give_back_team()
        left = threads() - before
        give_back_team()
        again = numbers.sqrt()
        print(team, left, threads() - before, torch.equal(first, again))
        """
    )
    assert shown.split() == ["2", "0", "2", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked here")
def test_a_forked_child_does_not_wait_for_threads_that_it_does_not_have() -> None:
    shown = in_new_process(
        """
        child = os.fork()
        if child == 0:
            give_back_team()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert shown.split() == ["7"]


def test_torch_is_not_loaded_for_it() -> None:
    script = "import sys, nbce_rag.openmp as o; o.give_back_team(); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False"]


def test_who_asks_and_who_has_answered_give_theirs_back(
    make_nbce: Callable[..., NBCE], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    answered = threading.Event()

    def noted() -> None:
        names.append(threading.current_thread().name)
        give_back_team()
        if names[-1] == "nbce-decoding":
            answered.set()

    monkeypatch.setattr(working, "give_back_team", noted)
    make_nbce(max_tokens=2).answer("Who?", ["Ada.", "Bo."])
    assert answered.wait(60)
    assert names == [threading.current_thread().name, "nbce-decoding"]


def test_who_has_embedded_gives_its_team_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __getitem__(self, place: int) -> None:
            return None

        def encode(self, texts: list[str], **options: Any) -> Any:
            return np.ones((len(texts), 3), dtype=np.float32)

    ended: list[str] = []
    monkeypatch.setattr(sentence_transformer, "give_back_team", lambda: ended.append("team"))
    embedder = sentence_transformer.SentenceTransformerEmbedder(Model(), name="ones")  # type: ignore[arg-type]
    embedder.embed(["Ada."])
    assert ended == ["team"]
