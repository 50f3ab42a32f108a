"""Which passages of an index a query finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryMode

from nbce_rag import AllOf, Condition, InputError, Passage, PassageIndex, SearchMode, UnsupportedError

from .filters import as_condition, in_documents

__all__ = ["condition_of", "matching", "search"]

_FETCH = 200
_MODES: dict[VectorStoreQueryMode, SearchMode] = {
    VectorStoreQueryMode.DEFAULT: "vector",
    VectorStoreQueryMode.MMR: "vector",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.TEXT_SEARCH: "words",
    VectorStoreQueryMode.SPARSE: "words",
}


def condition_of(doc_ids: Sequence[str] | None, filters: MetadataFilters | None) -> Condition | None:
    """What a node has to meet; None for nothing. An empty list is met by none."""
    parts = [] if doc_ids is None else [in_documents(doc_ids)]
    condition = as_condition(filters)
    if condition is not None:
        parts.append(condition)
    return AllOf(tuple(parts)) if parts else None


def matching(
    index: PassageIndex,
    *,
    node_ids: Sequence[str] | None = None,
    doc_ids: Sequence[str] | None = None,
    filters: MetadataFilters | None = None,
) -> list[Passage]:
    """Passages that meet all that is given, in the order of the ids, or in which they were added.

    None gives no condition, and an empty list is met by none.
    """
    passages = list(index.find(condition_of(doc_ids, filters), ids=node_ids))
    if node_ids is not None:
        by_id = {passage.id: passage for passage in passages}
        return [by_id[id_] for id_ in dict.fromkeys(node_ids) if id_ in by_id]
    return passages


def search(index: PassageIndex, query: VectorStoreQuery, **options: Any) -> list[Passage]:
    """Passages that a query finds, best first, with their cosines as scores, in every mode.

    None gives no condition, and an empty list of ids or filters is met by none. The modes are `default`,
    `mmr`, `text_search` and `sparse` (words, by BM25), and `hybrid` (both, fused by their ranks: `alpha` is
    the weight of meaning, default 0.5; `hybrid_top_k` how many come of it, `sparse_top_k` how many of words).

    Args:
        index: where to search.
        query: its embedding, or else its text, which the index's embedder embeds.
        **options: `mmr_threshold` in [0, 1], before the query's own: 1 for relevance alone, 0 for difference
            alone, default 0.5; `mmr_prefetch_k`: the most relevant passages to choose from, default 200 or
            ten times the number wanted; `min_score`, `rerank`, `look`, `generated`, `options`, `fetch_k`: as
            in `PassageIndex.search`.

    Raises:
        UnsupportedError: another mode.
        InputError: there is neither embedding nor text, no text for words, or a value out of range.
    """
    mode = _MODES.get(query.mode)
    if mode is None:
        raise UnsupportedError(
            f"PassageVectorStore does not support query mode {query.mode.value!r}; use "
            f"{', '.join(other.value for other in _MODES)}."
        )
    text_or_vector = query.query_str if query.query_embedding is None else query.query_embedding
    if text_or_vector is None:
        raise InputError("The query has neither an embedding nor a text.")
    k = query.similarity_top_k
    arguments: dict[str, Any] = {
        name: options[name]
        for name in ("min_score", "rerank", "look", "generated", "options", "fetch_k")
        if options.get(name) is not None
    }
    if query.mode == VectorStoreQueryMode.MMR:
        threshold = options.get("mmr_threshold")
        threshold = query.mmr_threshold if threshold is None else threshold
        threshold = 0.5 if threshold is None else threshold
        if not 0 <= threshold <= 1:
            raise InputError(f"mmr_threshold={threshold} is out of range; use a number in [0, 1].")
        arguments["mmr"] = float(threshold)
        arguments["fetch_k"] = options.get("mmr_prefetch_k") or max(_FETCH, 10 * k)
    if query.mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH):
        k = query.sparse_top_k or k
    if query.mode == VectorStoreQueryMode.HYBRID:
        k = query.hybrid_top_k or k
        if query.sparse_top_k:
            arguments.setdefault("fetch_k", max(query.sparse_top_k, query.similarity_top_k, k))
        if query.alpha is not None:
            arguments["balance"] = query.alpha
    return index.search(
        text_or_vector,
        k,
        condition_of(query.doc_ids, query.filters),
        ids=query.node_ids,
        mode=mode,
        text=query.query_str,
        **arguments,
    )
