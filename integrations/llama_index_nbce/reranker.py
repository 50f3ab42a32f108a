"""RelevanceReranker: a node postprocessor that orders nodes by how much the model learns from them."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field, SerializeAsAny
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from nbce_rag import InputError, InputTypeError, Passage

from .default_llm import default_llm

__all__ = ["RelevanceReranker"]


class RelevanceReranker(BaseNodePostprocessor):
    """Keeps the nodes that make the model's own prediction of the question better, the best first.

    `nbce_query_engine(index, llm, node_postprocessors=[RelevanceReranker(llm=llm)])`. It takes no other
    model, and what it reads of the nodes is kept for the answer (`NBCE.rerank`). Its scores are in (0, 1).

    Args:
        llm: an `NBCELLM`; default: `Settings.llm`.
        top_n: how many nodes.

    Raises:
        InputTypeError: the LLM is not ours.
        InputError: an unknown argument.
    """

    llm: SerializeAsAny[LLM]
    top_n: int = Field(default=3, ge=1)

    def __init__(self, llm: LLM | None = None, top_n: int = 3, **kwargs: Any) -> None:
        llm = default_llm(llm)
        if not hasattr(llm, "engine"):
            raise InputTypeError(f"A {type(llm).__name__} tells no relevance; give an NBCELLM.")
        if unknown := sorted(set(kwargs) - {"callback_manager", "class_name"}):
            raise InputError(
                f"Unknown argument {', '.join(unknown)} of RelevanceReranker; it takes llm and top_n."
            )
        fields: dict[str, Any] = {"llm": llm, "top_n": top_n, **kwargs}
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        return "RelevanceReranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("RelevanceReranker needs a query; give query_bundle= or query_str=.")
        by_place = {str(place): node for place, node in enumerate(nodes)}
        passages = [
            Passage(text, id=place)
            for place, node in by_place.items()
            if (text := node.node.get_content(metadata_mode=MetadataMode.LLM)).strip()
        ]
        llm: Any = self.llm
        best = llm.engine.rerank(query_bundle.query_str, passages, self.top_n)
        return [NodeWithScore(node=by_place[passage.id].node, score=passage.score) for passage in best]
