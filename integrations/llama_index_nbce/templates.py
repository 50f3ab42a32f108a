"""LlamaIndex prompt templates around contexts: the nodes' blocks take the place of `{context_str}`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, CitableBlock, MessageRole, TextBlock
from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate, PromptTemplate

from nbce_rag import InputError
from nbce_rag import PromptTemplate as Wording

__all__ = ["default_template", "format_messages"]


def default_template(wording: Wording) -> BasePromptTemplate:
    """The wording of an engine as a LlamaIndex template with `{context_str}` and `{query_str}`."""
    user = wording.prefix + "{context_str}" + wording.suffix.replace("{question}", "{query_str}", 1)
    if not wording.system:
        return PromptTemplate(user)
    return ChatPromptTemplate(
        message_templates=[
            ChatMessage(role=MessageRole.SYSTEM, content=wording.system),
            ChatMessage(role=MessageRole.USER, content=user),
        ]
    )


def format_messages(
    template: BasePromptTemplate,
    llm: LLM,
    query: str,
    blocks: Sequence[CitableBlock],
    **values: Any,
) -> list[ChatMessage]:
    """The template's messages with the blocks in them.

    Args:
        template: any template of LlamaIndex.
        llm: selects among the templates of a `SelectorPromptTemplate`.
        query: takes the place of `{query_str}`.
        blocks: take the place of `{context_str}`; without any, nothing does.
        **values: the template's other variables.

    Raises:
        InputError: `{context_str}` does not come out of the template once, unchanged.
    """
    # Nobody can guess it, so no text can pretend to be the place of the contexts.
    place = f"contexts-{uuid.uuid4().hex}"
    messages = template.format_messages(llm=llm, context_str=place, query_str=query, **values)
    # The messages may be the template's own: they are not changed in place.
    filled = []
    for message in messages:
        pieces = [piece for block in message.blocks for piece in _fill(block, place, blocks)]
        filled.append(message.model_copy(update={"blocks": pieces}))
    texts = [block.text for message in messages for block in message.blocks if isinstance(block, TextBlock)]
    count = sum(text.count(place) for text in texts)
    if count != 1:
        if count > 1:
            reason = "holds {context_str} more than once"
        elif "context_str" not in template.template_vars:
            reason = "has no {context_str}"
        else:
            reason = "changes {context_str}, by a function mapping or a filter, or has a value for it already"
        raise InputError(
            f"The text_qa_template {reason}; it must hold it once and as it is, since that is where each "
            "context is put, one a row. Change the wording of nodes by a node postprocessor instead."
        )
    return filled


def _fill(block: Any, place: str, blocks: Sequence[CitableBlock]) -> list[Any]:
    if not isinstance(block, TextBlock) or place not in block.text:
        return [block]
    before, _, after = block.text.partition(place)
    if not blocks:
        return [TextBlock(text=before + after)]
    around = [[TextBlock(text=text)] if text else [] for text in (before, after)]
    return [*around[0], *blocks, *around[1]]
