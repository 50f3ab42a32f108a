"""What a second look finds: questions with all gold passages among those found, without and with `look=True`.

    python tests/benchmarks/bench_look.py QUESTIONS PASSAGES [-k 8] [--mode hybrid] [--index DIR]
    python tests/benchmarks/bench_look.py QUESTIONS PASSAGES --answers 100 [--log FILE]

Questions are jsonl(.gz) with `question` and `gold_ids`; those with `"answerable": false` are passed over. No
language model is loaded. One line for each number of gold passages: the share of questions that have all of
them, recall, the paired difference with its 95% bootstrap interval, and milliseconds a search.

With `--answers` the packaged model is asked instead, over what is found without and with the look: so many of
those questions whose passages differ, in the order of `nbce-rag eval`. One line: answers found, the paired
difference, questions won and lost. `--log` keeps the answers, and goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from nbce_rag import NBCE, Passage, PassageIndex
from nbce_rag.evaluation.data.dataset import load_dataset
from nbce_rag.evaluation.data.records import Record, read_records
from nbce_rag.evaluation.metrics import score_row
from nbce_rag.index.search import SearchMode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("questions")
    parser.add_argument("passages")
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--mode", default="vector")
    parser.add_argument("--index", help="folder of an index to keep or reuse")
    parser.add_argument("--answers", type=int, default=0, help="questions that are asked; 0 asks none")
    parser.add_argument("--log", help="file of the answers; the same command goes on where it ended")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        PassageIndex.create(arguments.index or folder, exist_ok=True) as index,
    ):
        index.add(
            Passage(record["text"], id=str(record["id"]), title=record.get("title") or None)
            for record in records(arguments.passages)
        )
        if arguments.answers:
            answers(index, arguments)
            return
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


def answers(index: PassageIndex, arguments: argparse.Namespace) -> None:
    """Asks over both searches, and prints what was found."""
    data = load_dataset(arguments.passages, arguments.questions).sample(seed=0)
    file = Path(arguments.log or "/dev/null")
    scores = {}
    if file.is_file():
        lines = map(json.loads, file.read_text().splitlines())
        scores = {line["id"]: line["found"] for line in lines}
    nbce = NBCE.from_pretrained(dtype="bfloat16", style="short", max_tokens=24)
    for question in (question for question in data.questions if question.answers):
        if len(scores) == arguments.answers:
            break
        if question.id in scores:
            continue
        pair = [
            index.search(question.text, arguments.k, mode=arguments.mode, look=look) for look in (False, True)
        ]
        if len({frozenset(passage.id for passage in passages) for passages in pair}) == 1:
            continue
        replies = nbce.batch([nbce.request(question.text, passages) for passages in pair])
        rows = [
            {"question": question.text, "answer": reply.text, "answers": list(question.answers)}
            for reply in replies
        ]
        scores[question.id] = [cast(float, score_row(row)["answer_found"]) for row in rows]
        told = {"id": question.id, "found": scores[question.id], "rows": rows}
        with file.open("a") as log:
            log.write(json.dumps(told, ensure_ascii=False) + "\n")
    found = np.array(list(scores.values()))
    difference = found[:, 1] - found[:, 0]
    low, high = interval(difference)
    print(
        f"{arguments.questions}: {len(found)} answers, found {found[:, 0].mean():.3f} -> "
        f"{found[:, 1].mean():.3f} ({difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]); "
        f"{(difference > 0).sum()} won, {(difference < 0).sum()} lost"
    )


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
