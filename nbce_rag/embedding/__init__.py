"""Text into vectors: any sentence-transformers model, or any callable `list[str] -> array`."""

from __future__ import annotations

from .embedder import Embedder
from .function import CallableEmbedder
from .resolve import EmbedderLike, resolve_embedder
from .sentence_transformer import DEFAULT_EMBEDDER, SentenceTransformerEmbedder, canonical_embedder_name

__all__ = [
    "DEFAULT_EMBEDDER",
    "CallableEmbedder",
    "Embedder",
    "EmbedderLike",
    "SentenceTransformerEmbedder",
    "canonical_embedder_name",
    "resolve_embedder",
]
