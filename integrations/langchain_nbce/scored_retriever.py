"""ScoredRetriever: LangChain's own retriever of a vector store, which keeps the scores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import field_validator

from nbce_rag import Passage, as_cosine

from .documents import SCORE_KEY, to_document, with_score

__all__ = ["PassageStoreRetriever", "ScoredRetriever"]


class ScoredRetriever(VectorStoreRetriever):
    """Retrieves from any vector store and writes each score into `metadata["relevance_score"]`.

    `store.as_retriever()` throws them away, and documents without a score count by their order alone. With
    `score_scale` what is written are cosines. Without, it is what the store gives, and the model tells from
    the scores of an answer whether they can be cosines (`score_scale` of `ChatNBCE`). MMR, and stores that
    give no scores, leave documents as they are.

    Attributes:
        vectorstore: any vector store of LangChain.
        search_type, search_kwargs: as in LangChain. What "similarity_score_threshold" compares is what it
            writes, on a scale of the store's own.
        score_scale: what the pairs of `similarity_search_with_score` hold: "cosine", "cosine_distance"
            (1 - cosine), "squared_euclidean" (of vectors of length 1), or another scale of
            `nbce_rag.as_cosine`.
        score_key: where the score is written.

    Raises:
        InputError: a `score_scale` that tells no cosines; from a search also a score that cannot be on it.
    """

    score_scale: str | None = None
    score_key: str = SCORE_KEY

    @field_validator("score_scale")
    @classmethod
    def _check_scale(cls, scale: str | None) -> str | None:
        if scale is not None:
            as_cosine(1.0, scale)  # raises if it tells none
        return scale

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        store, options = self.vectorstore, self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                return self._scored(store.similarity_search_with_score(query, **options), self.score_scale)
            if self.search_type == "similarity_score_threshold":
                return self._scored(store.similarity_search_with_relevance_scores(query, **options))
        except NotImplementedError:  # the store gives no scores
            pass
        return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        store, options = self.vectorstore, self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                pairs = await store.asimilarity_search_with_score(query, **options)
                return self._scored(pairs, self.score_scale)
            if self.search_type == "similarity_score_threshold":
                return self._scored(await store.asimilarity_search_with_relevance_scores(query, **options))
        except NotImplementedError:
            pass
        return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)

    def _scored(self, pairs: Iterable[tuple[Document, float]], scale: str | None = None) -> list[Document]:
        return [
            with_score(
                document,
                float(score) if scale is None else as_cosine(float(score), scale),
                score_key=self.score_key,
            )
            for document, score in pairs
        ]


class PassageStoreRetriever(ScoredRetriever):
    """The one of `PassageVectorStore.as_retriever`, which writes cosines whatever the search."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None = None, **kwargs: Any
    ) -> list[Document]:
        options = self.search_kwargs | kwargs
        store: Any = self.vectorstore
        if self.search_type == "mmr":
            return self._documents(store.diverse_passages(query, **options))
        if self.search_type == "similarity":
            return self._documents(store.search_passages(query, **options))
        found = store.similarity_search_with_relevance_scores(query, **options)
        return self._scored(found, "shifted_cosine")

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun | None = None, **kwargs: Any
    ) -> list[Document]:
        if self.search_type != "similarity":
            return await asyncio.to_thread(self._get_relevant_documents, query, **kwargs)
        options = self.search_kwargs | kwargs
        return self._scored(await self.vectorstore.asimilarity_search_with_score(query, **options))

    def _documents(self, passages: Sequence[Passage]) -> list[Document]:
        return [to_document(passage, score_key=self.score_key) for passage in passages]
