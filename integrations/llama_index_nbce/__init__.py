"""nbce-rag in LlamaIndex: every retrieved node is a context of its own, read in one call and cited.

    from llama_index_nbce import NBCELLM, PassageVectorStore, nbce_query_engine

`NBCELLM` is the language model, `NBCESynthesizer` and the engines bring nodes to it, `PassageVectorStore`
and `PassageRetriever` read and write the folder that `nbce-rag index` makes.
"""

from __future__ import annotations

from .attribution import NBCEAttributionQueryEngine, ResponseAttribution
from .citations import citable_retriever_tool, cited_nodes, format_citations
from .embedding import LlamaIndexEmbedder, PassageEmbedding
from .engines import (
    NBCECondensePlusContextChatEngine,
    NBCECondenseQuestionChatEngine,
    NBCEContextChatEngine,
    nbce_chat_engine,
    nbce_query_engine,
)
from .importers import import_faiss_store
from .llm import NBCELLM
from .reranker import RelevanceReranker
from .retriever import PassageRetriever
from .selectors import NBCEMultiSelector, NBCEQuestionGenerator, NBCESingleSelector
from .store import PassageVectorStore
from .synthesizer import NBCESynthesizer, capture_reports

__all__ = [
    "NBCELLM",
    "LlamaIndexEmbedder",
    "NBCEAttributionQueryEngine",
    "NBCECondensePlusContextChatEngine",
    "NBCECondenseQuestionChatEngine",
    "NBCEContextChatEngine",
    "NBCEMultiSelector",
    "NBCEQuestionGenerator",
    "NBCESingleSelector",
    "NBCESynthesizer",
    "PassageEmbedding",
    "PassageRetriever",
    "PassageVectorStore",
    "RelevanceReranker",
    "ResponseAttribution",
    "capture_reports",
    "citable_retriever_tool",
    "cited_nodes",
    "format_citations",
    "import_faiss_store",
    "nbce_chat_engine",
    "nbce_query_engine",
]
