"""NBCELLM: LlamaIndex's LLM over an NBCE engine, every context of a message read as a row of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr, field_serializer
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import default_completion_to_prompt

from nbce_rag import Answerer, InputError, RemoteNBCE

from .arguments import OPTIONS, split_arguments
from .calls import (
    Call,
    CallSettings,
    ChatSteps,
    aprimed,
    chat_response,
    completion_response,
    completion_step,
    conversation_call,
    primed,
    rendered_call,
    text_call,
)
from .report import plain
from .stock import StockPrompts
from .structured import StructuredPrediction
from .tools import ToolCalling

__all__ = ["NBCELLM"]


class NBCELLM(StructuredPrediction, StockPrompts, ToolCalling):
    """A language model that reads each `CitableBlock` of its messages as a context of its own.

    Row k of the model holds the messages with only the k-th block in place, row 0 holds none; their
    predictions are fused token by token, so that the answer comes with citations. Without blocks it is an
    ordinary language model. Blocks of earlier turns are left out. `Settings.tokenizer =
    llm.engine.model.tokenizer` lets LlamaIndex's own parts count with the model's tokens too.

    Args:
        model: hub id, folder, GGUF file or LoRA adapter; None is the packaged default (extra `[local]`); or
            the URL of a vLLM server (extra `[vllm]`), or several with commas between them.
        engine: an `NBCE` that is loaded already, or a `RemoteNBCE`, instead of `model`.
        base_url: URL of a server that `nbce-rag serve` runs, instead of `model` (extra `[client]`); options
            that are left out are its defaults. torch is not loaded then.
        api_key: with `base_url`, a key of the server's; default: the environment variable NBCE_API_KEY.
            With `model`, that of a vLLM server.
        max_retries: with `base_url`, how often a request is tried again that found no room or no connection.
        context_window: a smaller window than the model's own, in tokens of one row.
        system_prompt, messages_to_prompt, completion_to_prompt, callback_manager, pydantic_program_mode,
            output_parser: as in every LlamaIndex LLM. Special tokens count in what the two functions
            return, and nowhere else.
        load: arguments of `NBCE.from_pretrained`, such as `{"dtype": "bfloat16", "adapter": folder}`; they
            may stand beside it by their names, too.
        **more: these, and options of `nbce_rag.options.Options`, such as `max_tokens=256` and
            `fusion="posterior"`, which can be changed in each call.

    Raises:
        InputError: unknown or impossible arguments, before anything is loaded, or two of `model`, `engine`
            and `base_url`.
        RemoteError: the server cannot be reached, or refuses.
        ModelError: the model cannot be found, loaded or used.
    """

    supports_contexts: ClassVar[bool] = True

    model: str | None = Field(default=None, description="Hub id, folder or GGUF file.")
    base_url: str | None = Field(default=None, description="URL of a server, in place of a model.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of generation and fusion.")
    context_window: int | None = Field(default=None, description="Most tokens of one row.")
    load: dict[str, Any] = Field(default_factory=dict, description="How the model is loaded.", exclude=True)

    _engine: Answerer = PrivateAttr()

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        engine: Answerer | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        max_retries: int = 2,
        context_window: int | None = None,
        load: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        system_prompt: str | None = None,
        messages_to_prompt: Callable[[Sequence[ChatMessage]], str] | None = None,
        completion_to_prompt: Callable[[str], str] | None = None,
        callback_manager: Any = None,
        pydantic_program_mode: Any = None,
        output_parser: Any = None,
        rate_limiter: Any = None,
        **more: Any,
    ) -> None:
        for unused in ("class_name", "id_"):  # which every LlamaIndex LLM takes
            more.pop(unused, None)
        load, options = split_arguments({**(load or {}), **(options or {}), **more})
        if engine is not None and (model is not None or load):
            raise InputError(
                "Give either a model to load or an engine that is loaded, not both; what says how to load "
                f"({', '.join(load) or 'model'}) belongs to the engine."
            )
        model = None if model is None else os.fspath(model)
        if base_url is not None:
            _check_remote(base_url, {"model": model, "engine": engine, **load})
            engine = RemoteNBCE(base_url, api_key or os.environ.get("NBCE_API_KEY"), max_retries=max_retries)
        elif engine is None:
            from nbce_rag import NBCE

            key = {} if api_key is None else {"api_key": api_key}
            engine = NBCE.from_pretrained(model, **{**key, **load}, **options)
        _check_window(engine, context_window)
        engine = engine.updated(window=context_window, **options)
        fields: dict[str, Any] = {
            "model": model if model is not None else engine.model.name,
            "base_url": base_url,
            "options": options,
            "context_window": context_window,
            "load": load,
            "system_prompt": system_prompt,
            "messages_to_prompt": messages_to_prompt,
            "completion_to_prompt": completion_to_prompt,
            "callback_manager": callback_manager,
            "pydantic_program_mode": pydantic_program_mode,
            "output_parser": output_parser,
            "rate_limiter": rate_limiter,
        }
        super().__init__(**{name: value for name, value in fields.items() if value is not None})
        self._engine = engine

    @classmethod
    def class_name(cls) -> str:
        return "NBCELLM"

    def __getattr__(self, name: str) -> Any:
        """An option, as it is when a call says nothing of it: `llm.max_tokens`."""
        if name in OPTIONS:
            return getattr(self._engine.options.updated(**self.options), name)
        return super().__getattr__(name)  # type: ignore[misc]

    def __setattr__(self, name: str, value: Any) -> None:
        """Options, and `context_window`, can be set.

        Raises:
            InputError: an impossible value, something that belongs to the loading of a model, or an unknown
                name.
        """
        if name in OPTIONS:
            self.options = {**self.options, **split_arguments({name: value})[1]}
            return
        if name == "context_window" and "_engine" in (self.__pydantic_private__ or {}):
            _check_window(self._engine, value)
            self._engine = self._engine.updated(window=value)
        elif name in ("model", "load", "base_url"):
            raise InputError(f"{name} cannot be set once the model is loaded; make another NBCELLM.")
        elif name not in type(self).model_fields and not name.startswith("_"):
            split_arguments({name: value})  # says what the name is here
            raise InputError(f"{name} belongs to the loading of a model; make another NBCELLM.")
        super().__setattr__(name, value)

    @property
    def engine(self) -> Answerer:
        """The engine, which answers the same without LlamaIndex."""
        return self._engine

    @property
    def metadata(self) -> LLMMetadata:
        """`context_window` is the true window of one row; it does not grow with the number of contexts."""
        options = self._engine.options.updated(**self.options)
        window = self._engine.window
        return LLMMetadata(
            context_window=window,
            num_output=min(options.max_tokens, max(1, window - 1)),
            is_chat_model=self._has_template,
            # Base models were never taught to choose, and programs want calls that grammars force.
            is_function_calling_model=self._has_template and _has_grammar(self._engine),
            model_name=self._engine.model.name,
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Args:
            messages: the conversation; its `CitableBlock`s are the contexts.
            contexts: contexts instead of blocks: texts, blocks, nodes with or without score, passages. They
                stand before the last user message.
            context_scores: retrieval scores of the blocks, in their order, the best first; None for unknown.
            score_scale: what the scores are: "cosine", "distance", "logit", "rank" or an exact scale of
                `nbce_rag.prompts.scores`; None tells it from them.
            question: the part of the last message that is the question itself; the contexts that make it
                likelier count more. Default: all that follows the contexts.
            refusal: the reply that the prompt asks for when a text holds no answer; contexts that make the
                model refuse count less, and when all do the answer is `abstention`.
            tools: tools of LlamaIndex or OpenAI's dicts, which the model is told of. Its calls are
                `ToolCallBlock`s of the message; what may become one is held back from a stream.
            tool_choice: "auto" (default), "none", "required", or the name of a tool; a call that must be is
                held to its schema, as a `response_format` is (extra `[grammar]`).
            allow_parallel_tool_calls: False takes the first of several calls only; True lets a call that must
                be be up to eight of them.
            logprobs: True gives the response `logprobs`: a list for each token, with its own
                log-probability in nats under the fused distribution; with `top_logprobs` those of others too.
            report: a dict that gets what `additional_kwargs["nbce"]` holds, once the answer is whole; for
                callers that a wrapper such as `StructuredLLM` hides the response from.
            **kwargs: options of this call, see `nbce_rag.options.Options`.

        Raises:
            InputError: an unknown option, a message without text, or a conversation that does not fit.
        """
        call = self._chat_call(messages, kwargs)
        answer = self._engine.batch([call.request])[0]
        return chat_response(call, answer)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` without blocking the event loop; cancelling it stops the work."""
        call = self._chat_call(messages, kwargs)
        answer = (await self._engine.abatch([call.request]))[0]
        return chat_response(call, answer)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat` step by step: `delta` is the new text, the message all of it so far.

        A step with which citations are certain has these in `additional_kwargs["citations_delta"]` and
        `raw["citations_delta"]`, as the report has them, and from then on in the message as `CitationBlock`s.
        The last step has the whole report in `raw["nbce"]` and `additional_kwargs["nbce"]`. Closing the
        generator stops the work.
        """
        call = self._chat_call(messages, kwargs)
        pieces = primed(self._engine.stream(call.request))

        def responses() -> ChatResponseGen:
            steps = ChatSteps(call)
            for piece in pieces:
                yield steps.step(piece)

        return responses()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` without blocking the event loop."""
        call = self._chat_call(messages, kwargs)
        pieces = await aprimed(self._engine.astream(call.request))

        async def responses() -> ChatResponseAsyncGen:
            steps = ChatSteps(call)
            try:
                async for piece in pieces:
                    yield steps.step(piece)
            finally:
                await pieces.aclose()

        return responses()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a plain prompt; a chat model gets it as a user message unless it is `formatted`.

        Passages in it are found by their marks (`nbce_rag.prompts.marks`). Arguments as in `chat`.
        """
        call = self._completion_call(prompt, formatted, kwargs)
        answer = self._engine.batch([call.request])[0]
        return completion_response(call, answer)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete` without blocking the event loop."""
        call = self._completion_call(prompt, formatted, kwargs)
        answer = (await self._engine.abatch([call.request]))[0]
        return completion_response(call, answer)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete` step by step."""
        call = self._completion_call(prompt, formatted, kwargs)
        pieces = primed(self._engine.stream(call.request))

        def responses() -> CompletionResponseGen:
            text = ""
            for piece in pieces:
                text += piece.text
                yield completion_step(call, text, piece)

        return responses()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """`stream_complete` without blocking the event loop."""
        call = self._completion_call(prompt, formatted, kwargs)
        pieces = await aprimed(self._engine.astream(call.request))

        async def responses() -> CompletionResponseAsyncGen:
            text = ""
            try:
                async for piece in pieces:
                    text += piece.text
                    yield completion_step(call, text, piece)
            finally:
                await pieces.aclose()

        return responses()

    @field_serializer("options")
    def _plain_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {name: plain(value) for name, value in options.items()}

    @property
    def _has_template(self) -> bool:
        return self._engine.model.tokenizer.has_chat_template

    def _settings(self, kwargs: dict[str, Any]) -> CallSettings:
        return CallSettings.of(self._engine.options.updated(**self.options), kwargs)

    def _chat_call(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Call:
        render = self.messages_to_prompt
        if render is None or render is generic_messages_to_prompt:
            return conversation_call(self._engine, messages, self._settings(kwargs))
        return rendered_call(messages, self._settings(kwargs), render)

    def _completion_call(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> Call:
        settings = self._settings(kwargs)
        if settings.context_scores is not None:
            raise InputError("context_scores is for chat; passage marks and nodes bring their own scores.")
        if settings.tools:
            raise InputError("tools are for chat; a completion has no place for their calls.")
        render = self.completion_to_prompt
        trusted = render is not None and render is not default_completion_to_prompt
        if trusted and not formatted:
            prompt = str(render(prompt))  # type: ignore[misc]
        elif self._has_template and not formatted:
            messages = [ChatMessage(role=MessageRole.USER, content=prompt)]
            return conversation_call(self._engine, messages, settings)
        return text_call(prompt, settings, trusted=trusted)


def _has_grammar(engine: Answerer) -> bool:
    """Whether answers can be held to a schema; a server says so itself."""
    is_remote = isinstance(engine, RemoteNBCE)
    return engine.model.can.grammar and (is_remote or find_spec("llguidance") is not None)


def _check_remote(base_url: str, others: Mapping[str, Any]) -> None:
    """Raises InputError for what says how a model is loaded, which beside `base_url` is the server's."""
    if names := [name for name, value in others.items() if value is not None]:
        raise InputError(
            f"{', '.join(names)} beside base_url={base_url!r}: how a model is loaded belongs to the server; "
            f"leave out {', '.join(names)}, or base_url."
        )


def _check_window(engine: Answerer, window: int | None) -> None:
    if window is not None and not 1 <= window <= engine.window:
        raise InputError(
            f"context_window={window} is not within 1..{engine.window}; the model's own window cannot be "
            "widened."
        )
