"""Searching for words, for both, for what differs; reranking; scores; batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tools import ANIMALS, bag_of_words, ids

from nbce_rag.errors import InputError, ModelError
from nbce_rag.index import CrossEncoderReranker, PassageIndex
from nbce_rag.index.ranking import mmr_order, reciprocal_ranks
from nbce_rag.index.sqlite.words import match_expression
from nbce_rag.index.words import query_terms
from nbce_rag.passages import Passage


@pytest.fixture
def index(place: Path | str) -> Iterator[PassageIndex]:
    with PassageIndex.create(place, bag_of_words) as made:
        made.add(ANIMALS)
        yield made


def test_words_are_found_by_bm25_with_cosines_as_scores(index: PassageIndex) -> None:
    index.add([Passage("the cat and the dog", id="both"), Passage("cat cat cat", id="thrice")])
    query = "cats" if index.has_folder else "cat cats"  # SQLite's words are English ones, without endings
    found = index.search(query, mode="words")
    assert ids(found) == ["thrice", "cat", "both"] or ids(found)[-1] == "both"
    cosines = {p.id: p.score for p in index.search(query)}
    assert all(p.score == pytest.approx(cosines[p.id], abs=1e-6) for p in found)
    assert index.search("unheard", mode="words") == []
    assert index.search('"; DROP * ^ ( NEAR', mode="words") == []


def test_words_follow_every_change(index: PassageIndex) -> None:
    index.add([Passage("snakes hiss", id="cat")])
    assert index.search("purr", mode="words") == []
    assert ids(index.search("hissing" if index.has_folder else "hiss", mode="words")) == ["cat"]
    index.delete("cat")
    assert index.search("hiss", mode="words") == []


def test_chinese_words_are_pairs_of_characters(index: PassageIndex) -> None:
    index.add([Passage("水在一百度沸腾。", id="water"), Passage("度假的一百人", id="people")])
    assert ids(index.search("一百度", mode="words"))[0] == "water"
    assert ids(index.search("沸腾", mode="words")) == ["water"]
    assert index.search("腾沸", mode="words") == []
    assert match_expression(query_terms("水 a1 沸腾吗")) == '"水" OR "a1" OR "沸 腾" OR "腾 吗"'
    assert query_terms("?!") == []


def test_hybrid_fuses_ranks(index: PassageIndex) -> None:
    query = bag_of_words(["birds sing"])[0]
    assert ids(index.search(query, mode="hybrid", text="purr"))[:2] in (["bird", "cat"], ["cat", "bird"])
    assert ids(index.search(query, 1, mode="hybrid", text="purr", balance=0)) == ["cat"]
    assert ids(index.search(query, 1, mode="hybrid", text="purr", balance=1)) == ["bird"]
    assert ids(index.search(query, mode="hybrid", text="purr", where={"legs": 2})) == ["bird"]
    with pytest.raises(InputError, match="text="):
        index.search(query, mode="hybrid")


def test_reciprocal_ranks() -> None:
    fused = reciprocal_ranks([["a", "b"], ["b", "c"]])
    assert fused == {"a": 1 / 61, "b": 1 / 62 + 1 / 61, "c": 1 / 62}
    assert max(reciprocal_ranks([["a"], ["b"]], [0.4, 0.6]).items(), key=lambda kv: kv[1])[0] == "b"


def test_the_least_score(index: PassageIndex) -> None:
    every = index.search("cats purr")
    assert index.search("cats purr", min_score=every[0].score) == every[:1]
    assert index.search("cats purr", min_score=1.0) == []


def test_mmr(index: PassageIndex) -> None:
    vectors = np.zeros((3, 32))
    vectors[0, 0], vectors[1, :2], vectors[2, :2] = 1, (1, 0.05), (1, -2)
    index.add(ANIMALS, vectors=vectors)
    assert ids(index.search(vectors[0], 2, mmr=1.0)) == ["cat", "dog"]
    assert ids(index.search(vectors[0], 2, mmr=0.3)) == ["cat", "bird"]
    assert ids(index.search(vectors[0], 2, mmr=0.3, fetch_k=2)) == ["cat", "dog"]
    order = mmr_order(np.array([0.9, 0.8], np.float32), np.eye(2, dtype=np.float32), 5, 0.5)
    assert order == [0, 1]


def test_rerank(index: PassageIndex) -> None:
    def by_length(query: str, texts: Sequence[str]) -> list[float]:
        return [len(text) / 100 for text in texts]

    found = index.search("cats purr", 2, rerank=by_length)
    assert [(p.id, p.score) for p in found] == [("cat", 0.14), ("bird", 0.1)]
    assert index.search("cats purr", rerank=by_length, min_score=0.12) == found[:1]
    with pytest.raises(InputError, match="gave 1 scores for 3 texts"):
        index.search("cats", rerank=lambda query, texts: [1.0])
    with pytest.raises(InputError, match="got int"):
        index.search("cats", rerank=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text="):
        index.search(bag_of_words(["cats"])[0], rerank=by_length)


def test_a_cross_encoder(index: PassageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    class Tiny:
        def __init__(self, model: str, **options: Any) -> None:
            assert (options["trust_remote_code"], options["model_kwargs"]) == (
                False,
                {"use_safetensors": True},
            )

        def predict(self, pairs: Any, activation_fn: Any, **options: Any) -> Any:
            import torch

            logits = torch.tensor([float(len(text)) - 9 for _, text in pairs])
            return activation_fn(logits).numpy()

    with pytest.raises(ModelError, match="safetensors"):
        index.search("cats", rerank=str(tmp_path / "nothing"))
    monkeypatch.setattr(sentence_transformers, "CrossEncoder", Tiny)
    found = index.search("cats", rerank=CrossEncoderReranker("tiny"))
    assert ids(found) == ["cat", "bird", "dog"]
    assert [p.score for p in found] == pytest.approx([1 / (1 + np.exp(-5)), 1 / (1 + np.exp(-1)), 0.5])


def test_a_batch_is_what_single_searches_give(index: PassageIndex) -> None:
    index.add(Passage(f"word{n % 5} number{n}", id=f"{n:02}") for n in range(60))
    queries = [f"word{n % 5} cats number{n}" for n in range(40)]
    expected = [index.search(query, 7) for query in queries]
    assert index.search_batch(queries, 7) == expected
    assert index.search_batch(bag_of_words(queries), 7) == expected
    assert index.search_batch([]) == []
    with pytest.raises(InputError, match="1 texts were given for 40"):
        index.search_batch(queries, texts=["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "magic"}, "mode must be one of vector, words, hybrid"),
        ({"mmr": 1.5}, r"mmr must be in \[0, 1\]"),
        ({"balance": -1}, r"balance must be in \[0, 1\]"),
        ({"min_score": 2}, r"min_score must be in \[-1, 1\]"),
        ({"fetch_k": 0}, "fetch_k must be at least 1"),
    ],
)
def test_options_out_of_range(index: PassageIndex, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.search("cats", **options)
