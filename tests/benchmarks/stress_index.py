"""What an index survives: writers that are killed, writes that fail, readers beside a writer.

    python tests/benchmarks/stress_index.py crash [--rounds 200]
    python tests/benchmarks/stress_index.py faults [--rounds 200]
    python tests/benchmarks/stress_index.py readers [--seconds 60] [--readers 4]

`crash` kills a writing process (SIGKILL) at random moments of adding, replacing, deleting and compacting.
`faults` lets writes of files fail at random with ENOSPC or EIO: those of SQLite through a limit on the
database's size, those of FAISS files anywhere. After each round the index is opened, checked, and compared
with what the calls that had returned have stored. `readers` runs processes that search while one writes;
each answer has to be of one state. The suite runs short versions of the same (test_index_stress.py).
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from nbce_rag import Passage, PassageIndex
from nbce_rag.errors import PassageIndexError
from nbce_rag.index.vectors import compaction as maintenance

DIMENSION = 8
BATCH = 20


def embed(texts: list[str]) -> np.ndarray:
    """A vector that follows from the text alone."""
    return np.array([np.random.default_rng(sum(map(ord, text))).standard_normal(DIMENSION) for text in texts])


def small_files() -> ExitStack:
    """Makes files of a few dozen vectors, so that little work goes through all that large work does."""
    stack = ExitStack()
    stack.enter_context(mock.patch.object(maintenance, "_TAIL", 30))
    return stack


def state_of(index: PassageIndex) -> dict[str, str]:
    """Text by id."""
    return {passage.id: passage.text for passage in index}


def verify(folder: Path, *allowed: dict[str, str]) -> dict[str, str]:
    """Opens and checks the index, which must be in one of the states, and be searched as it is."""
    with PassageIndex.open(folder, embed) as index:
        report = index.check()
        assert report.ok, report.problems
        found = state_of(index)
        assert found in allowed, (sorted(found.items()), [sorted(one.items()) for one in allowed])
        if found:
            hits = index.search(np.ones(DIMENSION), len(found))
            assert {hit.id: hit.text for hit in hits} == found
            vectors = index.vectors(found)
            best = max(found, key=lambda id_: float(vectors[id_].sum()))
            assert abs(float(vectors[best].sum()) - float(vectors[hits[0].id].sum())) < 1e-4
    return found


def steps(seed: int) -> Any:
    """Endless changes: what to do, and the state that it leads to, from a state."""
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        kind = chance.choice(["add", "add", "add", "replace", "delete", "source", "compact"])
        ids = [f"{chance.randrange(200)}" for _ in range(BATCH)]
        yield number, kind, ids


def apply(index: PassageIndex, number: int, kind: str, ids: list[str]) -> None:
    """Does one change."""
    if kind in ("add", "replace"):
        passages = [
            Passage(f"{id_} of {number}", id=id_, source=f"s{int(id_) % 5}") for id_ in dict.fromkeys(ids)
        ]
        vectors = embed([passage.text for passage in passages])
        index.add(passages, vectors=vectors)
    elif kind == "source":
        index.upsert([Passage(f"source of {number}", id=f"new{number}", source="s1")], by="source")
    elif kind == "delete":
        index.delete(ids)
    else:
        index.compact()


def expected(state: dict[str, str], sources: dict[str, str], number: int, kind: str, ids: list[str]) -> None:
    """What `apply` leads to, done to a dictionary and to the sources by id."""
    if kind in ("add", "replace"):
        for id_ in ids:
            state[id_], sources[id_] = f"{id_} of {number}", f"s{int(id_) % 5}"
    elif kind == "source":
        for id_ in [id_ for id_, source in sources.items() if source == "s1"]:
            del state[id_], sources[id_]
        state[f"new{number}"], sources[f"new{number}"] = f"source of {number}", "s1"
    elif kind == "delete":
        for id_ in ids:
            state.pop(id_, None)
            sources.pop(id_, None)


def write(folder: Path, seed: int) -> None:
    """The writing process: says after each change that its call has returned."""
    with small_files(), PassageIndex.create(folder, embed, exist_ok=True) as index:
        print("ready", flush=True)
        for number, kind, ids in steps(seed):
            apply(index, number, kind, ids)
            print(number, flush=True)


def crash(rounds: int, seed: int = 0) -> int:
    """Kills a writer in each round. Returns how many changes were stored in all."""
    chance = random.Random(seed)
    done = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        state: dict[str, str] = {}
        sources: dict[str, str] = {}
        for round_ in range(rounds):
            command = [
                sys.executable,
                __file__,
                "write",
                "--folder",
                str(folder),
                "--seed",
                str(seed + round_),
            ]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "ready\n"
                time.sleep(chance.uniform(0, 0.5))
                writer.send_signal(signal.SIGKILL)
                returned = [int(line) for line in writer.stdout.read().splitlines() if line]
            last = returned[-1] if returned else 0
            before: dict[str, str] = dict(state)
            after_state, after_sources = dict(state), dict(sources)
            for number, kind, ids in steps(seed + round_):
                if number > last + 1:
                    break
                if number == last + 1:
                    before, before_sources = dict(after_state), dict(after_sources)
                expected(after_state, after_sources, number, kind, ids)
            state = verify(folder, before, after_state)
            sources = before_sources if state == before else after_sources
            done += last
    return done


def faults(rounds: int, seed: int = 0) -> tuple[int, int]:
    """Lets writes fail. Returns how many changes were stored, and how many were refused with an error."""
    chance = random.Random(seed)
    stored = refused = 0
    with tempfile.TemporaryDirectory() as name, small_files():
        folder = Path(name) / "index"
        state: dict[str, str] = {}
        sources: dict[str, str] = {}
        changes = steps(seed)
        PassageIndex.create(folder, embed).close()
        for _ in range(rounds):
            with PassageIndex.open(folder, embed) as index:
                for _ in range(3):
                    number, kind, ids = next(changes)
                    with failing(index, chance):
                        try:
                            apply(index, number, kind, ids)
                        except PassageIndexError:
                            refused += 1
                            continue
                    stored += 1
                    expected(state, sources, number, kind, ids)
            verify(folder, state)
    return stored, refused


def failing(index: PassageIndex, chance: random.Random) -> ExitStack:
    """Makes one kind of write fail, after a random number that succeed."""
    stack = ExitStack()
    kind = chance.choice(["database", "write", "fsync", "replace", "none"])
    left = chance.randrange(4)

    def broken(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(chance.choice([errno.ENOSPC, errno.EIO]), "injected")
            return inner(*args, **kwargs)

        return call

    if kind == "database":
        connection = index._storage._connection  # type: ignore[attr-defined]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + chance.randrange(3)}")
        stack.callback(connection.execute, "PRAGMA max_page_count = 4294967294")
    elif kind == "write":
        from nbce_rag.index.vectors import segments

        stack.enter_context(
            mock.patch.object(segments._ChecksumWriter, "write", broken(segments._ChecksumWriter.write))
        )
    elif kind in ("fsync", "replace"):
        stack.enter_context(mock.patch.object(os, kind, broken(getattr(os, kind))))
    return stack


def read(folder: Path, seconds: float) -> None:
    """A reading process: every state has all passages of one round, and vectors that fit their texts."""
    searches = 0
    seen = set()
    until = time.monotonic() + seconds
    with PassageIndex.open(folder, embed) as index:
        while time.monotonic() < until:
            found = index.search(np.ones(DIMENSION), 1000)
            rounds = {passage.text.partition(" of ")[2] for passage in found}
            assert len(found) == 100, len(found)
            assert len(rounds) == 1, rounds
            vectors = embed([passage.text for passage in found])
            cosines = vectors.sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.sqrt(DIMENSION)
            assert np.allclose(cosines, [passage.score or 0.0 for passage in found], atol=1e-5)
            filtered = index.search(np.ones(DIMENSION), 1000, {"part": 3})
            assert len(filtered) == 10, len(filtered)
            seen |= rounds
            searches += 1
    print(searches, len(seen))


def readers(seconds: float, count: int) -> tuple[int, int, int]:
    """Readers beside a writer. Returns rounds written, searches, and different states seen at most."""
    with tempfile.TemporaryDirectory() as name, small_files():
        folder = Path(name) / "index"
        with PassageIndex.create(folder, embed) as index:
            replace_all(index, 0)
            command = [sys.executable, __file__, "read", "--folder", str(folder), "--seconds", str(seconds)]
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
            rounds = 0
            while any(reader.poll() is None for reader in running):
                rounds += 1
                replace_all(index, rounds)
                if rounds % 20 == 0:
                    index.compact()
            results = [reader.communicate()[0] for reader in running]
            assert not any(reader.returncode for reader in running), results
        verify(folder, {str(n): f"{n} of {rounds}" for n in range(100)})
    figures = [tuple(map(int, result.split())) for result in results]
    return rounds, sum(searches for searches, _ in figures), max(seen for _, seen in figures)


def replace_all(index: PassageIndex, number: int) -> None:
    """Gives all 100 passages another text and vector, in one transaction."""
    passages = [Passage(f"{n} of {number}", id=str(n), metadata={"part": n % 10}) for n in range(100)]
    index.add(passages, vectors=embed([passage.text for passage in passages]))


def main(arguments: list[str] | None = None) -> None:
    """Runs one of them and prints its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["crash", "faults", "readers", "write", "read"])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    if options.what == "write":
        write(options.folder, options.seed)
    elif options.what == "read":
        read(options.folder, options.seconds)
    elif options.what == "crash":
        done = crash(options.rounds, options.seed)
        print(f"{options.rounds} writers killed, {done} changes stored", end="")
    elif options.what == "faults":
        stored, refused = faults(options.rounds, options.seed)
        print(
            f"{options.rounds} rounds with failing writes, {stored} changes stored, {refused} refused", end=""
        )
    else:
        rounds, searches, seen = readers(options.seconds, options.readers)
        print(
            f"{rounds} rounds written, {searches} searches, at most {seen} states seen by one reader", end=""
        )
    if options.what not in ("write", "read"):
        print(f", {time.monotonic() - started:.0f} s, no error")


if __name__ == "__main__":
    main()
