"""`from llama_index.embeddings.nbce import PassageEmbedding`: the packaged embedder or another."""

from llama_index_nbce.embedding import PassageEmbedding

__all__ = ["PassageEmbedding"]
