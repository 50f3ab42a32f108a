"""The passage index beside raw FAISS and the FAISS stores of LangChain and LlamaIndex, on the same vectors.

    python tests/benchmarks/bench_index.py [--size 100000] [--dimension 384] [--json FILE]
    python tests/benchmarks/bench_index.py --size 1000000 --stores flat auto faiss langchain llama-index

Each store runs in a process of its own, one after the other; its peak memory is that process's. Needs
langchain-community and llama-index-vector-stores-faiss for the last two; what is not installed is left out.

The vectors lie near a 32-dimensional subspace, in 2,000 soft clusters, as embeddings of texts do; queries
are drawn likewise and are not among them. `faiss` is an IndexFlatIP alone, without texts, ids or metadata;
`faiss-auto` has the factory and options that `auto` chose (run after it). A filter keeps 1 of 100: FAISS
alone gets an id selector, LangChain and LlamaIndex fetch more and drop what does not match; how much more
they need for all ten is found first, and not timed. LlamaIndex's store keeps no texts, so that its times
and sizes are those of vectors and ids alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

STORES = ("flat", "auto", "faiss", "faiss-auto", "langchain", "llama-index")
NEEDS = {"langchain": "langchain_community", "llama-index": "llama_index.vector_stores.faiss"}
CHUNK = 10_000
K = 10
ADDED = 1000
BATCH = 64
KEPT = 100  # a filter keeps one in so many


def make_vectors(count: int, dimension: int, seed: int) -> np.ndarray:
    """Normalised, float32 [count, dimension]."""
    shape = np.random.default_rng(0)
    centres, basis = shape.standard_normal((2000, 32)), shape.standard_normal((32, dimension))
    own = np.random.default_rng(seed)
    made = np.empty((count, dimension), dtype=np.float32)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        inner = 0.8 * centres[own.integers(0, len(centres), size)] + own.standard_normal((size, 32))
        vectors = inner @ basis + 0.5 * own.standard_normal((size, dimension))
        made[start : start + size] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


def texts_of(start: int, stop: int) -> list[str]:
    """About 20 words each, of 20,000 that are as common as words are."""
    own = np.random.default_rng(start)
    words = np.minimum(own.zipf(1.2, (stop - start, 20)), 20_000)
    return [" ".join(f"w{word}" for word in row) for row in words.tolist()]


class Ours:
    """`PassageIndex`, with a factory."""

    def __init__(self, folder: Path, dimension: int, factory: str) -> None:
        self.folder, self.dimension, self.factory = folder, dimension, factory

    def _embedder(self) -> Any:
        class Given:
            name = "given"
            dimension = self.dimension

            def embed(self, texts: Any) -> Any:
                raise NotImplementedError

            def embed_query(self, text: str) -> Any:
                raise NotImplementedError

        return Given()

    def _passages(self, start: int, stop: int) -> Any:
        from nbce_rag import Passage

        return [
            Passage(text, id=f"p{number}", source=f"s{number // 20}", metadata={"part": number % KEPT})
            for number, text in enumerate(texts_of(start, stop), start)
        ]

    def build(self, vectors: np.ndarray) -> None:
        from nbce_rag import PassageIndex

        self.index = PassageIndex.create(self.folder, self._embedder(), factory=self.factory)
        with self.index.bulk():
            for start in range(0, len(vectors), CHUNK):
                part = vectors[start : start + CHUNK]
                self.index.add(self._passages(start, start + len(part)), vectors=part)

    def save(self) -> None:
        self.index.compact()
        self.index.close()

    def open(self) -> None:
        from nbce_rag import PassageIndex

        self.index = PassageIndex.open(self.folder, self._embedder())
        len(self.index)

    def query(self, vector: np.ndarray) -> list[int]:
        return [int(p.id[1:]) for p in self.index.search(vector, K)]

    def batch(self, vectors: np.ndarray) -> Any:
        return self.index.search_batch(vectors, K)

    def filtered(self, vector: np.ndarray, part: int) -> list[int]:
        return [int(p.id[1:]) for p in self.index.search(vector, K, where={"part": part})]

    def add(self, start: int, vectors: np.ndarray) -> None:
        self.index.add(self._passages(start, start + len(vectors)), vectors=vectors)

    def add_saves(self) -> None:
        """Nothing: what was added is stored."""

    def about(self) -> dict[str, Any]:
        with self.index._storage.read():
            segments = self.index._storage._compactor.segments(self.index._storage)  # type: ignore[attr-defined]
        return {name: segments[0][name] for name in ("factory", "options", "recall")}


class RawFaiss:
    """FAISS alone."""

    def __init__(self, folder: Path, dimension: int, note: dict[str, Any] | None = None) -> None:
        self.folder, self.dimension, self.note = folder, dimension, note or {"factory": "Flat", "options": {}}
        folder.mkdir(exist_ok=True)
        self.file = str(folder / "index.faiss")

    def build(self, vectors: np.ndarray) -> None:
        import faiss

        self.index = faiss.index_factory(self.dimension, self.note["factory"], faiss.METRIC_INNER_PRODUCT)
        if not self.index.is_trained:
            self.index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // 100_000)]))
        for start in range(0, len(vectors), CHUNK):
            self.index.add(np.ascontiguousarray(vectors[start : start + CHUNK]))

    def save(self) -> None:
        import faiss

        faiss.write_index(self.index, self.file)

    add_saves = save

    def open(self) -> None:
        import faiss

        self.index = faiss.read_index(self.file)

    def _search(self, vectors: np.ndarray, selector: Any = None) -> Any:
        from nbce_rag.index.vectors.factories import parameters

        index: Any = self.index
        return index.search(vectors, K, params=parameters(index, self.note["options"], selector))

    def query(self, vector: np.ndarray) -> list[int]:
        found: list[int] = self._search(vector[None])[1][0].tolist()
        return found

    def batch(self, vectors: np.ndarray) -> Any:
        return self._search(vectors)

    def filtered(self, vector: np.ndarray, part: int) -> list[int]:
        import faiss

        chosen = np.arange(part, self.index.ntotal, KEPT)
        found: list[int] = self._search(vector[None], faiss.IDSelectorBatch(chosen))[1][0].tolist()
        return found

    def add(self, start: int, vectors: np.ndarray) -> None:
        self.index.add(vectors)

    def about(self) -> dict[str, Any]:
        return self.note


class LangChain:
    """`langchain_community.vectorstores.FAISS` over an IndexFlatIP."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder, self.dimension, self.fetch = folder, dimension, 20

    def build(self, vectors: np.ndarray) -> None:
        import faiss
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS
        from langchain_community.vectorstores.utils import DistanceStrategy

        self.store = FAISS(
            embedding_function=lambda text: [],
            index=faiss.IndexFlatIP(self.dimension),
            docstore=InMemoryDocstore(),
            index_to_docstore_id={},
            distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
        )
        for start in range(0, len(vectors), CHUNK):
            self.add(start, vectors[start : start + CHUNK])

    def add(self, start: int, vectors: np.ndarray) -> None:
        numbers = range(start, start + len(vectors))
        self.store.add_embeddings(
            zip(texts_of(start, start + len(vectors)), vectors, strict=True),
            metadatas=[{"part": number % KEPT, "source": f"s{number // 20}"} for number in numbers],
            ids=[f"p{number}" for number in numbers],
        )

    def save(self) -> None:
        self.store.save_local(str(self.folder))

    add_saves = save

    def open(self) -> None:
        from langchain_community.vectorstores import FAISS
        from langchain_community.vectorstores.utils import DistanceStrategy

        self.store = FAISS.load_local(
            str(self.folder),
            lambda text: [],
            allow_dangerous_deserialization=True,
            distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
        )

    def query(self, vector: np.ndarray) -> list[int]:
        found = self.store.similarity_search_with_score_by_vector(vector, K)
        return [int(document.id[1:]) for document, _ in found]

    def batch(self, vectors: np.ndarray) -> Any:
        return [self.query(vector) for vector in vectors]

    def filtered(self, vector: np.ndarray, part: int) -> list[int]:
        found = self.store.similarity_search_with_score_by_vector(
            vector, K, filter={"part": part}, fetch_k=self.fetch
        )
        return [int(document.id[1:]) for document, _ in found]

    def about(self) -> dict[str, Any]:
        return {"factory": "Flat", "fetch_k": self.fetch}


class LlamaIndex:
    """`FaissMapVectorStore` over an IndexFlatIP."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder, self.dimension, self.fetch = folder, dimension, 20
        folder.mkdir(exist_ok=True)
        self.file = str(folder / "default__vector_store.json")

    def build(self, vectors: np.ndarray) -> None:
        import faiss
        from llama_index.vector_stores.faiss import FaissMapVectorStore

        self.store = FaissMapVectorStore(faiss.IndexIDMap2(faiss.IndexFlatIP(self.dimension)))
        for start in range(0, len(vectors), CHUNK):
            self.add(start, vectors[start : start + CHUNK])

    def add(self, start: int, vectors: np.ndarray) -> None:
        from llama_index.core.schema import TextNode

        self.store.add(
            [
                TextNode(id_=f"p{number}", text="", embedding=vector.tolist())
                for number, vector in enumerate(vectors, start)
            ]
        )

    def save(self) -> None:
        self.store.persist(self.file)

    add_saves = save

    def open(self) -> None:
        from llama_index.vector_stores.faiss import FaissMapVectorStore

        self.store = FaissMapVectorStore.from_persist_path(self.file)

    def _query(self, vector: np.ndarray, k: int) -> list[int]:
        from llama_index.core.vector_stores.types import VectorStoreQuery

        found = self.store.query(VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=k))
        return [int(id_[1:]) for id_ in found.ids or []]

    def query(self, vector: np.ndarray) -> list[int]:
        return self._query(vector, K)

    def batch(self, vectors: np.ndarray) -> Any:
        return [self.query(vector) for vector in vectors]

    def filtered(self, vector: np.ndarray, part: int) -> list[int]:
        return [number for number in self._query(vector, self.fetch) if number % KEPT == part][:K]

    def about(self) -> dict[str, Any]:
        return {"factory": "Flat", "fetch_k": self.fetch}


def run(name: str, folder: Path, work: Path, queries: int) -> dict[str, Any]:
    """Measures one store; seconds, but milliseconds for queries."""
    warnings.simplefilter("ignore")
    vectors = np.load(work / "vectors.npy", mmap_mode="r")
    asked, more = np.load(work / "queries.npy")[:queries], np.load(work / "more.npy")
    truth, exact = np.load(work / "truth.npy"), np.load(work / "filtered.npy")
    dimension = vectors.shape[1]
    note = json.loads((work / "auto.json").read_text()) if name == "faiss-auto" else None
    makers: dict[str, Callable[[], Any]] = {
        "flat": lambda: Ours(folder, dimension, "flat"),
        "auto": lambda: Ours(folder, dimension, "auto"),
        "faiss": lambda: RawFaiss(folder, dimension),
        "faiss-auto": lambda: RawFaiss(folder, dimension, note),
        "langchain": lambda: LangChain(folder, dimension),
        "llama-index": lambda: LlamaIndex(folder, dimension),
    }
    store = makers[name]()
    result: dict[str, Any] = {"store": name, "build_s": timed(lambda: store.build(vectors))}
    result["save_s"] = timed(store.save)
    result["build_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result["disk_mb"] = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    if hasattr(store, "fetch"):
        while len(store.filtered(asked[0], 0)) < K or any(
            set(store.filtered(query, n % KEPT)) != set(exact[n].tolist())
            for n, query in enumerate(asked[:5])
        ):
            store.fetch = min(store.fetch * 2, len(vectors))
    fetch = getattr(store, "fetch", None)
    del store
    store = makers[name]()
    if fetch is not None:
        store.fetch = fetch
    result["open_s"] = timed(store.open)
    result["first_query_s"] = timed(lambda: store.query(asked[0]))
    found = [store.query(query) for query in asked]
    result["recall"] = statistics.mean(
        len(set(got) & set(truth[n].tolist())) / K for n, got in enumerate(found)
    )
    result["query_ms"] = 1000 * statistics.median(timed(partial(store.query, query)) for query in asked)
    several = np.resize(asked, (BATCH, dimension))
    result["batch_ms"] = 1000 * statistics.median(timed(lambda: store.batch(several)) for _ in range(3))
    hits = [store.filtered(query, n % KEPT) for n, query in enumerate(asked)]
    result["filtered_recall"] = statistics.mean(
        len(set(got) & set(exact[n].tolist())) / K for n, got in enumerate(hits)
    )
    result["filtered_ms"] = 1000 * statistics.median(
        timed(partial(store.filtered, query, n % KEPT)) for n, query in enumerate(asked)
    )
    result["add_s"] = timed(lambda: (store.add(len(vectors), more), store.add_saves()))
    result["query_rss_mb"] = current_rss() / 1e6
    result |= {f"about_{key}": value for key, value in store.about().items()}
    if name == "auto":
        (work / "auto.json").write_text(json.dumps(store.about()))
    return result


def timed(act: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def current_rss() -> int:
    """Bytes of memory in use, mapped files that have been read among them."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def ground_truth(work: Path, vectors: np.ndarray, queries: np.ndarray) -> None:
    """Places of the ten nearest to each query, of all and of those that the filter keeps."""
    import faiss

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(vectors), 10 * CHUNK):
            yield start, np.ascontiguousarray(vectors[start : start + 10 * CHUNK])

    heap = faiss.ResultHeap(len(queries), K, keep_max=True)
    for start, block in blocks():
        scores, found = faiss.knn(queries, block, K, metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, found + start)
    heap.finalize()
    np.save(work / "truth.npy", heap.I)
    filtered = []
    for n, query in enumerate(queries):
        chosen = np.arange(n % KEPT, len(vectors), KEPT)
        filtered.append(chosen[np.argsort(-(vectors[chosen] @ query), kind="stable")[:K]])
    np.save(work / "filtered.npy", np.array(filtered))


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs the benchmark, prints the table and returns it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        found = run(options.child, options.folder / options.child, options.folder, options.queries)
        print(json.dumps(found))
        return [found]

    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name)
        vectors = make_vectors(options.size, options.dimension, 1)
        queries = make_vectors(max(options.queries, 5), options.dimension, 2)
        np.save(work / "vectors.npy", vectors)
        np.save(work / "queries.npy", queries)
        np.save(work / "more.npy", make_vectors(ADDED, options.dimension, 3))
        ground_truth(work, vectors, queries)
        del vectors
        for store in options.stores:
            if store in NEEDS and not _installed(NEEDS[store]):
                print(f"{store}: not installed, left out", file=sys.stderr)
                continue
            command = [sys.executable, __file__, "--child", store, "--folder", str(work)]
            command += ["--queries", str(options.queries)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
            if done.returncode:
                print(f"{store}: ended with {done.returncode}", file=sys.stderr)
                continue
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{store}: done", file=sys.stderr)
            shutil.rmtree(work / store, ignore_errors=True)
    show(results, options)
    if options.json is not None:
        report = {"size": options.size, "dimension": options.dimension, "results": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return results


def show(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Prints the table."""
    print(f"{options.size} vectors of {options.dimension}, k = {K}, a filter that keeps 1 in {KEPT}")
    rows = [name for name in results[0] if name != "store"] if results else []
    print(f"{'':<20}" + "".join(f"{result['store']:>14}" for result in results))
    for row in [*rows, *sorted({name for r in results for name in r} - set(rows) - {"store"})]:
        cells = []
        for result in results:
            value = result.get(row, "-")
            cells.append(f"{value:>14.3f}" if isinstance(value, float) else f"{value!s:>14}")
        print(f"{row:<20}" + "".join(cells))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
