"""NBCEEmbeddings: our embedder for LangChain, and any LangChain embeddings for our index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.utils import from_env
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from nbce_rag import DEFAULT_EMBEDDER, Embedder, SentenceTransformerEmbedder

__all__ = ["NBCEEmbeddings", "as_embedder"]


class NBCEEmbeddings(BaseModel, Embeddings):
    """Embeddings of a sentence-transformers model; by default the packaged one of the extra `[local]`.

    The model is loaded when it is first used. Vectors are as the model gives them.

    Attributes:
        model: hub id or folder; default: the environment variable NBCE_EMBEDDER, else the packaged model.
        device: "cpu", "cuda", ...; None takes the best one there is.
        batch_size: texts that are embedded at once.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str = Field(default_factory=from_env("NBCE_EMBEDDER", default=DEFAULT_EMBEDDER))
    device: str | None = None
    batch_size: int = Field(default=32, ge=1)

    _embedder: SentenceTransformerEmbedder | None = PrivateAttr(default=None)

    @property
    def embedder(self) -> SentenceTransformerEmbedder:
        """The embedder as `PassageIndex` takes it."""
        if self._embedder is None:
            self._embedder = SentenceTransformerEmbedder(
                self.model, device=self.device, batch_size=self.batch_size
            )
        return self._embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        vectors: list[list[float]] = self.embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        vector: list[float] = self.embedder.embed_query(text).tolist()
        return vector


class _LangChainEmbedder:
    """Any LangChain embeddings as an embedder of an index."""

    def __init__(self, embeddings: Embeddings, name: str) -> None:
        self.embeddings = embeddings
        self.name = name
        self._dimension: int | None = None

    @property
    def dimension(self) -> int:
        """Length of each vector; embeds one word to find out."""
        if self._dimension is None:
            self._dimension = len(self.embeddings.embed_query("dimension"))
        return self._dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts), dimension]"""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return np.asarray(self.embeddings.embed_documents(list(texts)), dtype=np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """[dimension]"""
        return np.asarray(self.embeddings.embed_query(text), dtype=np.float32)


def as_embedder(embeddings: Embeddings) -> Embedder:
    """An embedder of any LangChain embeddings, named after their class and model."""
    if isinstance(embeddings, NBCEEmbeddings):
        return embeddings.embedder
    kind = f"langchain:{type(embeddings).__name__}"
    model = next(
        (getattr(embeddings, n) for n in ("model", "model_name", "model_id") if hasattr(embeddings, n)), None
    )
    return _LangChainEmbedder(embeddings, f"{kind}:{model}" if isinstance(model, str) and model else kind)
