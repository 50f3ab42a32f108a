"""PassageRetriever: documents with their scores, which a retriever of LangChain's own throws away."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, field_validator

from nbce_rag import InputError, PassageIndex

from .documents import SCORE_KEY, to_document
from .filters import Filter
from .vector_store import PassageVectorStore

__all__ = ["PassageRetriever"]


class PassageRetriever(BaseRetriever):
    """Retrieves from a passage index and writes each cosine into `metadata["relevance_score"]`.

    Fusion takes it from there as the passage's prior, as it does with scores of LangChain's rerankers.

    Attributes:
        store: a `PassageVectorStore`, a `PassageIndex`, or the folder of one.
        k: how many documents; `invoke(query, k=...)` asks for another number.
        search_type: "similarity", "mmr" for documents that differ, "hybrid" for meaning and words, "words".
        score_threshold: least cosine, in [-1, 1].
        filter: see `PassageVectorStore.similarity_search`.
        fetch_k, lambda_mult: for "mmr"; `fetch_k` also for `rerank`.
        balance: weight of meaning in "hybrid".
        rerank: as in `PassageIndex.search`; its scores are what is written.
        look: as in `PassageIndex.search`: a second look from the best passage, for questions that take
            two; None looks where `k` is 8 or more.
        score_key: where the score is written.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    store: PassageVectorStore
    k: int = Field(default=4, ge=1)
    search_type: Literal["similarity", "mmr", "hybrid", "words"] = "similarity"
    score_threshold: float | None = Field(default=None, ge=-1, le=1)
    filter: Any = None
    fetch_k: int = Field(default=20, ge=1)
    lambda_mult: float = Field(default=0.5, ge=0, le=1)
    balance: float = Field(default=0.5, ge=0, le=1)
    rerank: Any = None
    look: bool | None = None
    score_key: str = SCORE_KEY

    @field_validator("store", mode="before")
    @classmethod
    def _open(cls, store: object) -> object:
        if isinstance(store, PassageIndex):
            return PassageVectorStore(index=store)
        if isinstance(store, (str, os.PathLike)):
            return PassageVectorStore(index=PassageIndex.open(store))
        if isinstance(store, VectorStore) and not isinstance(store, PassageVectorStore):
            raise InputError(
                f"A {type(store).__name__} holds no passage index; retrieve from it with "
                "ScoredRetriever(vectorstore=store), or with its own as_retriever()."
            )
        return store

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It is, by its store's folder."""
        return True

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """With the folder in place of the store; what no folder has cannot be read back."""
        if self.store.folder is None:
            return self.to_json_not_implemented()
        made = cast(SerializedConstructor, super().to_json())
        made["kwargs"]["store"] = self.store.folder
        return made

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,
        k: int | None = None,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        if kwargs:
            raise InputError(f"Unknown option {', '.join(sorted(kwargs))}; a call takes k and filter.")
        count, where = k or self.k, filter if filter is not None else self.filter
        options: dict[str, Any] = {
            "min_score": self.score_threshold,
            "rerank": self.rerank,
            "look": self.look,
        }
        if self.search_type == "mmr":
            options |= {"mmr": self.lambda_mult, "fetch_k": max(count, self.fetch_k)}
        elif self.search_type != "similarity":
            options |= {"mode": self.search_type, "balance": self.balance}
        if self.rerank is not None:
            options["fetch_k"] = max(count, self.fetch_k)
        passages = self.store.search_passages(query, count, where, **options)
        return [to_document(passage, score_key=self.score_key) for passage in passages]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun | None = None, **kwargs: Any
    ) -> list[Document]:
        return await asyncio.to_thread(self._get_relevant_documents, query, **kwargs)
