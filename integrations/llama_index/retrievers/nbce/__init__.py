"""`from llama_index.retrievers.nbce import PassageRetriever`: a retriever over a passage index."""

from llama_index_nbce.retriever import PassageRetriever

__all__ = ["PassageRetriever"]
