"""RelevanceReranker: a document compressor that orders documents by how much the model learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, field_validator

from .documents import to_passage, with_score
from .settings import NBCESettings

__all__ = ["RelevanceReranker"]


class RelevanceReranker(BaseDocumentCompressor):
    """Keeps the documents that make the model's own prediction of the question better, the best first.

    For `ContextualCompressionRetriever(base_compressor=RelevanceReranker(llm=llm), base_retriever=...)`. It
    takes no other model, and what it reads of the documents is kept for the answer (`NBCE.rerank`). The score
    is written where that model looks for it, in `metadata["relevance_score"]` or what its `score_key` names.

    Attributes:
        llm: `ChatNBCE` or `NBCELLM`.
        top_n: how many documents.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    llm: Any
    top_n: int = Field(default=3, ge=1)

    @field_validator("llm")
    @classmethod
    def _check_llm(cls, llm: Any) -> Any:
        if not isinstance(llm, NBCESettings):
            raise ValueError(
                f"llm must be a ChatNBCE or an NBCELLM, got {type(llm).__name__}, which tells no relevance"
            )
        return llm

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The best of the documents; those without text are left out."""
        by_place = {str(place): document for place, document in enumerate(documents)}
        passages: list[Any] = [
            replace(to_passage(document), id=place)
            for place, document in by_place.items()
            if document.page_content.strip()
        ]
        best = self.llm.nbce().rerank(query, passages, self.top_n)
        key = self.llm.score_key
        return [with_score(by_place[one.id], one.score or 0.0, score_key=key) for one in best]
