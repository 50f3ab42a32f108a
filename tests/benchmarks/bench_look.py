"""What a second look finds: questions with all gold passages among those found, without and with `look=True`.

    python tests/benchmarks/bench_look.py QUESTIONS PASSAGES [-k 8] [--mode hybrid] [--index DIR]

Questions are jsonl(.gz) with `question` and `gold_ids`; those with `"answerable": false` are passed over. No
language model is loaded. One line for each number of gold passages: the share of questions that have all of
them, recall, the paired difference with its 95% bootstrap interval, and milliseconds a search.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import cast

import numpy as np

from nbce_rag import Passage, PassageIndex
from nbce_rag.evaluation.data.records import Record, read_records
from nbce_rag.index.search import SearchMode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("questions")
    parser.add_argument("passages")
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--mode", default="vector")
    parser.add_argument("--index", help="folder of an index to keep or reuse")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        PassageIndex.create(arguments.index or folder, exist_ok=True) as index,
    ):
        index.add(
            Passage(record["text"], id=str(record["id"]), title=record.get("title") or None)
            for record in records(arguments.passages)
        )
        questions = [q for q in records(arguments.questions) if q.get("answerable", True)]
        print(arguments.questions, end=": ")
        measure(index, questions, arguments.k, arguments.mode)


def records(file: str) -> list[Record]:
    """The JSON objects of a file of lines."""
    return [record for _, record in cast(list[tuple[int, Record]], read_records(file))]


def measure(index: PassageIndex, questions: Sequence[Record], k: int, mode: SearchMode) -> None:
    """Searches for every question, and prints what was found."""
    vectors = index.embedder.embed([question["question"] for question in questions])
    found: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    seconds = [0.0, 0.0]
    for question, vector in zip(questions, vectors, strict=True):
        gold = set(question["gold_ids"])
        shares = []
        for place, look in enumerate((False, True)):
            start = time.perf_counter()
            passages = index.search(vector, k, text=question["question"], mode=mode, look=look)
            seconds[place] += time.perf_counter() - start
            shares.append(len(gold & {passage.id for passage in passages}) / len(gold))
        found[len(gold)].append(tuple(shares))
    times = ", ".join(f"{1000 * total / len(questions):.1f}" for total in seconds)
    print(f"k = {k}, {mode}; ms a search without and with a look: {times}")
    for count, pairs in sorted(found.items()):
        line(count, np.array(pairs))


def line(gold: int, shares: np.ndarray) -> None:
    """Prints one line for the questions with this many gold passages; `shares` [n, 2]."""
    whole = shares == 1
    difference = whole[:, 1].astype(float) - whole[:, 0]
    low, high = interval(difference)
    print(
        f"{gold} gold, n = {len(shares)}: all {whole[:, 0].mean():.3f} -> {whole[:, 1].mean():.3f} "
        f"({difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]), "
        f"recall {shares[:, 0].mean():.3f} -> {shares[:, 1].mean():.3f}"
    )


def interval(values: np.ndarray) -> Sequence[float]:
    """95% bootstrap interval of a mean."""
    generator = np.random.default_rng(0)
    means = generator.choice(values, (2000, len(values))).mean(1)
    return [float(bound) for bound in np.quantile(means, (0.025, 0.975))]


if __name__ == "__main__":
    main()
