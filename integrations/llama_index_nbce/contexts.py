"""Contexts in LlamaIndex's messages: `CitableBlock`s, passage marks and `contexts=` become passages.

Row k of the model reads the messages with only the k-th context in its place, row 0 reads none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    MessageRole,
    TextBlock,
)
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from nbce_rag import InputError, Passage, Turn, warn

from .nodes import holds_media
from .tools import calls_of

__all__ = ["citable", "passages_of", "score_of", "template_messages", "to_turns"]

# By name: not every version of LlamaIndex has all of the classes.
_SKIPPED = {"cache", "citation", "thinking", "tool_call"}
_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def citable(context: Any) -> CitableBlock:
    """A context as a block: `source` is the id of the node or passage, `title` what heads its text.

    A node is worded as its metadata mode for LLMs says. It gets a heading only if its title is not in
    that wording already. Where a file's name is hidden from LLMs, as `SimpleDirectoryReader` hides it, its
    path is too: it says less, and is another on each machine. Of images and other media only the text is
    read, with a warning.

    Args:
        context: a text, `CitableBlock`, `NodeWithScore`, node, or `nbce_rag.Passage`.

    Raises:
        InputError: it is something else.
    """
    if isinstance(context, CitableBlock):
        return context
    if isinstance(context, NodeWithScore):
        context = context.node
    if isinstance(context, BaseNode):
        if holds_media(context):
            warn(
                f"Node {context.node_id!r} is a {type(context).__name__} that holds more than text; only its "
                "text is read. Extract what the rest says into nodes of text."
            )
        context = _without_path(context)
        text = context.get_content(metadata_mode=MetadataMode.LLM)
        title = str(context.metadata.get("title") or "")
        if title and title in context.get_metadata_str(mode=MetadataMode.LLM):
            title = ""
        return CitableBlock(title=title, source=context.node_id, content=[TextBlock(text=text)])
    if isinstance(context, str):
        context = Passage(context)
    if isinstance(context, Passage):
        return CitableBlock(
            title=context.title or "", source=context.id, content=[TextBlock(text=context.text)]
        )
    raise InputError(
        f"A context is a {type(context).__name__}; give texts, CitableBlocks, nodes or passages."
    )


def _without_path(node: BaseNode) -> BaseNode:
    hidden = node.excluded_llm_metadata_keys
    if "file_name" not in hidden or "file_path" in hidden or "file_path" not in node.metadata:
        return node
    return node.model_copy(update={"excluded_llm_metadata_keys": [*hidden, "file_path"]})


def score_of(context: Any) -> float | None:
    """The retrieval score that a context brings along, if any."""
    score = getattr(context, "score", None)
    return float(score) if isinstance(score, Real) else None


def to_turns(messages: Sequence[ChatMessage], scores: Sequence[float | None] | None = None) -> list[Turn]:
    """Messages as turns, `CitableBlock`s in them as passages that know their place among all of them.

    Args:
        messages: the conversation.
        scores: scores of the blocks, best block first; None for one that has none.

    Raises:
        InputError: no message, a block that is no text, or another number of scores than blocks.
    """
    blocks = [block for message in messages for block in message.blocks if isinstance(block, CitableBlock)]
    if scores is not None and len(scores) != len(blocks):
        raise InputError(f"context_scores has {len(scores)} scores for {len(blocks)} contexts.")
    ranks = None if scores is None else range(1, len(scores) + 1)
    passages = iter(_passages(blocks, scores, ranks))
    return [Turn(_ROLES.get(message.role, "user"), _parts(message, passages)) for message in messages]


def template_messages(messages: Sequence[ChatMessage], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The messages as chat templates take them, with the texts that `resolve` gave."""
    made: list[dict[str, Any]] = []
    for message, text in zip(messages, texts, strict=True):
        entry: dict[str, Any] = {"role": _ROLES.get(message.role, "user"), "content": text}
        if calls := calls_of(message):
            entry["tool_calls"] = [
                {"type": "function", "id": id_, "function": {"name": name, "arguments": arguments}}
                for id_, name, arguments in calls
            ]
        if entry["role"] == "assistant" and (thought := _thought(message)):
            entry["reasoning_content"] = thought  # most templates leave it out, and some want it
            if calls and not text.strip():
                entry["thinking"] = thought  # as gpt-oss' template calls it
        if entry["role"] == "tool":
            for name in ("tool_call_id", "name"):
                if message.additional_kwargs.get(name):
                    entry[name] = message.additional_kwargs[name]
        made.append(entry)
    return made


def _thought(message: ChatMessage) -> str:
    """What was thought before a message."""
    text = message.additional_kwargs.get("reasoning_content")
    if isinstance(text, str):
        return text
    contents = [getattr(block, "content", "") for block in message.blocks if block.block_type == "thinking"]
    return "\n\n".join(str(content) for content in contents if content)


def passages_of(contexts: Iterable[Any]) -> list[Passage]:
    """Contexts as passages, with their scores; nodes are what a retriever found, the best first.

    Raises:
        InputError: no sequence of contexts.
    """
    if isinstance(contexts, (str, BaseModel, Passage, Mapping)) or not isinstance(contexts, Iterable):
        way_out = "give what it finds" if hasattr(contexts, "retrieve") else "put it into a list"
        raise InputError(
            f"contexts must be a list of texts, nodes or passages, not a {type(contexts).__name__}; "
            f"{way_out}."
        )
    given = list(contexts)
    ranks = [
        rank if isinstance(context, NodeWithScore | BaseNode) else getattr(context, "rank", None)
        for rank, context in enumerate(given, 1)
    ]
    return _passages(list(map(citable, given)), list(map(score_of, given)), ranks)


def _passages(
    blocks: Sequence[CitableBlock],
    scores: Sequence[float | None] | None = None,
    ranks: Sequence[int | None] | None = None,
) -> list[Passage]:
    passages = []
    for index, block in enumerate(blocks):
        others = [part for part in block.content if not isinstance(part, TextBlock)]
        if others:
            raise InputError(
                f"The context {block.source!r} holds a {type(others[0]).__name__}; NBCE reads text only, so "
                "extract its text first."
            )
        passages.append(
            Passage(
                "\n".join(part.text for part in block.content if isinstance(part, TextBlock)),
                id=block.source,
                title=block.title or None,
                score=None if scores is None else scores[index],
                rank=None if ranks is None else ranks[index],
                metadata={"source": block.source, "index": index},
            )
        )
    return passages


def _parts(message: ChatMessage, passages: Iterable[Passage]) -> list[str | Passage]:
    """Texts and passages of a message; texts in a row are joined as `ChatMessage.content` does it."""
    parts: list[str | Passage] = []
    stream = iter(passages)
    for block in message.blocks:
        if isinstance(block, CitableBlock):
            parts.append(next(stream))
        elif isinstance(block, TextBlock):
            if parts and isinstance(parts[-1], str):
                parts[-1] = f"{parts[-1]}\n{block.text}"
            else:
                parts.append(block.text)
        elif block.block_type not in _SKIPPED:
            raise InputError(f"The message holds a {type(block).__name__}; NBCE reads text only.")
    return parts
