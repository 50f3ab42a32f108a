"""nbce-rag for LangChain: chat model, completion model, vector store, retriever, chains.

Names are loaded when they are first used; importing this loads no model library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ChatNBCE": "chat_model",
    "NBCELLM": "llm",
    "ContextsAsText": "fallback",
    "MarkedText": "documents",
    "PassagePrompt": "documents",
    "format_passages": "documents",
    "PassageVectorStore": "vector_store",
    "PassageRetriever": "retriever",
    "ScoredRetriever": "scored_retriever",
    "RelevanceReranker": "reranker",
    "NBCEEmbeddings": "embeddings",
    "create_nbce_chain": "chains",
    "create_nbce_documents_chain": "chains",
    "NBCERetrievalMiddleware": "middleware",
    "PassageAttribution": "attribution",
    "import_community_faiss": "community_faiss",
}
__all__ = [
    "NBCELLM",
    "ChatNBCE",
    "ContextsAsText",
    "MarkedText",
    "NBCEEmbeddings",
    "NBCERetrievalMiddleware",
    "PassageAttribution",
    "PassagePrompt",
    "PassageRetriever",
    "PassageVectorStore",
    "RelevanceReranker",
    "ScoredRetriever",
    "create_nbce_chain",
    "create_nbce_documents_chain",
    "format_passages",
    "import_community_faiss",
]

if TYPE_CHECKING:
    from .attribution import PassageAttribution
    from .chains import create_nbce_chain, create_nbce_documents_chain
    from .chat_model import ChatNBCE
    from .community_faiss import import_community_faiss
    from .documents import MarkedText, PassagePrompt, format_passages
    from .embeddings import NBCEEmbeddings
    from .fallback import ContextsAsText
    from .llm import NBCELLM
    from .middleware import NBCERetrievalMiddleware
    from .reranker import RelevanceReranker
    from .retriever import PassageRetriever
    from .scored_retriever import ScoredRetriever
    from .vector_store import PassageVectorStore


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'langchain_nbce' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
