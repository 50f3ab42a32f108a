"""Where the time of a large index goes: building, asking, filtering; beside raw FAISS in the same run.

    python tests/benchmarks/index_scale.py --passages 200000 [--dimension 384] [--folder DIR]

The vectors are those of `bench_index.py`; the embedder looks them up, so that embedding costs nothing.
Passages of some 20 words are added in one call. What runs inside something else is counted there and taken
off here, so that the parts of the build sum up. Splitting is timed apart, over the same texts as documents.

Raw FAISS is the same factory with the same options, trained and filled from memory. Filters keep 1 of 100 and
1 of 10: FAISS is given a bitmap of what they keep, made beforehand, once with the options that the index was
tuned to and once over all lists. Recall counts the ten nearest of those kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_index import BATCH, CHUNK, K, make_vectors, texts_of, timed

from nbce_rag import Passage, PassageIndex
from nbce_rag.documents.splitting import split_document
from nbce_rag.index.encoder import Encoder
from nbce_rag.index.sqlite import schema
from nbce_rag.index.sqlite.storage import Storage
from nbce_rag.index.vectors import factories
from nbce_rag.index.vectors.compaction import Compactor

SHARES = {"1%": 100, "10%": 10}
SPLIT = 20_000  # passages' worth of text that splitting is timed over


class Clock:
    """Seconds by the name of what runs; the innermost counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._stack:
            name = self._stack[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside counts under this name."""
        self._turn()
        self._stack.append(name)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Has a function of a class or module counted under a name."""
        function = getattr(owner, attribute)

        def call(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        setattr(owner, attribute, call)


class LookUp:
    """An embedder that has all vectors already."""

    name = "look-up"

    def __init__(self, vectors: np.ndarray) -> None:
        self.dimension = vectors.shape[1]
        self._vectors = vectors
        self._rows: dict[int, int] = {}

    def passages(self) -> Iterator[Passage]:
        """All passages; their texts are remembered."""
        for start in range(0, len(self._vectors), CHUNK):
            for row, text in enumerate(texts_of(start, min(start + CHUNK, len(self._vectors))), start):
                self._rows[hash(text)] = row
                parts = {name: row % one_in for name, one_in in SHARES.items()}
                yield Passage(text, id=f"p{row}", source=f"s{row // 20}", metadata=parts)

    def embed(self, texts: Any) -> Any:
        return self._vectors[[self._rows[hash(text)] for text in texts]]

    def embed_query(self, text: str) -> Any:
        raise NotImplementedError


def build(folder: Path, vectors: np.ndarray) -> dict[str, Any]:
    """Builds the index; passages a second, and seconds by part."""
    clock = Clock()
    embedder = LookUp(vectors)
    clock.watch(embedder, "embed", "embedding")
    clock.watch(Encoder, "passages", "vectors normalised")
    clock.watch(schema, "put_words", "words (folding, FTS5)")
    clock.watch(schema, "put_attributes", "metadata (rows for filters)")
    clock.watch(Storage, "new_ids", "SQLite: looking up ids")
    clock.watch(Storage, "upsert", "SQLite: passages and vectors")
    clock.watch(Compactor, "save", "vectors (training, FAISS file)")
    transaction = Storage._transaction

    @contextmanager
    def timed_transaction(self: Storage, begin: str) -> Iterator[Any]:
        # Only its beginning and its end: what is done inside counts elsewhere.
        manager = transaction(self, begin)
        with clock.part("SQLite: beginning and committing"):
            connection = manager.__enter__()
        try:
            yield connection
        except BaseException as error:
            if not manager.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            with clock.part("SQLite: beginning and committing"):
                manager.__exit__(None, None, None)

    Storage._transaction = timed_transaction  # type: ignore[method-assign, assignment]
    started = time.perf_counter()
    with PassageIndex.create(folder, embedder) as index, clock.part("else (checks, the passages themselves)"):
        with index.bulk():
            index.add(embedder.passages())
        seconds = time.perf_counter() - started
    text = ["\n\n".join(texts_of(start, start + 20)) for start in range(0, SPLIT, 20)]
    splitting = timed(lambda: [split_document(document) for document in text])
    return {
        "build_s": seconds,
        "passages_a_second": len(vectors) / seconds,
        "parts_s": clock.seconds,
        "splitting_us_a_passage": 1e6 * splitting / SPLIT,
    }


def nearest(queries: np.ndarray, vectors: np.ndarray, one_in: int = 1) -> np.ndarray:
    """Rows of the ten nearest of those that a filter keeps for each query, [q, 10]."""
    result = []
    for number, query in enumerate(queries):
        rows = np.arange(number % one_in, len(vectors), one_in)
        best = np.argpartition(-(vectors[rows] @ query), K)[:K] if one_in > 1 else None
        scores = vectors @ query if best is None else None
        result.append(rows[best] if scores is None else np.argpartition(-scores, K)[:K])
    return np.array(result)


def recall(hits: Any, truth: np.ndarray) -> float:
    """The share of the nearest that was found."""
    return statistics.mean(
        len({*row} & {*exact.tolist()}) / K for row, exact in zip(hits, truth, strict=True)
    )


def measured(act: Callable[[int], Any], truth: np.ndarray) -> dict[str, float]:
    """Median milliseconds and recall of a search by the number of its query."""
    hits = [act(number) for number in range(len(truth))]  # which warms up, too
    seconds = [timed(partial(act, number)) for number in range(len(truth))]
    return {"ms": 1000 * statistics.median(seconds), "recall": recall(hits, truth)}


def asked(index: PassageIndex, vectors: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Queries alone and together, and filters, of an index."""

    def ours(number: int, where: Any = None) -> list[int]:
        return [int(passage.id[1:]) for passage in index.search(queries[number], K, where)]

    several = np.resize(queries, (BATCH, queries.shape[1]))
    result: dict[str, Any] = {"first_query_s": timed(lambda: index.search(queries[0], K))}
    result["query"] = measured(ours, nearest(queries, vectors))
    batch = [timed(lambda: index.search_batch(several, K)) for _ in range(3)]
    result["batch_ms"] = 1000 * statistics.median(batch)
    for name, one_in in SHARES.items():
        truth = nearest(queries, vectors, one_in)

        def kept(number: int, name: str = name, one_in: int = one_in) -> list[int]:
            return ours(number, {name: number % one_in})

        result[f"filter {name}"] = measured(kept, truth)
    return result


def ask(folder: Path, vectors: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Queries alone and together, and filters, of the index and of raw FAISS."""
    import faiss

    result: dict[str, Any] = {}
    with PassageIndex.open(folder, LookUp(vectors)) as index:
        with index._storage.read():
            note = index._storage._compactor.segments(index._storage)[0]  # type: ignore[attr-defined]
        result |= {name: note[name] for name in ("factory", "options", "recall")}
        result |= asked(index, vectors, queries)
    several = np.resize(queries, (BATCH, queries.shape[1]))

    raw: Any = faiss.index_factory(vectors.shape[1], note["factory"], faiss.METRIC_INNER_PRODUCT)

    def fill() -> None:
        if not raw.is_trained:
            raw.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // 100_000)]))
        for start in range(0, len(vectors), CHUNK):
            raw.add(np.ascontiguousarray(vectors[start : start + CHUNK]))

    result["raw build_s"] = timed(fill)
    options = note["options"]

    def search(rows: np.ndarray, options: Any, selector: Any = None) -> Any:
        return raw.search(rows, K, params=factories.parameters(raw, options, selector))[1].tolist()

    def masked(number: int, bits: list[Any], chosen: Any) -> Any:
        return search(queries[number][None], chosen, bits[number % len(bits)])[0]

    result["raw query"] = measured(lambda n: search(queries[n][None], options)[0], nearest(queries, vectors))
    batch = [timed(lambda: search(several, options)) for _ in range(3)]
    result["raw batch_ms"] = 1000 * statistics.median(batch)
    for name, one_in in SHARES.items():
        truth = nearest(queries, vectors, one_in)
        masks = [np.arange(len(vectors)) % one_in == part for part in range(one_in)]
        selector: Any = faiss.IDSelectorBitmap
        bits = [selector(np.packbits(mask, bitorder="little")) for mask in masks]
        for label, chosen in (
            ("bitmap", options),
            ("bitmap, all lists", {"nprobe": getattr(raw, "nlist", 1)}),
        ):
            result[f"raw filter {name}, {label}"] = measured(partial(masked, bits=bits, chosen=chosen), truth)
    return result


def show(result: dict[str, Any], indent: str = "") -> None:
    """Prints figures, one a line."""
    for name, value in result.items():
        if isinstance(value, dict) and not all(isinstance(part, float) for part in value.values()):
            print(f"{indent}{name:<44} {json.dumps(value)}")
        elif isinstance(value, dict) and set(value) == {"ms", "recall"}:
            print(f"{indent}{name:<44} {value['ms']:>10.2f} ms, recall {value['recall']:.3f}")
        elif isinstance(value, dict):
            print(f"{indent}{name}:")
            show(value, indent + "    ")
        else:
            print(
                f"{indent}{name:<44} {value:>10.2f}"
                if isinstance(value, float)
                else f"{indent}{name:<44} {value}"
            )


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark, prints the figures and returns them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    vectors = make_vectors(options.passages, options.dimension, 1)
    queries = make_vectors(options.queries, options.dimension, 2)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        result: dict[str, Any] = {"passages": options.passages, "dimension": options.dimension}
        result |= build(Path(name, "index"), vectors)
        show(result)
        answers = ask(Path(name, "index"), vectors, queries)
        show(answers)
    if options.json is not None:
        options.json.write_text(json.dumps(result | answers, indent=2) + "\n", encoding="utf-8")
    return result | answers


if __name__ == "__main__":
    main(sys.argv[1:])
