"""`from llama_index.vector_stores.nbce import PassageVectorStore`: a passage index as a store."""

from llama_index_nbce.store import PassageVectorStore

__all__ = ["PassageVectorStore"]
