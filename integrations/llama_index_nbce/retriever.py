"""PassageRetriever: a LlamaIndex retriever over a passage index, without a vector store index around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryMode

from nbce_rag import InputError, PassageIndex, RerankerLike

from .nodes import node_of
from .persistence import folder_of
from .selection import search
from .store import PassageVectorStore

__all__ = ["PassageRetriever"]


class PassageRetriever(BaseRetriever):
    """Finds nodes in a `PassageIndex`; the index's own embedder embeds the queries.

    Args:
        index: an index, a `PassageVectorStore`, or a folder as `PassageVectorStore.open` takes it.
        similarity_top_k: how many nodes.
        filters, node_ids, doc_ids: what a node must meet.
        mode: "default", "mmr", "hybrid" or "text_search".
        mmr_threshold, alpha: see `llama_index_nbce.selection.search`.
        min_score, rerank, look: as in `PassageIndex.search`; without a word, `look` is None there.
        **options: of every LlamaIndex retriever, such as `callback_manager`.
    """

    def __init__(
        self,
        index: str | os.PathLike[str] | PassageIndex | PassageVectorStore,
        *,
        similarity_top_k: int = 8,
        filters: MetadataFilters | None = None,
        node_ids: Sequence[str] | None = None,
        doc_ids: Sequence[str] | None = None,
        mode: str = "default",
        mmr_threshold: float | None = None,
        alpha: float | None = None,
        min_score: float | None = None,
        rerank: RerankerLike | None = None,
        look: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if isinstance(index, str | os.PathLike):
            index = PassageIndex.open(folder_of(index))
        index = getattr(index, "client", index)
        if not isinstance(index, PassageIndex):
            raise InputError(f"Got a {type(index).__name__}; give a PassageIndex, its folder or its store.")
        self.index = index
        self._query: dict[str, Any] = {
            "similarity_top_k": similarity_top_k,
            "filters": filters,
            "node_ids": None if node_ids is None else list(node_ids),
            "doc_ids": None if doc_ids is None else list(doc_ids),
            "mode": VectorStoreQueryMode(mode),
            "mmr_threshold": mmr_threshold,
            "alpha": alpha,
        }
        self._options = {"min_score": min_score, "rerank": rerank, "look": look}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = VectorStoreQuery(
            query_embedding=query_bundle.embedding, query_str=query_bundle.query_str, **self._query
        )
        return [
            NodeWithScore(node=node_of(passage), score=passage.score)
            for passage in search(self.index, query, **self._options)
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
