"""Prompts of LlamaIndex's own synthesizers, which join all nodes to one text: they work, and it is said."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate

from nbce_rag import Passage, split_marks, warn

__all__ = ["StockPrompts"]

# What the stock synthesizers fill in after the question: of a first answer, and of one that is refined.
_JOINED = ("context_str", "context_msg")


class StockPrompts(LLM):
    """Warns once when nodes arrive as one text, since nothing else tells that nothing is fused or cited."""

    _has_warned: bool = PrivateAttr(default=False)

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        self._check(prompt, prompt_args)
        return super()._get_messages(prompt, **prompt_args)

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        self._check(prompt, prompt_args)
        return super()._get_prompt(prompt, **prompt_args)

    def _check(self, prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> None:
        # Extractors and rerankers give a context_str too, but none to answer a fixed question from.
        if self._has_warned or "query_str" not in prompt.kwargs:
            return
        joined = "".join(str(prompt_args.get(name, "")) for name in _JOINED)
        if joined and not any(isinstance(part, Passage) for part in split_marks(joined)):
            self._has_warned = True
            warn(
                "The retrieved nodes came as one joined text, so they are neither read apart nor cited, and "
                "what does not fit takes further calls. Answer with NBCESynthesizer: nbce_query_engine, "
                "nbce_chat_engine, or as_query_engine(llm=..., response_synthesizer=NBCESynthesizer(llm))."
            )
