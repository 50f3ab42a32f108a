"""PassageVectorStore: LlamaIndex's vector store over the folder that the command line and LangChain use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from nbce_rag import (
    DEFAULT_EMBEDDER,
    AllOf,
    EmbedderLike,
    EmbedderMismatchError,
    InputError,
    PassageIndex,
    expand_home,
    warn,
)

from . import persistence
from .embedding import LlamaIndexEmbedder, NodeEmbeddings, PassageEmbedding
from .filters import as_condition, in_documents
from .nodes import is_blank, node_of, passage_of
from .selection import matching, search

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from llama_index.core import VectorStoreIndex

__all__ = ["PassageVectorStore"]

_NAMED = 5


class PassageVectorStore(BasePydanticVectorStore):
    """Nodes in a `PassageIndex`: stored at once, found by cosine, kept with their text and all else.

    Make one with `open`, `create`, or of an index that is open. `store.as_index()` needs no other store.
    Passages that others wrote are nodes too, whose document is their source.

    Args:
        index: where the nodes are.

    Example:
        >>> store = PassageVectorStore.create("kb", embed_model=embed_model)  # doctest: +SKIP
        >>> index = store.as_index()  # doctest: +SKIP
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    path: str = Field(description="Folder of the index, or its URL without a password.")

    _index: PassageIndex = PrivateAttr()

    def __init__(self, index: PassageIndex, **fields: object) -> None:
        super().__init__(path=index.location)  # type: ignore[call-arg]
        self._index = index

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], embed_model: BaseEmbedding | None = None, **options: Any
    ) -> Self:
        """Opens the folder of an index.

        Args:
            path: the folder, or what `StorageContext.persist` made: its folder or its file of the store.
            embed_model: what made its vectors; default: what the folder says, loaded when it is needed.
            **options: of `PassageIndex.open`.

        Raises:
            IndexNotFoundError: there is none.
            EmbedderMismatchError: it was made with another embedding model.
        """
        path = persistence.folder_of(path)
        if embed_model is not None:
            return cls(PassageIndex.open(path, _embedder(embed_model, None, DEFAULT_EMBEDDER), **options))
        try:
            return cls(PassageIndex.open(path, **options))
        except EmbedderMismatchError as error:
            # Made for vectors that come with the nodes: there is no model to load.
            with PassageIndex.open(path, maintenance=True) as described:
                dimension = described.dimension
            try:
                return cls(PassageIndex.open(path, NodeEmbeddings(dimension), **options))
            except EmbedderMismatchError:
                raise error from None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        embed_model: BaseEmbedding | str | None = None,
        *,
        dimension: int | None = None,
        exist_ok: bool = False,
        **options: Any,
    ) -> Self:
        """Makes an empty index in a new folder.

        Args:
            path: the folder.
            embed_model: an embedding model of LlamaIndex, or the name of a sentence-transformers model;
                default: `all-MiniLM-L6-v2`, or none where `dimension` is given.
            dimension: length of the vectors; alone, for nodes that come with their vectors.
            exist_ok: open the index if there is one.
            **options: of `PassageIndex.create`.
        """
        embedder = _embedder(embed_model, dimension, DEFAULT_EMBEDDER)
        return cls(PassageIndex.create(path, embedder, exist_ok=exist_ok, **options))

    @classmethod
    def class_name(cls) -> str:
        return "PassageVectorStore"

    @property
    def client(self) -> PassageIndex:
        """The index."""
        return self._index

    @property
    def embed_model(self) -> PassageEmbedding:
        """The index's embedder, for `VectorStoreIndex(..., embed_model=store.embed_model)`."""
        return PassageEmbedding(self._index.embedder)

    def as_index(self, **options: Any) -> VectorStoreIndex:
        """A `VectorStoreIndex` over this store, with the index's own embedder.

        `VectorStoreIndex.from_vector_store(store)` takes `Settings.embed_model` where none is given, which is
        OpenAI's until it is set.

        Args:
            **options: of `VectorStoreIndex.from_vector_store`, such as `embed_model` in place of its own.
        """
        from llama_index.core import VectorStoreIndex  # it imports much that a store does without

        options.setdefault("embed_model", self.embed_model)
        index: VectorStoreIndex = VectorStoreIndex.from_vector_store(self, **options)
        return index

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Adds nodes, or replaces those of the same ids; the index embeds those without embedding.

        Nodes without text, such as those of blank pages, are passed over with a warning that names them.

        Returns:
            The ids of the nodes that are stored.

        Raises:
            InputError: a node that holds anything but text, or metadata that are not JSON. Nothing is stored
                then.
        """
        latest = {node.node_id: node for node in nodes}
        if blank := [id_ for id_, node in latest.items() if is_blank(node)]:
            names = ", ".join(_name(latest[id_]) for id_ in blank[:_NAMED])
            more = f" and {len(blank) - _NAMED} more" if len(blank) > _NAMED else ""
            warn(f"{len(blank)} nodes without text were passed over: {names}{more}.")
            self._index.delete(blank)  # an older version may have had a text
            latest = {id_: node for id_, node in latest.items() if id_ not in set(blank)}
        passages = {id_: passage_of(node) for id_, node in latest.items()}
        embedded = {id_: node.embedding for id_, node in latest.items() if node.embedding is not None}
        if embedded:
            self._index.add([passages[id_] for id_ in embedded], vectors=list(embedded.values()))
        self._index.add([passage for id_, passage in passages.items() if id_ not in embedded])
        return [node.node_id for node in nodes if node.node_id in latest]

    def delete(self, ref_doc_id: str, **delete_kwargs: object) -> None:
        """Removes the nodes of a document."""
        self._index.delete(where=in_documents([ref_doc_id]))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: object,
    ) -> None:
        """Removes the nodes with these ids that meet the filters; neither removes none."""
        if node_ids is not None or filters is not None:
            where = as_condition(filters)
            self._index.delete(node_ids, where=AllOf(()) if where is None else where)

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """The nodes with these ids that meet the filters, with their (normalised) embeddings."""
        passages = matching(self._index, node_ids=node_ids, filters=filters)
        vectors = self._index.vectors([passage.id for passage in passages])
        nodes: list[BaseNode] = []
        for passage in passages:
            node = node_of(passage)
            node.embedding = [float(x) for x in vectors[passage.id]]
            nodes.append(node)
        return nodes

    def clear(self) -> None:
        """Removes every node, and every passage that others wrote."""
        self._index.delete(where=AllOf(()))

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Finds nodes, by meaning, words or both; see `llama_index_nbce.selection.search`."""
        # An index over a store with texts asks for the node ids []; like others, we take it for no condition.
        query = replace(query, node_ids=query.node_ids or None)
        passages = search(self._index, query, **kwargs)
        return VectorStoreQueryResult(
            nodes=[node_of(passage) for passage in passages],
            similarities=[float(passage.score or 0.0) for passage in passages],
            ids=[passage.id for passage in passages],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: object) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: object,
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await asyncio.to_thread(self.query, query, **kwargs)

    def persist(self, persist_path: str, fs: AbstractFileSystem | None = None) -> None:
        """Says in a small JSON file where the folder is; the nodes are stored already.

        To another file system than the local one the nodes are copied.
        """
        persistence.persist(self._index, persist_path, fs)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str,
        fs: AbstractFileSystem | None = None,
        *,
        embed_model: BaseEmbedding | None = None,
        into: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens what `persist` wrote.

        Args:
            persist_path: as given to `persist`; a folder is opened as `open` does.
            fs: the file system it is on.
            embed_model: see `open`.
            into: local folder for a copy from another file system; default: a temporary one.
        """
        if fs is None and os.path.isdir(expand_home(persist_path)):
            return cls.open(persist_path, embed_model)
        return cls.open(persistence.locate(persist_path, fs, into), embed_model)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | os.PathLike[str],
        namespace: str = "default",
        fs: AbstractFileSystem | None = None,
        *,
        embed_model: BaseEmbedding | None = None,
        into: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Opens what `StorageContext.persist` wrote, or the folder of an index itself."""
        if fs is None and not (Path(expand_home(persist_dir)) / persistence.file_name(namespace)).exists():
            return cls.open(persist_dir, embed_model)
        path = f"{os.fspath(persist_dir)}/{persistence.file_name(namespace)}"
        return cls.from_persist_path(path, fs, embed_model=embed_model, into=into)


def _name(node: BaseNode) -> str:
    """A node for a person: its file and page if it has any."""
    name = node.metadata.get("file_name") or node.metadata.get("file_path") or node.metadata.get("title")
    page = node.metadata.get("page_label")
    where = f"{name}, page {page}" if name and page else name
    return f"{where} ({node.node_id})" if where else node.node_id


def _embedder(embed_model: BaseEmbedding | str | None, dimension: int | None, default: str) -> EmbedderLike:
    if embed_model is None:
        return default if dimension is None else NodeEmbeddings(dimension)
    if isinstance(embed_model, PassageEmbedding):
        return embed_model.embedder
    if isinstance(embed_model, BaseEmbedding):
        return LlamaIndexEmbedder(embed_model, dimension=dimension)
    if isinstance(embed_model, str):
        return embed_model
    raise InputError(
        f"embed_model is a {type(embed_model).__name__}; give an embedding model of LlamaIndex or a name."
    )
