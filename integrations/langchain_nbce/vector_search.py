"""How a vector store finds documents in a passage index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from nbce_rag import InputError, Passage, PassageIndex, SearchOptions

from .documents import to_document
from .filters import Filter, as_where
from .scored_retriever import PassageStoreRetriever

__all__ = ["PassageSearch", "refuse"]

_OPTIONS = {"text", *SearchOptions.__annotations__} - {"ids"}


class PassageSearch(VectorStore):
    """The half of `PassageVectorStore` that reads."""

    _index: PassageIndex | None
    _embedding: Embeddings | None

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in that order; unknown ids are passed over."""
        if self._index is None:
            return []
        return [to_document(p) for p in (self._index.get(id_) for id_ in ids) if p is not None]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """As `get_by_ids`, in a worker thread."""
        return await asyncio.to_thread(self.get_by_ids, ids)

    def search_passages(
        self, query: str | Sequence[float], k: int = 4, filter: Filter | None = None, **options: Any
    ) -> list[Passage]:
        """Passages with `score` set, best first; `filter` and options as in `similarity_search`."""
        refuse({name: value for name, value in options.items() if name not in _OPTIONS})
        if self._index is None:
            return []
        where = None if filter is None else as_where(filter)
        return self._index.search(query if isinstance(query, str) else np.asarray(query), k, where, **options)

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents most similar to a text.

        Args:
            query: a text.
            k: how many at most.
            filter: on the metadata, exact: a mapping of values, of lists of which it has to be one, of
                callables, of operators (`$eq $ne $neq $gt $gte $lt $lte $in $nin $contains $exists`), with
                `$and`, `$or` and `$not`; or a callable that is given all metadata.
            **kwargs: `mode` ("vector", "words", "hybrid"), `balance`, `min_score`, `rerank`, `fetch_k`,
                `look`, `generated`, `options`, `text`: as in `PassageIndex.search`.

        Raises:
            InputError: an unknown operator or option, k < 1, an empty text.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search`, with cosines in [-1, 1]."""
        return _with_scores(self.search_passages(query, k, filter, **kwargs))

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents most similar to a vector."""
        return [
            document
            for document, _ in self.similarity_search_with_score_by_vector(embedding, k, filter, **kwargs)
        ]

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search_by_vector`, with cosines in [-1, 1]."""
        return _with_scores(self.search_passages(embedding, k, filter, **kwargs))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """As `similarity_search`, the embedding awaited."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search_with_score(self, *args: Any, **kwargs: Any) -> list[tuple[Document, float]]:
        """As `similarity_search_with_score`, the embedding awaited."""
        arguments = dict(zip(("query", "k", "filter"), args, strict=False)) | kwargs
        if self._embedding is None or self._index is None:
            return await asyncio.to_thread(self.similarity_search_with_score, **arguments)
        text = arguments.pop("query")
        vector = await self._embedding.aembed_query(text)
        arguments.setdefault("text", text)  # for words, a reranker, a second look
        return await asyncio.to_thread(self.similarity_search_with_score_by_vector, vector, **arguments)

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """As `similarity_search_by_vector`, in a worker thread."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, **kwargs)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Of the `fetch_k` most similar documents k that differ; `lambda_mult` 1 is similarity alone."""
        refuse(kwargs)
        return list(map(to_document, self.diverse_passages(query, k, fetch_k, lambda_mult, filter)))

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, of a vector."""
        refuse(kwargs)
        return list(map(to_document, self.diverse_passages(embedding, k, fetch_k, lambda_mult, filter)))

    def diverse_passages(
        self,
        query: str | Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
    ) -> list[Passage]:
        """As `max_marginal_relevance_search`, with `score` set."""
        if self._index is None:
            return []
        return self.search_passages(query, k, filter, mmr=lambda_mult, fetch_k=max(k, fetch_k))

    async def amax_marginal_relevance_search(self, query: str, *args: Any, **kwargs: Any) -> list[Document]:
        """As `max_marginal_relevance_search`, in a worker thread."""
        return await asyncio.to_thread(self.max_marginal_relevance_search, query, *args, **kwargs)

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], *args: Any, **kwargs: Any
    ) -> list[Document]:
        """As `max_marginal_relevance_search_by_vector`, in a worker thread."""
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector, embedding, *args, **kwargs
        )

    def as_retriever(self, **kwargs: Any) -> VectorStoreRetriever:
        """As in LangChain, with each document's cosine in `metadata["relevance_score"]`."""
        tags = kwargs.pop("tags", None) or [*self._get_retriever_tags()]
        return PassageStoreRetriever(vectorstore=self, tags=tags, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (1 + cosine) / 2


def _with_scores(passages: Sequence[Passage]) -> list[tuple[Document, float]]:
    return [(to_document(passage), passage.score or 0.0) for passage in passages]


def refuse(options: Mapping[str, object]) -> None:
    """Raises InputError for options that nobody knows."""
    if options:
        raise InputError(f"Unknown option {', '.join(sorted(options))}.")
