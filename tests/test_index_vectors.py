from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tools import ANIMALS, DIMENSION, bag_of_words, ids

from nbce_rag.index import PassageIndex
from nbce_rag.index.sqlite.storage import Storage
from nbce_rag.passages import Passage


def test_vectors_are_those_that_are_searched(tmp_path: Path) -> None:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add(ANIMALS)
        vectors = index.vectors(["dog", "none", "cat"])
        assert vectors.keys() == {"dog", "cat"}
        for passage in index.search("cats bark", k=2):
            query = bag_of_words(["cats bark"])[0]
            cosine = vectors[passage.id] @ query / np.linalg.norm(query)
            assert abs(cosine - (passage.score or 0)) < 1e-6
            assert abs(np.linalg.norm(vectors[passage.id]) - 1) < 1e-6
        assert index.vectors([]) == {}


def test_a_callable_decides_over_all_fields(tmp_path: Path) -> None:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add(ANIMALS)
        found = index.search("cats bark", k=3, where=lambda f: f["legs"] == 4 and f["title"] is None)
        assert ids(found) == ["dog"]


@pytest.mark.parametrize(
    "factory", ["IVF16,SQ8", "IVF16,Flat", "SQ8", "SQ4", "hnsw", "PQ8", "PCA16,IVF16,SQ8"]
)
@pytest.mark.parametrize("is_crowded", [False, True])
def test_a_filter_misses_none_of_the_nearest_whatever_holds_the_vectors(
    tmp_path: Path, factory: str, is_crowded: bool
) -> None:
    own = np.random.default_rng(5)
    vectors = own.standard_normal((3000, DIMENSION))
    if is_crowded:  # so near to each other that codes cannot tell them apart
        vectors = vectors[:1] + 1e-4 * vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    passages = [Passage(f"text {n}", id=f"{n:04}", metadata={"part": n % 3}) for n in range(3000)]
    with PassageIndex.create(tmp_path / "index", bag_of_words, factory=factory) as index:
        index.add(passages, vectors=vectors)
        index.delete(ids=["0000", "0003"])
        index.compact()
        queries = vectors[[5, 6, 7]] if is_crowded else own.standard_normal((3, DIMENSION))
        for part in range(3):
            rows = np.arange(part, 3000, 3)
            rows = rows[~np.isin(rows, [0, 3])]
            stored = index.vectors([f"{row:04}" for row in rows])
            for query, result in zip(
                queries, index.search_batch(queries, 10, where={"part": part}), strict=True
            ):
                unit = query / np.linalg.norm(query)
                scores = np.sort([stored[f"{row:04}"] @ unit for row in rows])[::-1][:10]
                assert np.allclose([passage.score or 0 for passage in result], scores, atol=1e-6)


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "SQ8"])
@pytest.mark.parametrize("strangers", [5, 4100])
def test_a_filter_misses_nothing_that_is_unlike_what_codes_were_trained_on(
    tmp_path: Path, factory: str, strangers: int
) -> None:
    own = np.random.default_rng(8)
    centre = np.eye(DIMENSION)[0]
    count = 8200
    vectors = 5 * centre + 0.3 * own.standard_normal((count, DIMENSION))
    vectors[count - strangers :] = -5 * centre + 0.02 * own.standard_normal((strangers, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    passages = [Passage(f"text {n}", id=f"{n:04}", metadata={"part": n % 2}) for n in range(count)]
    with PassageIndex.create(tmp_path / "index", bag_of_words, factory=factory) as index:
        index.add(passages[:4100], vectors=vectors[:4100])
        index.compact()
        index.add(passages[4100:], vectors=vectors[4100:])
        assert [segment["vectors"] for segment in index.check().segments] == [count]
        queries = own.standard_normal((20, DIMENSION))
        for part in range(2):
            for query, result in zip(
                queries, index.search_batch(queries, 10, where={"part": part}), strict=True
            ):
                scores = np.sort(vectors[part::2] @ query / np.linalg.norm(query))[::-1][:10]
                assert np.allclose([passage.score or 0 for passage in result], scores, atol=1e-6)


@pytest.mark.parametrize("factory", ["sq8", "sq4"])
def test_codes_that_were_trained_on_a_few_vectors_are_trained_anew(tmp_path: Path, factory: str) -> None:
    own = np.random.default_rng(9)
    vectors = own.standard_normal((5000, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    passages = [Passage(f"text {n}", id=f"{n:04}") for n in range(5000)]
    with PassageIndex.create(tmp_path / "index", bag_of_words, factory=factory) as index:
        index.add(passages[:3], vectors=vectors[:3])
        index.compact()
        index.add(passages[3:], vectors=vectors[3:])
        for _ in range(2):
            (segment,) = index.check().segments
            assert segment["vectors"] == 5000
            assert segment["recall"] > 0.98
            queries = own.standard_normal((20, DIMENSION))
            nearest = np.argmax(queries @ vectors.T, axis=1)
            results = index.search_batch(queries, 1)
            assert [int(result[0].id) for result in results] == nearest.tolist()
            index.compact()


def test_codes_of_a_filter_are_compared_before_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = np.random.default_rng(6)
    vectors = own.standard_normal((3000, DIMENSION))
    with PassageIndex.create(tmp_path / "index", bag_of_words, factory="IVF16,SQ8") as index:
        index.add(
            [Passage(f"text {n}", id=f"{n:04}", metadata={"part": n % 3}) for n in range(3000)],
            vectors=vectors,
        )
        read: list[int] = []
        vectors_of = Storage.vectors_of

        def count(self: Storage, keys: Any, dimension: int) -> Any:
            keys = list(keys)
            read.append(len(keys))
            return vectors_of(self, keys, dimension)

        monkeypatch.setattr(Storage, "vectors_of", count)
        assert len(index.search(own.standard_normal(DIMENSION), 5, where={"part": 1})) == 5
        assert sum(read) < 500


@pytest.mark.parametrize("factory", ["flat", "IVF16,SQ8", "hnsw"])
def test_what_is_hidden_is_left_out_of_all(tmp_path: Path, factory: str) -> None:
    own = np.random.default_rng(7)
    vectors = own.standard_normal((1000, DIMENSION))
    passages = [
        Passage(f"text {n}", id=f"{n:04}", metadata={"origin": "generated"} if n % 100 == 7 else {})
        for n in range(1000)
    ]
    with PassageIndex.create(tmp_path / "index", bag_of_words, factory=factory) as index:
        index.add(passages[:900], vectors=vectors[:900])
        index.delete(ids=["0000", "0107"])
        index.compact()
        index.add(passages[900:], vectors=vectors[900:])
        for where in (None, lambda fields: True):
            assert "0007" not in ids(index.search(vectors[7], k=5, where=where))
            assert "0907" not in ids(index.search(vectors[907], k=5, where=where))
        if factory != "hnsw":  # which does not find all
            assert len(index.search(vectors[7], k=1000, options={"nprobe": 16})) == 989
        assert ids(index.search(vectors[7], k=1, generated=True)) == ["0007"]
        assert "0007" not in ids(index.search(vectors[7], k=1000, text="text", mode="words"))
        assert not index.search(vectors[7], ids=["0007"])
