"""From calls of the LLM to requests of the engine, and from its pieces to LlamaIndex's responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CitationBlock,
    CompletionResponse,
    MessageRole,
    TextBlock,
)

from nbce_rag import (
    TURN_MARKS,
    Answer,
    Answerer,
    Conversation,
    Options,
    Piece,
    Prompt,
    Request,
    Tool,
    ToolCall,
    ToolCallReader,
    Turn,
    citation_report,
    forced_tools,
    messages_as_text,
    resolve,
    response_schema,
    tool_call_schema,
    tool_names,
    with_instruction,
)

from .arguments import check_options
from .contexts import passages_of, template_messages, to_turns
from .report import citation_blocks, describe, thinking_blocks, token_logprobs, usage_of
from .tools import call_blocks, openai_calls, tool_dicts

__all__ = [
    "Call",
    "CallSettings",
    "ChatSteps",
    "aprimed",
    "chat_response",
    "completion_response",
    "completion_step",
    "conversation_call",
    "primed",
    "rendered_call",
    "text_call",
]


@dataclass(frozen=True)
class CallSettings:
    """What a call gives beside its words; see `NBCELLM.chat`."""

    options: Options
    contexts: Sequence[Any] | None = None
    context_scores: Sequence[float | None] | None = None
    score_scale: str | None = None
    question: str | None = None
    refusal: str | None = None
    report: dict[str, Any] | None = None
    tools: Sequence[Tool] = ()
    allow_parallel_tool_calls: bool = True
    logprobs: bool = False

    @classmethod
    def of(cls, options: Options, kwargs: Mapping[str, Any]) -> CallSettings:
        """Those of one call.

        Args:
            options: the defaults.
            kwargs: what the call was given.

        Raises:
            InputError: an unknown or impossible option, tools that are none, or a choice that names none.
        """
        changes = dict(kwargs)
        names = (
            "contexts",
            "context_scores",
            "score_scale",
            "question",
            "refusal",
            "report",
            "allow_parallel_tool_calls",
            "logprobs",
        )
        own: dict[str, Any] = {name: changes.pop(name) for name in names if name in changes}
        tools = tool_dicts(changes.pop("tools", None) or ())
        tool_choice = changes.pop("tool_choice", None)
        response_format = changes.pop("response_format", None)
        if forced := forced_tools(tool_choice, tools):
            several = own.get("allow_parallel_tool_calls") is True  # which a call has to say
            changes["json_schema"] = tool_call_schema(tools, forced, several=several)
        elif response_format is not None:
            changes["json_schema"] = response_schema(response_format)
        for one, other in (("json_schema", "regex"), ("regex", "json_schema")):
            if changes.get(one) is not None:
                changes.setdefault(other, None)  # a call's constraint takes the place of the object's
        check_options(changes)
        return cls(options.updated(**changes), tools=() if tool_choice == "none" else tools, **own)

    def resolve(self, turns: Sequence[Turn]) -> Conversation:
        """The conversation with the contexts that were given beside it, or else those in it."""
        passages = None if self.contexts is None else passages_of(self.contexts)
        return resolve(turns, passages, score_scale=self.score_scale)


@dataclass(frozen=True)
class Call:
    """One call: its request, and what is done with the answer.

    Attributes:
        request: what the engine is asked.
        notes: what should be said about it.
        settings: what the call gave.
    """

    request: Request
    notes: tuple[str, ...]
    settings: CallSettings


def conversation_call(engine: Answerer, messages: Sequence[ChatMessage], settings: CallSettings) -> Call:
    """A conversation. A single user message to a model without chat template is a plain prompt.

    Its answer ends where the next turn would begin, since it enters the history of a chat engine.
    """
    turns = to_turns(messages, settings.context_scores)
    talk = settings.resolve(turns)
    alone = [turn.role for turn in turns] == ["user"] and not settings.tools
    if alone and not engine.model.tokenizer.has_chat_template:
        ended = settings.options.updated(stop=(*settings.options.stop, *TURN_MARKS))
        prompt = Prompt(text=talk.texts[0], refusal=settings.refusal)
        return _call(talk, replace(settings, options=ended), prompt)
    entries = template_messages(messages, talk.texts)
    return _call(talk, settings, Prompt(entries, tools=settings.tools, refusal=settings.refusal))


def text_call(text: str, settings: CallSettings, *, trusted: bool = False) -> Call:
    """A plain prompt, which may hold passage marks; trusted, if a function of the user's rendered it."""
    talk = settings.resolve([Turn("user", [text])])
    return _call(talk, settings, Prompt(text=talk.texts[0], refusal=settings.refusal, trusted=trusted))


def rendered_call(
    messages: Sequence[ChatMessage],
    settings: CallSettings,
    render: Callable[[Sequence[ChatMessage]], str],
) -> Call:
    """A conversation that a function of the user's makes one text of."""
    talk = settings.resolve(to_turns(messages, settings.context_scores))
    texts = [ChatMessage(role=m.role, content=t) for m, t in zip(messages, talk.texts, strict=True)]
    if settings.tools:  # which such a function knows nothing of
        entries = with_instruction(messages_as_text(template_messages(messages, talk.texts)), settings.tools)
        texts = [ChatMessage(role=entry["role"], content=entry["content"]) for entry in entries]
    prompt = Prompt(text=str(render(texts)), refusal=settings.refusal, trusted=True)
    return _call(talk, settings, prompt)


def _call(talk: Conversation, settings: CallSettings, prompt: Prompt) -> Call:
    question = settings.question or talk.question
    request = Request(question, talk.passages, settings.options, prompt, talk.is_retrieved)
    return Call(request, talk.notes, settings)


class ChatSteps:
    """The responses of one call, made of its pieces; each has the whole text so far.

    Args:
        call: the call.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._reader = ToolCallReader(tool_names(call.settings.tools))
        self._text = self._thought = ""
        self._waiting: list[CitationBlock] = []  # whose text is not shown
        self._cited: list[CitationBlock] = []

    def step(self, piece: Piece) -> ChatResponse:
        """The response after one more piece. What may be a tool call is held back until the last one.

        A citation is a block of the message from the step on with which it is certain.
        """
        delta = self._reader.push(piece.text)
        calls: list[ToolCall] = []
        if piece.answer is not None:
            rest, calls, unreadable = self._reader.finish()
            delta += rest + "".join(one.text for one in unreadable)
            calls = calls if self._call.settings.allow_parallel_tool_calls else calls[:1]
        self._text += delta
        self._thought += piece.thought
        self._cite(piece)
        return ChatResponse(
            message=ChatMessage(
                role=MessageRole.ASSISTANT,
                blocks=[
                    *thinking_blocks(self._thought, piece.answer),
                    *([TextBlock(text=self._text)] if self._text or not calls else []),
                    *call_blocks(calls),
                    *self._cited,
                ],
                additional_kwargs={
                    **openai_calls(calls),
                    **({"reasoning_content": self._thought} if self._thought else {}),
                },
            ),
            delta=delta,
            **_step_details(self._call, piece),
        )

    def _cite(self, piece: Piece) -> None:
        """Take in the citations of a piece; those of tool calls are not shown."""
        if piece.citations:
            passages = self._call.request.passages
            cited = citation_report(piece.citations, piece.unsupported, passages)
            self._waiting += citation_blocks(cited, passages)
        while self._waiting and _end(self._waiting[0]) <= len(self._text):
            self._cited.append(self._waiting.pop(0))


def _end(block: CitationBlock) -> int:
    return (block.additional_location_info or {})["response_end"]


def chat_response(call: Call, answer: Answer) -> ChatResponse:
    """A whole response; an answer's citations are blocks of its message."""
    whole = Piece(answer.text, answer.tokens, answer, answer.thought, answer.citations, answer.unsupported)
    message = ChatSteps(call).step(whole).message
    return ChatResponse(message=message, **_details(call, answer))


def completion_response(call: Call, answer: Answer) -> CompletionResponse:
    """A whole response to a plain prompt."""
    return CompletionResponse(text=answer.text, **_details(call, answer))


def completion_step(call: Call, text: str, piece: Piece) -> CompletionResponse:
    """One step of a stream, with the whole text so far."""
    return CompletionResponse(text=text, delta=piece.text, **_step_details(call, piece))


def _details(call: Call, answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {}
    info = describe(answer, call.notes)
    if call.settings.report is not None:
        call.settings.report.update(info)
    raw = {"usage": usage_of(info), "finish_reason": info["finish_reason"], "nbce": info}
    details = {"raw": raw, "additional_kwargs": {"nbce": info}}
    if call.settings.logprobs or call.settings.options.top_logprobs:
        details["logprobs"] = token_logprobs(answer)
    return details


def _step_details(call: Call, piece: Piece) -> dict[str, Any]:
    """What a step of a stream says beside its text: new thoughts and citations, and of the last one all."""
    details = _details(call, piece.answer)
    deltas: dict[str, Any] = {"thinking_delta": piece.thought} if piece.thought else {}
    if piece.citations:
        cited = citation_report(piece.citations, piece.unsupported, call.request.passages)
        deltas["citations_delta"] = cited
        details["raw"] = {**details.get("raw", {}), "citations_delta": cited}
        if (report := call.settings.report) is not None and piece.answer is None:
            report["citations"] = [*report.get("citations", ()), *cited["citations"]]
            report["unsupported"] = [*report.get("unsupported", ()), *cited["unsupported"]]
    if deltas:
        details["additional_kwargs"] = {**details.get("additional_kwargs", {}), **deltas}
    return details


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
