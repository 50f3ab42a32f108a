"""PassageVectorStore: a passage index on disk as a LangChain vector store."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from nbce_rag import PassageIndex
from nbce_rag.errors import IndexNotFoundError, InputError
from nbce_rag.passages import Passage

from .documents import to_document, to_passage
from .embeddings import NBCEEmbeddings, as_embedder
from .filters import Filter, as_where

__all__ = ["PassageVectorStore", "stored_passage"]


class PassageVectorStore(VectorStore):
    """Documents on disk, searched by cosine similarity; shared with the command line and LlamaIndex.

    Metadata are JSON types. `source` and `title` in them are the passage's own; the title is embedded with
    the text. Nothing is pickled: see `nbce_rag.PassageIndex`, which also says what threads and processes may
    do at once.

    Args:
        path: folder of the index; made with the first document if there is none. None keeps the
            index in a temporary folder, which goes with `close()` or the object.
        embedding: any LangChain embeddings; default: `NBCEEmbeddings`, the model that an existing index
            was made with.
        index: an open index, in place of path and embedding.

    Raises:
        InputError: both an index and a path or embedding.
        EmbedderMismatchError: the index was made with another model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        embedding: Embeddings | None = None,
        *,
        index: PassageIndex | None = None,
    ) -> None:
        if index is not None and (path is not None or embedding is not None):
            raise InputError("Give either an index, or a path and an embedding, not both.")
        self._embedding = embedding
        self._index = index
        self._temporary: Any = None
        self._lock = threading.Lock()
        if index is None:
            if path is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="nbce-index-")
                path = os.path.join(self._temporary.name, "index")
            self._path = os.fspath(path)
            try:
                # Without embedding the index says itself which model it was made with.
                self._index = PassageIndex.open(
                    self._path, None if embedding is None else as_embedder(embedding)
                )
            except IndexNotFoundError:
                self._embedding = embedding or NBCEEmbeddings()
        else:
            self._path = str(index.path)

    @property
    def index(self) -> PassageIndex:
        """The index itself, made now if there is none."""
        with self._lock:
            if self._index is None:
                assert self._embedding is not None
                self._index = PassageIndex.create(self._path, as_embedder(self._embedding), exist_ok=True)
            return self._index

    @property
    def embeddings(self) -> Embeddings | None:
        """The embeddings given, or None when the index brings its own."""
        return self._embedding

    def close(self) -> None:
        """Saves and lets go of the folder. Doing it twice does no harm."""
        if self._index is not None:
            self._index.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __len__(self) -> int:
        return 0 if self._index is None else len(self._index)

    def __bool__(self) -> bool:
        return True  # a store is something, also while it is empty

    # Changing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds texts, or replaces those whose id is there already.

        Args:
            texts: none of them empty.
            metadatas: one for each text.
            ids: one for each text; None lets one be made.
            **kwargs: `batch_size`, which `langchain_core.indexing` gives, is accepted.

        Returns:
            The ids.

        Raises:
            InputError: lengths that differ, an empty text, metadata that are not JSON, an unknown option.
        """
        passages = self._passages(texts, metadatas, ids, kwargs)
        self.index.add(passages)
        return [passage.id for passage in passages]

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """As `add_texts`, the embeddings awaited and the rest in a worker thread."""
        passages = self._passages(texts, metadatas, ids, kwargs)
        index = await asyncio.to_thread(lambda: self.index)
        if self._embedding is None or not passages:
            await asyncio.to_thread(index.add, passages)
        else:
            titled = [f"{p.title}\n{p.text}" if p.title else p.text for p in passages]
            vectors = await self._embedding.aembed_documents(titled)
            await asyncio.to_thread(index.add, passages, vectors=vectors)
        return [passage.id for passage in passages]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Removes documents; unknown ids are passed over. Without ids all of them go.

        Args:
            ids: which.
            **kwargs: `source`, to remove all documents of one.
        """
        source = kwargs.pop("source", None)
        _refuse(kwargs)
        if self._index is None:
            return True
        if ids is None and source is None:
            ids = [passage.id for passage in self._index]
        self._index.delete(ids, source)
        return True

    # Finding

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in that order; unknown ids are passed over."""
        if self._index is None:
            return []
        return [to_document(p) for p in (self._index.get(id_) for id_ in ids) if p is not None]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """As `get_by_ids`, in a worker thread."""
        return await asyncio.to_thread(self.get_by_ids, ids)

    def search_passages(
        self, query: str | Sequence[float], k: int = 4, filter: Filter | None = None
    ) -> list[Passage]:
        """Passages with `score` set, best first; `filter` as in `similarity_search`."""
        if self._index is None:
            return []
        where = None if filter is None else as_where(filter)
        return self._index.search(query if isinstance(query, str) else np.asarray(query), k, where)

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents most similar to a text.

        Args:
            query: a text.
            k: how many at most.
            filter: on the metadata, exact: a mapping of values, of lists of which it has to be one, of
                callables, of operators (`$eq $ne $neq $gt $gte $lt $lte $in $nin $exists`), with `$and`,
                `$or` and `$not`; or a callable that is given all metadata.

        Raises:
            InputError: an unknown operator or option, k < 1, an empty text.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search`, with cosines in [-1, 1]."""
        _refuse(kwargs)
        return _scored(self.search_passages(query, k, filter))

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
        _refuse(kwargs)
        return _scored(self.search_passages(embedding, k, filter))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """As `similarity_search`, the embedding awaited."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search_with_score(self, *args: Any, **kwargs: Any) -> list[tuple[Document, float]]:
        """As `similarity_search_with_score`, the embedding awaited."""
        given = dict(zip(("query", "k", "filter"), args, strict=False)) | kwargs
        if self._embedding is None or self._index is None:
            return await asyncio.to_thread(self.similarity_search_with_score, **given)
        vector = await self._embedding.aembed_query(given.pop("query"))
        return await asyncio.to_thread(self.similarity_search_with_score_by_vector, vector, **given)

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
        _refuse(kwargs)
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
        _refuse(kwargs)
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
        vector = self._index.embedder.embed_query(query) if isinstance(query, str) else query
        found = self.search_passages(vector, max(k, fetch_k), filter)
        vectors = self._index.vectors([passage.id for passage in found])
        found = [passage for passage in found if passage.id in vectors]  # another process may delete some
        chosen = maximal_marginal_relevance(
            np.asarray(vector, dtype=np.float32), [vectors[p.id] for p in found], lambda_mult, k
        )
        return [found[place] for place in chosen]

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

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (1 + cosine) / 2

    # Making

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with these texts, at a path or in a temporary folder; `from_documents` does the same."""
        _refuse(kwargs)
        store = cls(path, embedding)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """As `from_texts`, the embeddings awaited."""
        _refuse(kwargs)
        store = await asyncio.to_thread(cls, path, embedding)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    def _passages(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None,
        ids: Sequence[str | None] | None,
        kwargs: Mapping[str, Any],
    ) -> list[Passage]:
        _refuse({name: value for name, value in kwargs.items() if name != "batch_size"})
        every = list(texts)
        for name, given in (("metadatas", metadatas), ("ids", ids)):
            if given is not None and len(given) != len(every):
                raise InputError(f"{len(given)} {name} were given for {len(every)} texts; give one for each.")
        return [
            stored_passage(text, metadatas[place] if metadatas else {}, ids[place] if ids else None)
            for place, text in enumerate(every)
        ]


def stored_passage(text: str, metadata: Mapping[str, Any], id_: str | None) -> Passage:
    """The passage of a document, which `to_document` makes the same document of again."""
    passage = to_passage(Document(page_content=text, metadata=dict(metadata)))
    moved = {name for name in ("title", "source") if getattr(passage, name) is not None}
    rest = {name: value for name, value in metadata.items() if name not in moved}
    return replace(passage, id=id_ or uuid.uuid4().hex, metadata=rest, score=None)


def _scored(passages: Sequence[Passage]) -> list[tuple[Document, float]]:
    return [(to_document(passage), passage.score or 0.0) for passage in passages]


def _refuse(kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        raise InputError(f"Unknown option {', '.join(sorted(kwargs))}.")
