"""What the tests of the index share: a cheap embedder, some passages, ways of damaging a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage

DIMENSION = 32


def bag_of_words(texts: list[str]) -> np.ndarray:
    """A cheap embedder that is the same in every process: words hashed into 32 numbers."""
    vectors = np.zeros((len(texts), DIMENSION))
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            vectors[row, sum(ord(c) * (i + 1) for i, c in enumerate(word)) % DIMENSION] += 1
    return vectors


ANIMALS = [
    Passage("cats purr", id="cat", title="Cats", source="a.txt", metadata={"legs": 4, "tags": ["pet"]}),
    Passage("dogs bark", id="dog", source="a.txt", metadata={"legs": 4}),
    Passage("birds sing", id="bird", source="b.txt", start=3, end=13, metadata={"legs": 2, "flies": True}),
]


def open_again(path: Path | str, **options: Any) -> PassageIndex:
    return PassageIndex.open(path, bag_of_words, **options)


def ids(passages: list[Passage]) -> list[str]:
    return [passage.id for passage in passages]


def count_embedded(index: PassageIndex) -> list[str]:
    """A list that every text which is embedded from now on is added to."""
    seen: list[str] = []
    embedder: Any = index.embedder
    inner = embedder._fn

    def fn(texts: list[str]) -> Any:
        seen.extend(texts)
        return inner(texts)

    embedder._fn = fn
    return seen


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    changes: dict[str, Callable[[], bytes]] = {
        "truncated": lambda: data[: len(data) // 2],
        "no trailer": lambda: data[:-40],
        "empty": lambda: b"",
        "flipped bits": lambda: data[:200] + bytes(b ^ 0x3F for b in data[200:260]) + data[260:],
        "random": lambda: os.urandom(len(data)),
        "longer": lambda: data + b"\0" * 100,
    }
    file.write_bytes(changes[how]())
