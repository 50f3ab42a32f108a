"""From calls of the LLM to requests of the engine, and from its pieces to LlamaIndex's responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
)

from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.engine.nbce import NBCE
from nbce_rag.options import Options
from nbce_rag.prompts.conversation import Conversation, Turn
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.request import Request

from .contexts import conversation, passages_of, to_turns
from .report import citation_blocks, describe, usage_of

__all__ = ["Call", "aprimed", "chat_response", "completion_response", "primed"]


class Call:
    """One call: its request, and what should be said about it.

    Args:
        engine: who answers.
        found: texts and passages.
        options: all options of the call.
        messages: the messages' roles, for a conversation; None for a plain prompt, `found`'s only text.
        question, refusal, report: see `NBCELLM.chat`.
        trusted: the plain prompt was rendered by a function of the user's; special tokens in it count.
    """

    def __init__(
        self,
        engine: NBCE,
        found: Conversation,
        options: Options,
        *,
        roles: Sequence[str] | None = None,
        question: str | None = None,
        refusal: str | None = None,
        report: dict[str, Any] | None = None,
        trusted: bool = False,
    ) -> None:
        # The wording's own stop strings and refusal belong to its instructions, which are not used here.
        template = replace(engine.prompt, stop=(), refusal=refusal)
        tokenizer = engine.model.tokenizer
        if roles is None:
            encoder = PromptEncoder(template, tokenizer, text=found.texts[0], trusted=trusted)
        else:
            messages = [{"role": r, "content": t} for r, t in zip(roles, found.texts, strict=True)]
            encoder = PromptEncoder(template, tokenizer, messages=messages)
        self.notes = found.notes
        self.report = report
        self.request = Request(question or found.question, found.passages, options, encoder)

    @classmethod
    def of_messages(
        cls,
        engine: NBCE,
        messages: Sequence[ChatMessage],
        options: Options,
        *,
        contexts: Sequence[Any] | None,
        scores: Sequence[float | None] | None,
        **more: Any,
    ) -> Call:
        """A conversation. A single user message to a model without chat template is a plain prompt."""
        turns = to_turns(messages, scores)
        found = conversation(turns, None if contexts is None else passages_of(contexts))
        template = getattr(engine.model.tokenizer, "chat_template", None)
        if not template and [turn.role for turn in turns] == ["user"]:
            return cls(engine, found, options, **more)
        # Many templates have no tool role, and then refuse it or leave its message out.
        tools = not template or "tool" in str(template)
        roles = ["user" if turn.role == "tool" and not tools else turn.role for turn in turns]
        return cls(engine, found, options, roles=roles, **more)

    @classmethod
    def of_text(
        cls,
        engine: NBCE,
        text: str,
        options: Options,
        *,
        contexts: Sequence[Any] | None,
        **more: Any,
    ) -> Call:
        """A plain prompt, which may hold passage marks."""
        found = conversation([Turn("user", [text])], None if contexts is None else passages_of(contexts))
        return cls(engine, found, options, **more)


def chat_response(call: Call, text: str, delta: str | None, answer: Answer | None) -> ChatResponse:
    """A whole response (`delta` None), or one step of a stream, which has a single text block always."""
    blocks: list[Any] = [TextBlock(text=text)]
    if answer is not None and delta is None:
        blocks += citation_blocks(answer)
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks), delta=delta, **_details(call, answer)
    )


def completion_response(
    call: Call, text: str, delta: str | None, answer: Answer | None
) -> CompletionResponse:
    """As `chat_response`, for plain prompts."""
    return CompletionResponse(text=text, delta=delta, **_details(call, answer))


def _details(call: Call, answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {}
    info = describe(answer, call.notes)
    if call.report is not None:
        call.report.update(info)
    raw = {"usage": usage_of(info), "finish_reason": info["finish_reason"], "nbce": info}
    return {"raw": raw, "additional_kwargs": {"nbce": info}}


def primed(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same pieces, the first one drawn now: what is wrong with a request shows when it is made."""
    first = next(pieces)

    def rest() -> Iterator[Piece]:
        try:
            yield first
            yield from pieces
        finally:
            _close(pieces)

    return rest()


async def aprimed(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    """`primed` for async pieces."""
    first = await anext(pieces)

    async def rest() -> AsyncGenerator[Piece, None]:
        try:
            yield first
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    return rest()


def _close(pieces: Any) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
