"""`from llama_index.postprocessor.nbce import RelevanceReranker`: nodes by what the model learns."""

from llama_index_nbce.reranker import RelevanceReranker

__all__ = ["RelevanceReranker"]
