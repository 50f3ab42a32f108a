"""The retriever of `PassageVectorStore.as_retriever`: LangChain's own, which keeps the scores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever

from nbce_rag import Passage

from .documents import SCORE_KEY, to_document, with_score

__all__ = ["ScoredRetriever"]


class ScoredRetriever(VectorStoreRetriever):
    """Writes each document's cosine into `metadata["relevance_score"]`, where fusion looks for it."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None = None, **kwargs: Any
    ) -> list[Document]:
        options = self.search_kwargs | kwargs
        store: Any = self.vectorstore
        if self.search_type == "mmr":
            return _documents(store.diverse_passages(query, **options))
        if self.search_type == "similarity":
            return _documents(store.search_passages(query, **options))
        found = store.similarity_search_with_relevance_scores(query, **options)
        return [with_score(document, 2 * relevance - 1) for document, relevance in found]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun | None = None, **kwargs: Any
    ) -> list[Document]:
        if self.search_type != "similarity":
            return await asyncio.to_thread(self._get_relevant_documents, query, **kwargs)
        options = self.search_kwargs | kwargs
        found = await self.vectorstore.asimilarity_search_with_score(query, **options)
        return [with_score(document, cosine) for document, cosine in found]


def _documents(passages: Sequence[Passage]) -> list[Document]:
    return [to_document(passage, score_key=SCORE_KEY) for passage in passages]
