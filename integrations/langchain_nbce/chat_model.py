"""ChatNBCE: a chat model that reads each passage as a context of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.content import Citation
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableWithFallbacks
from langchain_core.runnables.config import get_config_list
from langchain_core.tools import BaseTool

from nbce_rag import (
    Answer,
    Answerer,
    Piece,
    Prompt,
    Request,
    ToolCall,
    ToolCallReader,
    forced_tools,
    resolve,
    response_schema,
    tool_call_schema,
    tool_names,
)

from .documents import to_passages
from .fallback import ContextsAsText
from .messages import template_messages, to_turns, unseen_documents
from .output import (
    ANNOTATIONS,
    PROVIDER,
    cited_arguments,
    llm_output,
    piece_citations,
    reasoning_kwargs,
    response_metadata,
    shown_citations,
    text_content,
    usage_metadata,
)
from .profile import profile_of
from .serialization import SerializableSettings
from .settings import STRICT, NBCESettings, check_options, in_our_names
from .structured import structured_output
from .tools import invalid_call, tool_call, tool_dicts

__all__ = ["ChatNBCE"]

_AT_ONCE = 32  # calls of a batch, each in a thread that waits
_CALL = (
    "contexts",
    "model",
    "tools",
    "tool_choice",
    "response_format",
    "score_scale",
    "logprobs",
    "parallel_tool_calls",
    "strict",
    "stream",
)


@dataclass(frozen=True)
class _Call:
    """One call, ready to be answered."""

    engine: Answerer
    request: Request
    model: str
    tools: tuple[str, ...]
    notes: tuple[str, ...]
    logprobs: bool
    parallel: bool

    def of(self, calls: list[ToolCall]) -> list[ToolCall]:
        """The calls of tools that count, of those that were made."""
        return calls if self.parallel else calls[:1]


class _Shown:
    """What of a streamed answer is shown.

    Args:
        tools: names of those that may be called.

    Attributes:
        reader: holds back what may be a call.
        has_citations: whether any was shown.
    """

    def __init__(self, tools: Sequence[str]) -> None:
        self.reader = ToolCallReader(tools)
        self.has_citations = False
        self._length = 0
        self._waiting: list[Citation] = []

    def cited(self, text: str, citations: Sequence[Citation]) -> list[Citation]:
        """The citations whose text is now shown, after more text and more citations; each once."""
        self._length += len(text)
        self._waiting += citations
        ready = [one for one in self._waiting if one["end_index"] <= self._length]
        self._waiting = self._waiting[len(ready) :]
        self.has_citations |= bool(ready)
        return ready


class ChatNBCE(SerializableSettings, BaseChatModel):
    """A chat model over `nbce_rag.NBCE`: no limit on passages together, citations, reuse of their KV.

    Passages reach it as `contexts=` of a call (documents, texts, dicts, or pairs with a score), between the
    marks of `format_passages` or `PassagePrompt`, as "text-plain" content blocks (and Anthropic's documents
    and search results), or as the artifact of a retriever tool; `nbce_rag.prompts.conversation`
    says which count. Without any it is an ordinary chat model.

    Every option of `nbce_rag.options.Options` is a field and may be given per call, and unknown ones are
    refused. Citations are in `response_metadata["nbce"]` and, as annotations of the text, in
    `content_blocks` (in the content itself with `output_version="v1"`); those of a tool call's arguments are
    in `response_metadata["argument_citations"]` and `extras` of its block. What a model thinks first
    (`thinking=True`) is no part of the text: it is in `additional_kwargs["reasoning_content"]`, and a
    "reasoning" block of `content_blocks`.

    Example:
        >>> llm = ChatNBCE()                                                          # doctest: +SKIP
        >>> llm.invoke("Who runs the ferry?", contexts=["Ada runs the ferry."]).text  # doctest: +SKIP
        'Ada'
        >>> llm = ChatNBCE(base_url="http://localhost:8000")  # the same over a server  # doctest: +SKIP
    """

    model_config = STRICT

    use_tool_artifacts: bool = True
    """Whether documents in a `ToolMessage.artifact` are passages."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools.

        The chat template tells it of them where it knows tools, else the system message does. With
        `tool_choice` "any" or a tool's name the output is constrained to a call (extra `[grammar]`).

        Args:
            tools: what LangChain converts to tools.
            tool_choice: "auto" (default), "none", "any" (or "required", True), or the name of a tool.
            **kwargs: options of the calls. `parallel_tool_calls=False` takes the first of several calls
                alone; True lets a model that has to call make up to eight calls at once.

        Raises:
            InputError: a `tool_choice` that names no tool.
        """
        made = tool_dicts(tools)
        choice: Any = tool_choice
        if isinstance(choice, str) and choice not in ("auto", "none", "any", "required"):
            forced_tools({"name": choice}, made)
        return super().bind(tools=made, **({"tool_choice": choice} if choice is not None else {}), **kwargs)

    def with_structured_output(
        self, schema: Any = None, *, method: str = "json_schema", include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Answers that fit a schema, by constrained decoding (extra `[grammar]`).

        Args:
            schema: a pydantic class, TypedDict, JSON schema, or OpenAI function.
            method: "json_schema"; "function_calling", a forced call of a tool; or "json_mode", any JSON
                object, whose members the prompt has to ask for.
            include_raw: give `{"raw", "parsed", "parsing_error"}`.
            **kwargs: options of the calls; `strict` is accepted, since decoding always is.

        Raises:
            InputError: no schema, or an unknown method.
        """
        return structured_output(self, schema, method=method, include_raw=include_raw, **kwargs)

    def with_fallbacks(
        self,
        fallbacks: Sequence[Runnable[Any, Any]],
        *,
        exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,),
        exception_key: str | None = None,
    ) -> RunnableWithFallbacks[Any, Any]:
        """As in LangChain; models that are not ours get contexts as text (`ContextsAsText`)."""
        others = [one if _is_ours(one) else ContextsAsText(one) for one in fallbacks]
        return super().with_fallbacks(
            others, exceptions_to_handle=exceptions_to_handle, exception_key=exception_key
        )

    def nbce(self, model: str | None = None) -> Answerer:
        """The engine, loaded now if it was not; then there is a `profile` too."""
        engine = super().nbce(model)
        if self.profile is None and model in (None, self.model):
            self.profile = profile_of(engine)
        return engine

    def _resolve_model_profile(self) -> ModelProfile | None:
        return None if self.engine is None else profile_of(self.engine)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answers several inputs side by side: `max_concurrency` at once, or 32 where it is not given."""
        configs = [*get_config_list(config, len(inputs))]
        for one in configs:
            one["max_concurrency"] = one.get("max_concurrency") or _AT_ONCE
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of the model's own tokenizer, without special tokens. Loads the model."""
        return list(self.nbce().model.tokenizer.encode(text))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._prepare(messages, stop, kwargs)
        return self._result(call, call.engine.batch([call.request])[0])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = await self._aprepare(messages, stop, kwargs)
        return self._result(call, (await call.engine.abatch([call.request]))[0])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._prepare(messages, stop, kwargs)
        shown = _Shown(call.tools)
        with closing(call.engine.stream(call.request)) as stream:  # type: ignore[type-var]
            for piece in stream:
                for chunk in self._chunks(call, shown, piece):
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = await self._aprepare(messages, stop, kwargs)
        shown = _Shown(call.tools)
        async with aclosing(call.engine.astream(call.request)) as stream:
            async for piece in stream:
                for chunk in self._chunks(call, shown, piece):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _aprepare(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: Mapping[str, Any]
    ) -> _Call:
        return await asyncio.to_thread(self._prepare, messages, stop, kwargs)  # it may load the model

    def _prepare(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: Mapping[str, Any]
    ) -> _Call:
        given = in_our_names(kwargs)
        check_options(given, _CALL)
        contexts, model, tools, choice, response_format, scale, logprobs, parallel = (
            given.pop(name, None) for name in _CALL[:8]
        )
        for name in _CALL[8:]:
            given.pop(name, None)
        turns = to_turns(messages, artifacts=self.use_tool_artifacts, score_key=self.score_key)
        passages = None if contexts is None else to_passages(contexts, score_key=self.score_key)
        talk = resolve(
            turns,
            passages,
            key=self.key,
            history=self.history_contexts,
            score_scale=scale or self.score_scale,
        )
        tools = tool_dicts(tools or ())
        if forced := forced_tools(choice, tools):
            given["json_schema"] = tool_call_schema(tools, forced, several=bool(parallel))
        elif response_format is not None:
            given["json_schema"] = response_schema(response_format)
        if choice == "none":
            tools = []
        engine = self.nbce(model)
        prompt = Prompt(template_messages(messages, talk.texts), tools=tools)
        options = self.options(engine, stop, given)
        request = Request(talk.question, talk.passages, options, prompt, talk.is_retrieved)
        notes = (*talk.notes, *unseen_documents(messages))
        logprobs = self.logprobs if logprobs is None else bool(logprobs)
        names = tuple(tool_names(tools))
        return _Call(engine, request, self.name_of(model), names, notes, logprobs, parallel is not False)

    def _result(self, call: _Call, answer: Answer) -> ChatResult:
        reader = ToolCallReader(call.tools)
        shown = reader.push(answer.text)
        rest, calls, unreadable = reader.finish()
        calls = call.of(calls)
        text = shown + rest
        cited = shown_citations(text, answer)
        is_v1 = self.output_version == "v1"
        message = AIMessage(
            content=text_content(text, cited) if is_v1 and text else text,
            tool_calls=[tool_call(one) for one in calls],
            invalid_tool_calls=[invalid_call(one) for one in unreadable],
            additional_kwargs=reasoning_kwargs(answer.thought),
            usage_metadata=usage_metadata(answer),
            response_metadata={
                **self._metadata(call, answer, calls),
                **({ANNOTATIONS: cited} if cited and not is_v1 else {}),
            },
        )
        info = {"finish_reason": answer.finish_reason}
        return ChatResult(
            generations=[ChatGeneration(message=message, generation_info=info)],
            llm_output=llm_output([answer], call.model),
        )

    def _chunks(self, call: _Call, shown: _Shown, piece: Piece) -> Iterator[ChatGenerationChunk]:
        if piece.thought:
            thought = AIMessageChunk(content="", additional_kwargs=reasoning_kwargs(piece.thought))
            yield ChatGenerationChunk(message=thought)
        text = shown.reader.push(piece.text)
        chunks: list[ToolCallChunk] = []
        calls: list[ToolCall] = []
        if piece.answer is not None:
            rest, calls, unreadable = shown.reader.finish()
            calls = call.of(calls)
            text += rest
            parts = [(one.name, json.dumps(one.arguments), one.id) for one in calls]
            # Chunks whose arguments are no JSON become invalid calls when they are joined.
            chunks = [
                tool_call_chunk(name=name, args=args, id=id_, index=index)
                for index, (name, args, id_) in enumerate(
                    [*parts, *((None, one.text, one.id) for one in unreadable)]
                )
            ]
        if text:
            yield ChatGenerationChunk(message=AIMessageChunk(content=text))
        cited = shown.cited(text, piece_citations(piece, call.request.passages))
        if piece.answer is None:
            if cited:
                yield ChatGenerationChunk(message=AIMessageChunk(**self._cited(cited)))
            return
        answer = piece.answer
        fields: dict[str, Any] = self._cited(cited) if shown.has_citations else {"content": ""}
        message = AIMessageChunk(
            content=fields["content"],
            tool_call_chunks=chunks,
            usage_metadata=usage_metadata(answer),
            response_metadata={**fields.get("response_metadata", {}), **self._metadata(call, answer, calls)},
            chunk_position="last",
        )
        info = {"finish_reason": answer.finish_reason}
        yield ChatGenerationChunk(message=message, generation_info=info)

    def _cited(self, cited: list[Citation]) -> dict[str, Any]:
        """The fields of a chunk with citations of the text before it."""
        if self.output_version == "v1":
            return {"content": text_content("", cited) if cited else ""}
        return {"content": "", "response_metadata": {"model_provider": PROVIDER, ANNOTATIONS: cited}}

    def _metadata(self, call: _Call, answer: Answer, calls: Sequence[ToolCall]) -> dict[str, Any]:
        metadata = response_metadata(answer, call.model, logprobs=call.logprobs)
        metadata |= cited_arguments(answer, [(one.id, one.arguments) for one in calls])
        metadata["nbce"]["warnings"] += call.notes
        return metadata

    @property
    def _llm_type(self) -> str:
        return "nbce-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**self.identity, "use_tool_artifacts": self.use_tool_artifacts}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = self.name_of(kwargs.get("model"))
        return params


def _is_ours(model: Runnable[Any, Any]) -> bool:
    return isinstance(getattr(model, "bound", model), (NBCESettings, ContextsAsText))
