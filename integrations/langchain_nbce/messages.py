"""LangChain messages: the passages in them, and the form in which a chat template takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from nbce_rag import InputError, Passage, Turn

from .documents import SCORE_KEY, is_context, to_passages

__all__ = ["template_messages", "to_turns", "unseen_documents"]

_MISPLACED = ("contexts", "context", "documents", "docs")
_ROLES: dict[str, str] = {"human": "user", "ai": "assistant", "developer": "system"}
# What an assistant's message holds beside its text, and what stands elsewhere in it or is of no use here.
_SKIPPED = {
    "tool_call",
    "tool_call_chunk",
    "tool_use",
    "input_json_delta",
    "invalid_tool_call",
    "function_call",
    "reasoning",
    "thinking",
    "redacted_thinking",
    "server_tool_call",
    "server_tool_result",
}


def to_turns(
    messages: Sequence[BaseMessage], *, artifacts: bool = True, score_key: str = SCORE_KEY
) -> list[Turn]:
    """The messages as `nbce_rag.prompts.conversation.resolve` takes them, one turn each.

    Args:
        messages: the conversation.
        artifacts: whether documents in `ToolMessage.artifact` take the place of that message's text.
        score_key: where documents' metadata hold the score.

    Raises:
        InputError: a block that a text model cannot read; the message names its type.
    """
    turns = []
    for place, message in enumerate(messages):
        parts: list[str | Passage] = []
        if artifacts and isinstance(message, ToolMessage):
            parts += _artifact(message.artifact, score_key)
        turns.append(Turn(_role(message), parts or _parts(message, place, score_key)))
    return turns


def template_messages(messages: Sequence[BaseMessage], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The messages as `apply_chat_template` takes them, with the texts that `resolve` gave."""
    made = []
    for message, text in zip(messages, texts, strict=True):
        entry: dict[str, Any] = {"role": _role(message), "content": text}
        if isinstance(message, AIMessage) and (thought := _thought(message)):
            entry["reasoning_content"] = thought  # most templates leave it out, and some want it
            if message.tool_calls and not text.strip():
                entry["thinking"] = thought  # as gpt-oss' template calls it
        if isinstance(message, AIMessage) and message.tool_calls:
            entry["tool_calls"] = [
                {
                    "type": "function",
                    "id": call["id"],
                    "function": {"name": call["name"], "arguments": dict(call["args"])},
                }
                for call in message.tool_calls
            ]
        if isinstance(message, ToolMessage):
            entry["tool_call_id"] = message.tool_call_id
            if message.status == "error" and not text.startswith("Error"):
                entry["content"] = f"Error: {text}"
        if message.name and isinstance(message, (ToolMessage, FunctionMessage)):
            entry["name"] = message.name
        made.append(entry)
    return made


def unseen_documents(messages: Sequence[BaseMessage]) -> list[str]:
    """Notes on documents of the last user message that stand where they are not read."""
    last = next((message for message in reversed(messages) if isinstance(message, HumanMessage)), None)
    names = [] if last is None else [name for name in _MISPLACED if last.additional_kwargs.get(name)]
    return [
        f"What the message has in additional_kwargs[{name!r}] is not read; give documents to the call as "
        "contexts=, or between the marks of format_passages."
        for name in names
    ]


def _thought(message: AIMessage) -> str:
    """What was thought before a message."""
    text = message.additional_kwargs.get("reasoning_content")
    if isinstance(text, str):
        return text
    blocks = [block for block in message.content if isinstance(block, Mapping)]
    return "\n\n".join(
        str(block[kind])
        for block in blocks
        for kind in ("reasoning", "thinking")
        if block.get("type") == kind and block.get(kind)
    )


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return _ROLES.get(message.role, message.role)
    if isinstance(message, (ToolMessage, FunctionMessage)):
        return "tool"
    if isinstance(message, (HumanMessage, AIMessage)):
        return "user" if isinstance(message, HumanMessage) else "assistant"
    if isinstance(message, SystemMessage):
        return "system"
    raise InputError(f"A message of type {message.type!r} cannot be given to the model; leave it out.")


def _artifact(artifact: Any, score_key: str) -> list[Passage]:
    """Passages of a retriever tool's artifact, also after a checkpoint has made dicts of them."""
    if isinstance(artifact, Mapping) and isinstance(artifact.get("documents"), (list, tuple)):
        artifact = artifact["documents"]
    if not isinstance(artifact, (list, tuple)):
        artifact = [artifact]
    if not artifact or not all(is_context(item) for item in artifact):
        return []
    return to_passages(artifact, score_key=score_key)


def _parts(message: BaseMessage, place: int, score_key: str) -> list[str | Passage]:
    if isinstance(message.content, str):
        return [message.content]
    parts: list[str | Passage] = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
            continue
        kind = str(block.get("type") or ("text" if "text" in block else ""))
        if kind in ("text", "input_text", "output_text"):
            parts.append(str(block.get("text") or ""))
        elif kind in _SKIPPED and not isinstance(message, (HumanMessage, SystemMessage)):
            continue
        elif (found := _passages(block, kind, score_key)) is not None:
            parts += found
        elif kind in ("json", "tool_result") or (isinstance(message, ToolMessage) and not kind):
            parts.append(json.dumps(block, ensure_ascii=False, default=str))
        else:
            raise InputError(
                f"Message {place + 1} has a block of type {kind!r}, which a text model cannot read; "
                "or documents as 'text-plain' blocks."
            )
    return parts


def _passages(block: Mapping[str, Any], kind: str, score_key: str) -> list[Passage] | None:
    """Passages of a block that holds a document; None when it is of another kind."""
    if kind == "non_standard" and isinstance(block.get("value"), Mapping):
        value: Mapping[str, Any] = block["value"]
        return _passages(value, str(value.get("type") or ""), score_key)
    text: Any = None
    extras = {**(block.get("extras") or {}), **(block.get("metadata") or {})}
    fields = {
        "title": block.get("title"),
        "source": block.get("url") or block.get("source"),
        "id": block.get("id"),
    }
    if kind == "text-plain":
        text = block.get("text")
    elif kind == "search_result":
        text = _joined(block.get("content"))
    elif kind == "document":
        source = block.get("source")
        if not isinstance(source, Mapping):
            return None
        if source.get("type") == "text":
            text = source.get("data")
        elif source.get("type") == "content":
            text = _joined(source.get("content"))
    if not isinstance(text, str):
        return None
    heading = fields["title"] if isinstance(fields["title"], str) else extras.pop("title", None)
    source_name = fields["source"] if isinstance(fields["source"], str) else extras.pop("source", None)
    score = extras.get(score_key, extras.get("score"))
    # Core gives a block without id one of its own, which says nothing about the document.
    id_ = extras.pop("id", None) or (None if str(fields["id"]).startswith("lc_") else fields["id"])
    context = {
        "page_content": text,
        "id": id_,
        "metadata": {**extras, "title": heading, "source": source_name, score_key: score},
    }
    return to_passages([context], score_key=score_key)


def _joined(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [item if isinstance(item, str) else item.get("text") for item in content]
    return "\n".join(texts) if all(isinstance(text, str) for text in texts) else None
