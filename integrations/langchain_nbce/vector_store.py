"""PassageVectorStore: a passage index on disk as a LangChain vector store."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from nbce_rag import AllOf, IndexNotFoundError, InputError, Passage, PassageIndex, embedding_text, warn

from .documents import to_passage
from .embeddings import NBCEEmbeddings, as_embedder
from .filters import as_where
from .vector_search import PassageSearch, refuse

__all__ = ["PassageVectorStore", "stored_passage"]

_NAMED = 5


class PassageVectorStore(PassageSearch):
    """Documents on disk, searched by cosine similarity; shared with the command line and LlamaIndex.

    Metadata are JSON types. `source` and `title` in them are the passage's own; the title is embedded with
    the text. Nothing is pickled: see `nbce_rag.PassageIndex`, which also says what threads and processes may
    do at once.

    Args:
        path: folder of the index, or the URL of one in a database; made with the first document if there is
            none. None keeps the index in a temporary folder, which goes with `close()` or the object.
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
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
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
            self._path = index.location

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

    @property
    def folder(self) -> str | None:
        """Where it lies, if another process can open it from there alone: not for a temporary folder, nor
        where the vectors are made by embeddings that were given."""
        is_own = self._embedding is None or isinstance(self._embedding, NBCEEmbeddings)
        if not is_own or self._temporary is not None:
            return None
        # Of a URL the index knows what is no secret.
        return self.index.location if "://" in self._path else self._path

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
            texts: those without a letter, such as blank pages, are passed over with a warning.
            metadatas: one for each text.
            ids: one for each text; None lets one be made.
            **kwargs: `batch_size`, which `langchain_core.indexing` gives, is accepted.

        Returns:
            The ids of what is stored.

        Raises:
            InputError: lengths that differ, metadata that are not JSON, an unknown option.
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
            vectors = await self._embedding.aembed_documents(list(map(embedding_text, passages)))
            await asyncio.to_thread(index.add, passages, vectors=vectors)
        return [passage.id for passage in passages]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Removes documents; unknown ids are passed over. Without ids all of them go.

        Args:
            ids: which.
            **kwargs: `source`, to remove all documents of one; `filter`, as in `similarity_search`.
        """
        source, filter = kwargs.pop("source", None), kwargs.pop("filter", None)
        refuse(kwargs)
        if self._index is None:
            return True
        if filter == {} and ids is None:
            raise InputError(
                "filter={} asks nothing, so that every document would go; call delete() for that."
            )
        where = None if filter is None else as_where(filter)
        if ids is None and source is None and filter is None:
            where = AllOf(())
        self._index.delete(ids, source, where=where)
        return True

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
        refuse(kwargs)
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
        refuse(kwargs)
        store = await asyncio.to_thread(cls, path, embedding)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    def _passages(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None,
        ids: Sequence[str | None] | None,
        kwargs: Mapping[str, object],
    ) -> list[Passage]:
        refuse({name: value for name, value in kwargs.items() if name != "batch_size"})
        contents = list(texts)
        for name, values in (("metadatas", metadatas), ("ids", ids)):
            if values is not None and len(values) != len(contents):
                raise InputError(
                    f"{len(values)} {name} were given for {len(contents)} texts; give one for each."
                )
        blank = [place for place, text in enumerate(contents) if not text.strip()]
        if blank:
            names = ", ".join(str(place + 1) for place in blank[:_NAMED])
            more = f" and {len(blank) - _NAMED} more" if len(blank) > _NAMED else ""
            warn(f"{len(blank)} texts without a word were passed over: number {names}{more}.")
        return [
            stored_passage(text, metadatas[place] if metadatas else {}, ids[place] if ids else None)
            for place, text in enumerate(contents)
            if text.strip()
        ]


def stored_passage(text: str, metadata: Mapping[str, Any], id_: str | None) -> Passage:
    """The passage of a document, which `to_document` makes the same document of again."""
    passage = to_passage(Document(page_content=text, metadata=dict(metadata)))
    moved = {name for name in ("title", "source") if getattr(passage, name) is not None}
    rest = {name: value for name, value in metadata.items() if name not in moved}
    return replace(passage, id=id_ or uuid.uuid4().hex, metadata=rest, score=None)
