"""What is asked, whatever wire it came by; and what is told of it before its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..answers.answer import Answer
from ..passages import Passage
from ..prompts.tools import Tool

__all__ = ["Ask", "Home", "Message", "Outcome", "Retrieved", "Wording"]

Wording = Literal["server", "messages", "text"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        parts: its texts, and passages that stand between them.
        extras: what else chat templates look at: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    """

    role: str
    parts: tuple[str | Passage, ...]
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A question with where its passages come from.

    Attributes:
        messages: the conversation, oldest first; a question alone is one message of the user's.
        indexes: names of indexes to search; () searches none.
        documents: passages that came with the request, in the order given; None: there are none.
        search: options of the search (`PassageIndex.search`). `rerank` is True for the server's reranker.
        options: options of the answer (`nbce_rag.options.Options`).
        tools: what the model may call, OpenAI-style.
        is_parallel: whether several calls of tools may come at once.
        wording: "server" words the last question as the engine words its own, with what it asks for where
            there are passages for it; "messages" leaves messages as they are; "text" goes on from the one
            message as a plain prompt.
        condense: search with the conversation condensed into one question, which the model writes.
        notes: what whoever asked should know, in sentences.
    """

    messages: tuple[Message, ...]
    indexes: tuple[str, ...] = ()
    documents: tuple[Passage, ...] | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    is_parallel: bool = True
    wording: Wording = "server"
    condense: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Home:
    """Where a passage lives: the index it was found in (None: it came with the request), and its id there."""

    index: str | None
    id: str


@dataclass(frozen=True)
class Retrieved:
    """The passages that are read for a question.

    Attributes:
        query: what was searched for; the question, unless it was condensed.
        passages: in the order in which they are read.
        homes: by `Passage.content_hash`.
        seconds: that the search took; None where nothing was searched.
    """

    query: str
    passages: tuple[Passage, ...] = ()
    homes: Mapping[str, Home] = field(default_factory=dict)
    seconds: float | None = None

    def home(self, passage: Passage) -> Home:
        """Where a passage lives; one that nothing is known of came with the request."""
        return self.homes.get(passage.content_hash) or Home(None, passage.id)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer that is whole, what was retrieved for it, and notes for whoever asked."""

    answer: Answer
    retrieved: Retrieved
    notes: tuple[str, ...] = ()
