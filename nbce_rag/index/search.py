"""Finding passages: by meaning, by words, or both; under conditions; reranked, varied, with a second look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from ..checks import Range, check_argument, check_count, check_texts
from ..errors import InputError
from ..passages import Passage
from .encoder import embedding_text
from .explanation import explain
from .filters.conditions import Condition
from .look import half, look_terms, with_look
from .ranking import mmr_order, reciprocal_ranks
from .reranking import Reranker, RerankerLike, Scores, rerank_scores, resolve_reranker
from .rows import StaleReadError
from .storage import PassageStorage
from .vectors.factories import check_options
from .words import query_terms

__all__ = ["SearchMode", "SearchOptions", "SearchRequest", "Searcher"]

SearchMode = Literal["vector", "words", "hybrid"]
_MODES = ("vector", "words", "hybrid")
_DEPTH = 50  # of each ranking that is fused, at least
_ATTEMPTS = 3
_FETCH = 4  # times k: what is reranked or made to differ
_LOOKS_FROM = 8  # passages; of fewer, the half that gives way holds the only gold one too often
_MOST = 1 << 31  # passages; SQLite and FAISS count no further than 2**63
_SHARE = Range(0, 1)
_COSINE = Range(-1, 1)


class SearchOptions(TypedDict, total=False):
    """The keyword arguments of `PassageIndex.search`, by which others pass them on; see there."""

    ids: Iterable[str] | None
    min_score: float | None
    mode: SearchMode
    balance: float
    mmr: float | None
    rerank: RerankerLike | None
    fetch_k: int | None
    look: bool | None
    generated: bool
    options: Mapping[str, int] | None


@dataclass(frozen=True)
class SearchRequest:
    """What is asked for, beside the query: the arguments of `PassageIndex.search`, checked.

    Raises:
        InputError: One of them is out of range.
    """

    k: int
    condition: Condition | None = None
    ids: Iterable[str] | None = None
    min_score: float | None = None
    mode: SearchMode = "vector"
    mmr: float | None = None
    rerank: RerankerLike | None = None
    fetch_k: int | None = None
    generated: bool = False
    options: Mapping[str, int] | None = None
    balance: float = 0.5
    look: bool | None = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", min(check_count("k", self.k), _MOST))
        if self.fetch_k is not None:
            object.__setattr__(self, "fetch_k", min(check_count("fetch_k", self.fetch_k), _MOST))
        if self.ids is not None:
            object.__setattr__(self, "ids", check_texts("ids", self.ids))
        object.__setattr__(self, "options", check_options(self.options))
        if self.mode not in _MODES:
            raise InputError(f"mode must be one of {', '.join(_MODES)}, got {self.mode!r}.")
        if self.mmr is not None:
            check_argument("mmr", self.mmr, _SHARE)
        check_argument("balance", self.balance, _SHARE)
        if self.look is not None and not isinstance(self.look, bool):
            raise InputError(f"look must be True, False or None, got {self.look!r}.")
        if self.min_score is not None:
            check_argument("min_score", self.min_score, _COSINE, "it is a cosine")

    @property
    def depth(self) -> int:
        """How many are found before they are reranked, made to differ, or dropped by their score."""
        is_choice = self.mmr is not None or self.rerank is not None
        return max(self.k, self.fetch_k or (_FETCH * self.k if is_choice else self.k))

    def looks(self, text: str | None) -> bool:
        """Whether there is a second look, of a query in these words."""
        if self.look is not None:
            return self.look and self.k > 1
        is_plain = self.mode == "vector" and self.mmr is None and self.rerank is None
        return self.k >= _LOOKS_FROM and is_plain and bool((text or "").strip())


class Searcher:
    """Searches one index."""

    def __init__(self, storage: PassageStorage[Any], dimension: int) -> None:
        self._storage = storage
        self._dimension = dimension

    def search(
        self, queries: NDArray[np.float32], texts: Sequence[str | None], request: SearchRequest
    ) -> list[list[Passage]]:
        """Passages for each query.

        Args:
            queries: Normalised vectors, [q, d].
            texts: Their words, for "words", "hybrid" and reranking.
            request: All else.
        """
        reranker = None if request.rerank is None else resolve_reranker(request.rerank)
        if request.mode != "vector" or request.look or reranker is not None:
            for text in texts:
                if not (text or "").strip():
                    raise InputError(
                        "A search for words, a second look, and a reranker need the text of the query: give "
                        "text=."
                    )
        rankings: list[list[Passage]] = []
        choice: Any = None
        for attempt in range(_ATTEMPTS):
            is_last = attempt + 1 == _ATTEMPTS
            try:
                with self._storage.read():
                    choice = self._choose(request, is_last)
                    if choice is None:
                        return [[] for _ in queries]
                    rankings = self._rank(queries, texts, choice, request)
                break
            except StaleReadError:
                if is_last:
                    raise
        results = []
        for query, passages, text in zip(queries, rankings, texts, strict=True):
            if reranker is not None:
                passages = sorted(_reranked(reranker, text or "", passages), key=_by_score)
            passages = _at_least(request.min_score, passages)
            if passages and request.looks(text):
                # After the reranker, which reads texts for long, and the index is not held up meanwhile.
                second = self._look(query, text or "", passages, choice, request)
                if reranker is not None:
                    second = _reranked(reranker, text or "", second)
                passages = with_look(passages, _at_least(request.min_score, second), request.k)
                if reranker is not None or (request.mode == "vector" and request.mmr is None):
                    passages.sort(key=_by_score)
            results.append(passages[: request.k])
        return results

    def explain(self, request: SearchRequest) -> str:
        """Why a search finds nothing, in a sentence."""
        with self._storage.read():
            if not self._storage.state().passages:
                return "The index is empty."
            if request.ids is not None and not len(self._storage.matching(None, request.ids)):
                return f"None of the {len(list(request.ids))} ids is in the index."
            condition = request.condition
            if condition is not None and not len(self._storage.matching(condition, request.ids)):
                reason = explain(condition, self._storage)
                return reason if request.ids is None else f"{reason[:-1]}, among the ids that were given."
            if self._choose(request) is None:
                return "Only passages marked as generated would be left (origin: generated)."
        if request.min_score is not None:
            return f"No passage has a score of {request.min_score} or more (min_score)."
        return "No passage has a word of the question."

    def _choose(self, request: SearchRequest, is_last: bool = True) -> Any:
        return self._storage.choose(
            request.condition, request.ids, generated=request.generated, is_last=is_last
        )

    def _rank(
        self,
        queries: NDArray[np.float32],
        texts: Sequence[str | None],
        choice: Any,
        request: SearchRequest,
    ) -> list[list[Passage]]:
        depth = request.depth
        near: list[dict[int, float]] = [{} for _ in queries]
        if request.mode != "words":
            k = max(depth, _DEPTH) if request.mode == "hybrid" else depth
            near = self._storage.nearest(queries, k, choice, request.options or {})
        results = []
        for query, text, scores in zip(queries, texts, near, strict=True):
            ranking: list[int] | None = None
            if request.mode != "vector":
                by_words = self._by_words(query_terms(text or ""), max(depth, _DEPTH), choice)
                ranking = by_words
                if request.mode == "hybrid":
                    by_meaning = sorted(scores, key=lambda key: -scores[key])[: max(depth, _DEPTH)]
                    weights = [request.balance, 1 - request.balance]
                    fused = reciprocal_ranks([by_meaning, by_words], weights)
                    ranking = sorted(fused, key=lambda key: (-fused[key], -scores.get(key, -1.0), key))
                scores = scores | self._cosines(query, [key for key in ranking if key not in scores])
                ranking = ranking[:depth]
            elif len(scores) > 4 * depth:  # of a filter's many matches, the texts of the best are enough
                ranking = _nearest(scores, depth)
            results.append(self._passages(query, scores, ranking, request))
        return results

    def _passages(
        self,
        query: NDArray[np.float32],
        scores: dict[int, float],
        ranking: list[int] | None,
        request: SearchRequest,
    ) -> list[Passage]:
        keys = list(scores) if ranking is None else ranking
        passages = self._storage.by_keys(keys)
        if len(passages) != len(keys):
            raise self._storage.damage("lacks passages that it has vectors of")
        passages = {key: replace(passages[key], score=scores[key]) for key in keys}
        if request.mode == "vector":
            keys = sorted(passages, key=lambda key: _by_score(passages[key]))[: request.depth]
        if request.mmr is not None and keys:
            order = sorted(keys)
            _, vectors = self._storage.vectors_of(order, self._dimension)
            rows = [order.index(key) for key in keys]
            relevance = np.array([scores[key] for key in keys], dtype=np.float32)
            keys = [keys[place] for place in mmr_order(relevance, vectors[rows], request.k, request.mmr)]
        return [passages[key] for key in keys]

    def _look(
        self,
        query: NDArray[np.float32],
        text: str,
        first: Sequence[Passage],
        choice: Any,
        request: SearchRequest,
    ) -> list[Passage]:
        """What the best passage leads to and the kept ones do not have, with cosines to the query."""
        kept = {passage.id for passage in first[: half(request.k)]}
        for attempt in range(_ATTEMPTS):
            try:
                with self._storage.read():
                    size = self._storage.state().passages
                    terms = look_terms(text, first[0], size, self._storage.count_words)
                    keys = self._by_words(terms, request.k, choice)
                    scores, passages = self._cosines(query, keys), self._storage.by_keys(keys)
                break
            except StaleReadError:
                if attempt + 1 == _ATTEMPTS:
                    raise
        found = [replace(passages[key], score=scores[key]) for key in keys]
        return [passage for passage in found if passage.id not in kept][: request.k - len(kept)]

    def _by_words(self, terms: Sequence[str], depth: int, choice: Any) -> list[int]:
        return self._storage.by_words(terms, depth, choice) if terms else []

    def _cosines(self, query: NDArray[np.float32], keys: list[int]) -> dict[int, float]:
        order, vectors = self._storage.vectors_of(keys, self._dimension)
        scores = np.clip(vectors.astype(np.float64) @ query, -1.0, 1.0)
        return dict(zip(order.tolist(), scores.tolist(), strict=True))


def _nearest(scores: dict[int, float], depth: int) -> list[int]:
    """The keys of the best scores, and of all that are as good as the last of them."""
    values = sorted(scores.values(), reverse=True)
    least = values[depth - 1]
    return [key for key, score in scores.items() if score >= least]


def _reranked(reranker: Reranker | Scores, text: str, passages: Sequence[Passage]) -> list[Passage]:
    scores = rerank_scores(reranker, text, [embedding_text(p) for p in passages])
    return [replace(p, score=s) for p, s in zip(passages, scores, strict=True)]


def _at_least(score: float | None, passages: list[Passage]) -> list[Passage]:
    return passages if score is None else [p for p in passages if cast(float, p.score) >= score]


def _by_score(passage: Passage) -> tuple[float, str]:
    return -cast(float, passage.score), passage.id
