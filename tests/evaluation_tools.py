"""What the tests of the evaluation share: a small data set in files, and scoring written another way."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

TOPICS = {
    "ferry": ("The ferry to the island is run by Ada.", "Who runs the ferry?", "Ada"),
    "market": ("The market in the square opens at eight.", "When does the market open?", "at eight"),
    "museum": ("The museum was built in 1891.", "When was the museum built?", "1891"),
    "water": ("Water boils at 100 degrees at sea level.", "When does water boil?", "100 degrees"),
    "bread": ("Bread and apples are sold in the square.", "What is sold with apples?", "Bread"),
}


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_dataset(folder: Path) -> tuple[Path, Path]:
    """(passages, questions): five of each, one gold passage a question."""
    passages = [{"id": id_, "title": id_.title(), "text": text} for id_, (text, _, _) in TOPICS.items()]
    questions = [
        {"question": question, "answers": [answer], "gold_ids": [id_]}
        for id_, (_, question, answer) in TOPICS.items()
    ]
    return (
        write_jsonl(folder / "tiny-passages.jsonl.gz", passages),
        write_jsonl(folder / "tiny-questions.jsonl.gz", questions),
    )


def squad_words(text: str) -> list[str]:
    """SQuAD's normalisation, by runs of letters and digits instead of regular expressions."""
    kept = [c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"]
    runs = ["".join(run) for _, run in groupby(kept, str.isalnum)]
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def squad_f1(said: str, golds: list[str]) -> float:
    """Token F1 by matching words off one by one."""
    best = 0.0
    for gold in golds:
        left, right = squad_words(said), squad_words(gold)
        if not left or not right:
            best = max(best, float(left == right))
            continue
        pool, common = list(right), 0
        for word in left:
            if word in pool:
                pool.remove(word)
                common += 1
        if common:
            precision, recall = common / len(left), common / len(right)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def squad_exact(said: str, golds: list[str]) -> bool:
    return any(squad_words(said) == squad_words(gold) for gold in golds)


def squad_found(said: str, golds: list[str]) -> bool:
    words = squad_words(said)
    return any(
        gold and any(words[i : i + len(gold)] == gold for i in range(len(words)))
        for gold in map(squad_words, golds)
    )
