"""Which passages of an index a query may find, and the order of maximal marginal relevance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryMode
from numpy.typing import NDArray

from nbce_rag.errors import InputError
from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage

from .filters import meets
from .nodes import ref_doc_id_of, user_metadata

__all__ = ["matching", "mmr_order", "search"]

_FETCH = 200


def matching(
    index: PassageIndex,
    *,
    node_ids: Sequence[str] | None = None,
    doc_ids: Sequence[str] | None = None,
    filters: MetadataFilters | None = None,
) -> list[Passage]:
    """Passages that meet all that is given; None gives no condition, and an empty list is met by none."""
    if node_ids is not None:
        candidates = [passage for id_ in dict.fromkeys(node_ids) if (passage := index.get(id_))]
    else:
        candidates = list(index)
    documents = None if doc_ids is None else set(doc_ids)
    return [
        passage
        for passage in candidates
        if (documents is None or ref_doc_id_of(passage) in documents)
        and meets(user_metadata(passage), filters)
    ]


def search(index: PassageIndex, query: VectorStoreQuery, **options: Any) -> list[Passage]:
    """Passages that a query finds, best first, with their cosines as scores.

    Args:
        index: where to search.
        query: its embedding, or else its text, which the index's embedder embeds.
        **options: `mmr_threshold` in [0, 1], before the query's own: 1 for relevance alone, 0 for difference
            alone, default 0.5; `mmr_prefetch_k`: the most relevant passages to choose from, default 200 or
            ten times the number wanted.

    Raises:
        NotImplementedError: another mode than default and MMR.
        InputError: there is neither embedding nor text, or a threshold out of range.
    """
    if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        raise NotImplementedError(
            f"PassageVectorStore searches by meaning: query mode {query.mode.value!r} is not supported; use "
            "'default' or 'mmr'."
        )
    wanted = query.query_embedding if query.query_embedding is not None else query.query_str
    if wanted is None:
        raise InputError("The query has neither an embedding nor a text.")
    k = query.similarity_top_k
    # An index over a store with texts asks for the node ids []; like others, we take it for no condition.
    node_ids, doc_ids = query.node_ids or None, query.doc_ids or None
    ids = None
    if node_ids or doc_ids or (query.filters and query.filters.filters):
        found = matching(index, node_ids=node_ids, doc_ids=doc_ids, filters=query.filters)
        ids = [passage.id for passage in found]
    if query.mode == VectorStoreQueryMode.DEFAULT:
        return index.search(wanted, k, ids=ids)
    threshold = options.get("mmr_threshold")
    threshold = query.mmr_threshold if threshold is None else threshold
    threshold = 0.5 if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise InputError(f"mmr_threshold={threshold} is out of range; use a number in [0, 1].")
    fetch = options.get("mmr_prefetch_k") or max(_FETCH, 10 * k)
    candidates = index.search(wanted, max(fetch, k), ids=ids)
    vectors = index.vectors([passage.id for passage in candidates])
    relevance = np.array([passage.score for passage in candidates], dtype=np.float32)
    order = mmr_order(
        relevance, np.array([vectors[passage.id] for passage in candidates]), k, float(threshold)
    )
    return [candidates[place] for place in order]


def mmr_order(
    relevance: NDArray[np.float32], vectors: NDArray[np.float32], k: int, threshold: float
) -> list[int]:
    """Places of up to k candidates by maximal marginal relevance (Carbonell and Goldstein, 1998).

    Each next one maximises threshold * relevance - (1 - threshold) * likeness, the cosine to the likest of
    those chosen before it.

    Args:
        relevance: cosines to the query, [n].
        vectors: normalised, [n, d].
        k: how many.
        threshold: in [0, 1].
    """
    order: list[int] = []
    likeness = np.full(len(relevance), -1.0, dtype=np.float32)
    rest = np.ones(len(relevance), dtype=bool)
    while len(order) < min(k, len(relevance)):
        values = threshold * relevance - ((1 - threshold) * likeness if order else 0.0)
        place = int(np.argmax(np.where(rest, values, -np.inf)))
        order.append(place)
        rest[place] = False
        likeness = np.maximum(likeness, vectors @ vectors[place])
    return order
