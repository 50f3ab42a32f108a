"""Which FAISS index holds the vectors: by name or by size, trained, and tuned to a recall."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, Required

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from ...checks import check_count
from ...errors import InputError
from .codes import CodeErrors, CodeNote, joined_errors

__all__ = [
    "AUTO",
    "FaissIndex",
    "Note",
    "build",
    "candidates",
    "check_factory",
    "check_options",
    "is_flat",
    "joined",
    "parameters",
    "resolve",
    "widen",
]

faiss: Any = _faiss  # where it has type stubs, they lack what is used here
logger = logging.getLogger(__name__)

AUTO = "auto"
_AUTO_FROM = 200_000  # vectors; below, an exact search of 384 dimensions takes at most some 20 ms on one core
_NAMES = {
    "flat": "Flat",
    "hnsw": "HNSW32",
    "ivf": "IVF{lists},Flat",
    "ivf-sq8": "IVF{lists},SQ8",
    "fp16": "SQfp16",
    "sq8": "SQ8",
    "sq4": "SQ4",
    "pq": "PQ{parts}",
}
# No number in it is large enough to fill the memory with what is made for each vector or list.
_FACTORY = re.compile(r"(?:[A-Za-z_,.()\[\]:-]|(?<!\d)\d{1,6}(?!\d)){1,80}")
_PER_LIST = 40  # FAISS asks for 39 training vectors for each list at least
_SAMPLE = 10_240  # and 39 for each of the 256 words of a product quantizer
_QUERIES = 128
_DEPTH = 10
_TARGET = 0.97
OPTIONS = ("nprobe", "efSearch")

Blocks = Callable[[], Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]]


class FaissIndex(Protocol):
    """What is used of FAISS's indexes, whose type stubs say less, or more than is so."""

    ntotal: int
    d: int
    is_trained: bool

    def train(self, x: NDArray[np.float32]) -> None: ...

    def add(self, x: NDArray[np.float32]) -> None: ...

    def search(
        self, x: NDArray[np.float32], k: int, *, params: object = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    def reset(self) -> None: ...


class Note(CodeNote):
    """What is kept about an index: its factory, the search options that it was tuned to, and their recall."""

    factory: Required[str]
    options: Required[dict[str, int]]
    recall: Required[float]


def resolve(name: str, count: int, dimension: int) -> str:
    """The string for `faiss.index_factory` of a name and a number of vectors.

    "auto" is `Flat` below 200,000 vectors and `IVF...,SQ8` from there on, with a number of lists that is
    the power of two next to 2 sqrt(n). Where there are too few vectors to train an index of lists, it is
    `Flat` for the time being.
    """
    if name == AUTO:
        name = "ivf-sq8" if count >= _AUTO_FROM else "flat"
    lists = 2 ** max(2, round(math.log2(2 * math.sqrt(max(count, 1)))))
    parts = next((dimension // size for size in (8, 6, 4, 3, 2) if dimension % size == 0), dimension)
    factory = _NAMES[name.lower()].format(lists=lists, parts=parts) if name.lower() in _NAMES else name
    if not _FACTORY.fullmatch(factory):  # of a file that somebody else has written to
        return "Flat"
    return "Flat" if count < max(1, _least(factory)) else factory


def check_factory(name: str, dimension: int) -> str:
    """The name, if vectors of this dimension can be put into it.

    Raises:
        InputError: FAISS does not know it, or not for this dimension.
    """
    if name == AUTO:
        return name
    try:
        factory = resolve(name, 10**6, dimension)
        if not (_FACTORY.fullmatch(name) or name.lower() in _NAMES):
            raise ValueError(name)
        _make(factory, dimension)
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"factory={name!r} is none for {dimension} dimensions: give auto, {', '.join(_NAMES)}, or a "
            "string for faiss.index_factory such as IVF1024,SQ8."
        ) from error
    return name


def check_options(options: Mapping[str, int] | None) -> dict[str, int]:
    """Search options as they were given.

    Raises:
        InputError: One is unknown, or no whole number above 0.
    """
    for name in options or {}:
        if name not in OPTIONS:
            raise InputError(f"Unknown search option {name!r}: known are {', '.join(OPTIONS)}.")
    return {name: check_count(name, value) for name, value in (options or {}).items()}


def is_flat(index: FaissIndex) -> bool:
    """Whether it holds the vectors themselves, and finds what is nearest of all."""
    return type(index) in (faiss.IndexFlat, faiss.IndexFlatIP)


def _inner(index: FaissIndex) -> Any:
    """What searches, as the class that it is: behind a transformation of vectors, if there is one."""
    kind: Any = faiss.downcast_index(index)
    return faiss.downcast_index(kind.index) if isinstance(kind, faiss.IndexPreTransform) else kind


def build(
    factory: str, dimension: int, count: int, blocks: Blocks, start: FaissIndex | None = None
) -> tuple[FaissIndex, Note]:
    """An index of vectors, with a note about it.

    Args:
        factory: For `faiss.index_factory`.
        dimension: Of the vectors.
        count: How many there are.
        blocks: Gives keys and vectors, each time from the first.
        start: A trained index of the same factory to add them to.

    Recall is measured on 128 of the vectors themselves: how many of their 10 nearest (of those that are added
    here) are among the candidates that a search looks at exactly. `nprobe` or `efSearch` is the smallest
    power of two that brings it to 0.97. The errors of codes are those of the vectors that are added here.
    """
    index = start if start is not None else _make(factory, dimension)
    sample: NDArray[np.float32] | None = None
    if not index.is_trained:
        sample = _sample(blocks, count, _sample_size(factory), dimension)
        index.train(sample)
    if is_flat(index):
        for _, vectors in blocks():
            index.add(vectors)
        return index, {"factory": factory, "options": {}, "recall": 1.0}
    if sample is None:
        sample = _sample(blocks, count, _QUERIES, dimension)
    queries = np.ascontiguousarray(sample[:: max(1, len(sample) // _QUERIES)][: 2 * _QUERIES])
    del sample
    nearest, errors = _Nearest(queries), CodeErrors(index)
    place = int(index.ntotal)
    for keys, vectors in blocks():
        index.add(vectors)
        nearest.look_at(place, vectors)
        errors.look_at(place, keys, vectors)
        place += len(vectors)
    options, recall = _tune(index, queries, nearest.places)
    logger.info("%s: %d vectors, %s, recall %.3f.", factory, place, options, recall)
    return index, {"factory": factory, "options": options, "recall": round(recall, 4), **errors.note()}


def joined(first: Note, second: Note) -> Note:
    """About an index with the vectors of the first, to which those of the second were added."""
    options = {name: max(value, second["options"].get(name, 0)) for name, value in first["options"].items()}
    return {
        "factory": first["factory"],
        "options": options,
        "recall": min(first["recall"], second["recall"]),
        **joined_errors(first, second),
    }


def parameters(index: FaissIndex, options: Mapping[str, int], selector: object = None) -> object:
    """Search parameters of the kind that an index takes; None where there is nothing to say."""
    kind: Any = faiss.downcast_index(index)
    common: dict[str, object] = {} if selector is None else {"sel": selector}
    if isinstance(kind, faiss.IndexPreTransform):
        those = parameters(kind.index, options, selector)
        return None if those is None else faiss.SearchParametersPreTransform(index_params=those)
    if isinstance(kind, faiss.IndexIVF):
        nprobe = min(options.get("nprobe", kind.nprobe), kind.nlist)
        return faiss.SearchParametersIVF(nprobe=nprobe, **common)
    if isinstance(kind, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=options.get("efSearch", kind.hnsw.efSearch), **common)
    return faiss.SearchParameters(**common) if common else None


def widen(options: Mapping[str, int], share: float) -> dict[str, int]:
    """Options for a search of which a filter lets only a share through, so that enough is left."""
    factor = min(16, math.ceil(1 / max(share, 1e-6)))
    return {name: value * factor for name, value in options.items()}


def _make(factory: str, dimension: int) -> FaissIndex:
    index: FaissIndex = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexPQ):
        index.do_polysemous_training = False  # for a search that nobody asks for; takes minutes
    return index


def _least(factory: str) -> int:
    lists = re.search(r"IVF(\d+)(k?)", factory)
    least = _PER_LIST * int(lists[1]) * (1024 if lists[2] else 1) if lists else 0
    return max(least, _SAMPLE) if "PQ" in factory else least


def _sample_size(factory: str) -> int:
    return max(_least(factory), _SAMPLE)


def _sample(blocks: Blocks, count: int, size: int, dimension: int) -> NDArray[np.float32]:
    """About `size` of `count` vectors, evenly spread and the same ones each time."""
    step = max(1, count // size)
    place, parts = 0, [np.empty((0, dimension), np.float32)]
    for _, vectors in blocks():
        parts.append(vectors[-place % step :: step])
        place += len(vectors)
    return np.concatenate(parts)[: 2 * size]


class _Nearest:
    """The nearest neighbours of queries in vectors that go by. Each query is one of them, and is left out."""

    def __init__(self, queries: NDArray[np.float32]) -> None:
        self._queries = queries
        self._scores = np.full((len(queries), _DEPTH + 1), -np.inf, dtype=np.float32)
        self._places = np.full((len(queries), _DEPTH + 1), -1, dtype=np.int64)

    def look_at(self, place: int, vectors: NDArray[np.float32]) -> None:
        """Takes in vectors; the first of them has this place."""
        scores, places = faiss.knn(
            self._queries, vectors, min(_DEPTH + 1, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
        )
        scores = np.concatenate([self._scores, scores], axis=1)
        places = np.concatenate([self._places, places + place], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : _DEPTH + 1]
        self._scores = np.take_along_axis(scores, order, axis=1)
        self._places = np.take_along_axis(places, order, axis=1)

    @property
    def places(self) -> NDArray[np.int64]:
        """Of the neighbours, [queries, 10]; -1 where there are fewer."""
        return self._places[:, 1:]


def _tune(
    index: FaissIndex, queries: NDArray[np.float32], truth: NDArray[np.int64]
) -> tuple[dict[str, int], float]:
    """The least of the option that reaches the target, and the recall that it gives."""
    kind = _inner(index)
    grid: list[dict[str, int]] = [{}]
    if isinstance(kind, faiss.IndexIVF):
        grid = [{"nprobe": 2**i} for i in range(int(math.log2(kind.nlist)) + 1)]
    elif isinstance(kind, faiss.IndexHNSW):
        grid = [{"efSearch": 2**i} for i in range(5, 11)]
    depth = min(candidates(_DEPTH), int(index.ntotal))
    recall = 0.0
    for options in grid:
        _, hits = index.search(queries, depth, params=parameters(index, options))
        # Of an index that was added to, older vectors may be nearer still; they are not counted.
        shares = [
            len(set(nearest[nearest >= 0]) & set(row)) / max(1, int((nearest >= 0).sum()))
            for nearest, row in zip(truth, hits.tolist(), strict=True)
        ]
        recall = float(np.mean(shares))
        if recall >= _TARGET:
            break
    return options, recall


def candidates(k: int) -> int:
    """How many of the nearest by a shortened form are looked at exactly to find the k nearest."""
    return 4 * k + 32
