from __future__ import annotations

from pathlib import Path

import numpy as np
from index_tools import ANIMALS, bag_of_words, ids

from nbce_rag.index import PassageIndex


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
