"""An index in PostgreSQL whose server is killed and started again, over and over, while it is used.

    python tests/benchmarks/chaos_postgres.py --rounds 200

Each round kills the server as a crash does (SIGQUIT, or SIGKILL to all of it), at a random moment of one
writer and two readers, and starts it again. Nothing that `add` or `delete` has acknowledged may be lost, no
change may be there in part, and a search gives what it should or an error of ours.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from index_tools import bag_of_words, open_again
from postgres_tools import start_server, stop_server, with_index

from nbce_rag.errors import PassageIndexError
from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage

_PAUSE_S = 0.05  # after an error, before the next try
PARTS = 3  # passages of one source, which are stored and removed at once


class Chaos:
    """What was acknowledged, what may have happened, and what was seen.

    Attributes:
        there: Sources that were stored, for certain.
        gone: Sources that were removed, for certain.
        counts: Of what was done and of errors.
        faults: What must not be.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.random = random.Random(seed)
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.end = threading.Event()

    def write(self) -> None:
        with open_again(self.url, timeout=2.0) as index:
            number = 0
            while not self.end.is_set():
                number += 1
                source = f"s{number}"
                passages = [
                    Passage(f"part {n} of {source}", f"{source}/{n}", source=source) for n in range(PARTS)
                ]
                if not self._change(partial(index.add, passages), "add"):
                    continue
                self.there.add(source)
                if number % 4 == 0:
                    old = self.random.choice(sorted(self.there))
                    self.there.discard(old)  # until it is told that it went, it may be either
                    if self._change(partial(index.delete, source=old), "delete"):
                        self.gone.add(old)

    def _change(self, act: Any, name: str) -> bool:
        try:
            act()
        except PassageIndexError:
            self.counts[f"{name} refused"] += 1
            time.sleep(_PAUSE_S)
            return False
        except Exception as error:
            self.faults.append(f"{name}: {error!r}")
            return False
        self.counts[name] += 1
        return True

    def read(self) -> None:
        with open_again(self.url, timeout=2.0) as index:
            while not self.end.is_set():
                certain, gone = set(self.there), set(self.gone)
                try:
                    passages = index.search("part of", 100_000)
                except PassageIndexError:
                    self.counts["search refused"] += 1
                    time.sleep(_PAUSE_S)
                    continue
                except Exception as error:
                    self.faults.append(f"search: {error!r}")
                    continue
                self.counts["search"] += 1
                self.compare(passages, certain & set(self.there), gone, "search")

    def compare(self, passages: list[Passage], certain: set[str], gone: set[str], what: str) -> None:
        """Notes what is not as it has to be."""
        parts = Counter(str(passage.source) for passage in passages)
        if lost := certain - parts.keys():
            self.faults.append(f"{what}: lost {sorted(lost)[:5]}")
        if back := gone & parts.keys():
            self.faults.append(f"{what}: came back {sorted(back)[:5]}")
        if torn := [source for source, count in parts.items() if count != PARTS]:
            self.faults.append(f"{what}: in part {torn[:5]}")


def kill(server: Any, how: signal.Signals) -> None:
    """Ends a server without warning."""
    process = server._postmaster_info.process
    family = [process, *process.children(recursive=True)] if how == signal.SIGKILL else [process]
    for one in family:
        try:
            one.send_signal(how)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)


def chaos(rounds: int, seed: int = 1) -> tuple[Counter[str], list[str]]:
    """Counts of what was done, and what must not be."""
    folder = Path(tempfile.mkdtemp(prefix="nbce-chaos-"))
    server = start_server(folder)
    try:
        url = with_index(server.get_uri(), "chaos")
        PassageIndex.create(url, bag_of_words).close()
        state = Chaos(url, seed)
        threads = [threading.Thread(target=work) for work in (state.write, state.read, state.read)]
        for thread in threads:
            thread.start()
        for number in range(rounds):
            time.sleep(state.random.uniform(0.1, 1.0))
            kill(server, signal.SIGKILL if number % 2 else signal.SIGQUIT)
            time.sleep(state.random.uniform(0.0, 0.3))
            for attempt in range(10):
                try:
                    server.ensure_postgres_running()
                    break
                except Exception:  # what was killed may hold its shared memory for a moment
                    if attempt == 9:
                        raise
                    time.sleep(0.5)
            state.counts["restarts"] += 1
        time.sleep(1.0)
        state.end.set()
        for thread in threads:
            thread.join()
        with open_again(url) as index:
            state.compare(list(index), state.there, state.gone, "at the end")
            state.faults += index.check().problems
        return state.counts, state.faults
    finally:
        stop_server(server)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts, faults = chaos(options.rounds, options.seed)
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    for fault in faults[:20]:
        print(f"fault: {fault}")
    print(f"faults: {len(faults)}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
