"""Embedding models across the border: LlamaIndex's in a passage index, and an index's in LlamaIndex."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from numpy.typing import NDArray

from nbce_rag import (
    DEFAULT_EMBEDDER,
    Embedder,
    InputError,
    SentenceTransformerEmbedder,
    canonical_embedder_name,
)

__all__ = ["LlamaIndexEmbedder", "NodeEmbeddings", "PassageEmbedding"]


class LlamaIndexEmbedder:
    """A LlamaIndex embedding model as an `nbce_rag` embedder.

    Args:
        model: any embedding model of LlamaIndex.
        name: recorded in the index. Default: the model's name for sentence-transformers models, so that the
            command line and LangChain open the folder too; with the class in front for others.
        dimension: length of its vectors; default: found out by embedding a word.
    """

    def __init__(self, model: BaseEmbedding, name: str | None = None, dimension: int | None = None) -> None:
        self.model = model
        kind = type(model).__name__
        local = kind.startswith("HuggingFace")
        self.name = name or (
            canonical_embedder_name(model.model_name) if local else f"{kind}:{model.model_name}"
        )
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        """Length of each vector."""
        if self._dimension is None:
            self._dimension = len(self.model.get_text_embedding("dimension"))
        return self._dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of passages, [len(texts), dimension]."""
        return np.asarray(self.model.get_text_embedding_batch(list(texts)), dtype=np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Vector of a question, [dimension]."""
        return np.asarray(self.model.get_query_embedding(text), dtype=np.float32)


class NodeEmbeddings:
    """For an index that gets all its vectors with its nodes, and its queries as vectors.

    Args:
        dimension: length of the vectors.
        name: recorded in the index.
    """

    def __init__(self, dimension: int, name: str = "llama-index") -> None:
        if dimension < 1:
            raise InputError(f"dimension={dimension} must be at least 1.")
        self.dimension = dimension
        self.name = name

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Raises InputError: there is no model."""
        raise InputError(_NO_MODEL)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Raises InputError: there is no model."""
        raise InputError(_NO_MODEL)


class PassageEmbedding(BaseEmbedding):
    """The embedder of a passage index as a LlamaIndex embedding model, also for stores of others.

    Args:
        embedder: what made the index's vectors, such as `PassageIndex.embedder`, or the hub id or folder of a
            sentence-transformers model; default: the packaged one of the extra `[local]`.
        **options: fields of `BaseEmbedding`, such as `embed_batch_size`.
    """

    _embedder: Embedder = PrivateAttr()

    def __init__(self, embedder: Embedder | str = DEFAULT_EMBEDDER, **options: Any) -> None:
        if isinstance(embedder, str):
            embedder = SentenceTransformerEmbedder(embedder)
        super().__init__(model_name=embedder.name, **options)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        return "PassageEmbedding"

    @property
    def embedder(self) -> Embedder:
        """The embedder itself."""
        return self._embedder

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, such as those of an `IngestionPipeline` with `num_workers`.

        Raises:
            InputError: the embedder cannot go there. LlamaIndex would leave it behind without a word.
        """
        try:
            pickle.dumps(self._embedder)
        except Exception as error:
            raise InputError(
                f"The embedder {self.model_name!r} cannot be sent to another process ({error}); use "
                "num_workers=1, or an embedder that can be pickled."
            ) from error
        return super().__getstate__()

    def _get_query_embedding(self, query: str) -> list[float]:
        return [float(x) for x in self._embedder.embed_query(query)]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [[float(x) for x in row] for row in self._embedder.embed(texts)]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


_NO_MODEL = (
    "This index was made for vectors that come with the nodes; embed the texts first, or open it with "
    "embed_model=..."
)
