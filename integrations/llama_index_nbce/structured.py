"""Structured output: answers held, token by token, to the JSON schema of a pydantic class."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.llm import LLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.prompts import BasePromptTemplate
from llama_index_instrumentation import get_dispatcher
from pydantic import ValidationError
from pydantic_core import from_json

from nbce_rag import InputError, closed_schema

__all__ = ["StructuredPrediction"]

dispatcher = get_dispatcher(__name__)


class StructuredPrediction(LLM):
    """`structured_predict` and its kin by constrained decoding, extra `[grammar]`: one call, no retries.

    The class's schema is told to a chat model as well, as LlamaIndex's own programs do it, because a grammar
    says what may be written and not what is meant. A base model would copy it into the answer.
    """

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """An object of `output_cls`.

        Raises:
            InputError: `max_tokens` cut the JSON off, or a validator of the class refuses it.
            MissingDependencyError: the extra `[grammar]` is not installed.
        """
        _started(output_cls, prompt, prompt_args)
        messages = self._structured_messages(output_cls, prompt, prompt_args)
        result = _parse(output_cls, self.chat(messages, **_schema(output_cls, llm_kwargs)))
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """`structured_predict` in a worker thread."""
        _started(output_cls, prompt, prompt_args)
        messages = self._structured_messages(output_cls, prompt, prompt_args)
        result = _parse(output_cls, await self.achat(messages, **_schema(output_cls, llm_kwargs)))
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    def stream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """Objects that fill up, each field as soon as it is there, unchecked; the last one is checked."""
        _started(output_cls, prompt, prompt_args)
        messages = self._structured_messages(output_cls, prompt, prompt_args)
        last: Any = None
        previous = None
        for last in self.stream_chat(messages, **_schema(output_cls, llm_kwargs)):
            partial = _partial(output_cls, last)
            if partial is not None and partial != previous:
                previous = partial
                dispatcher.event(LLMStructuredPredictInProgressEvent(output=partial))
                yield partial
        result = _parse(output_cls, last)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        yield result

    async def astream_structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """`stream_structured_predict` with the work in a worker thread; await it for the generator."""

        async def objects() -> AsyncGenerator[Any, None]:
            _started(output_cls, prompt, prompt_args)
            messages = self._structured_messages(output_cls, prompt, prompt_args)
            last: Any = None
            previous = None
            async for last in await self.astream_chat(messages, **_schema(output_cls, llm_kwargs)):
                partial = _partial(output_cls, last)
                if partial is not None and partial != previous:
                    previous = partial
                    dispatcher.event(LLMStructuredPredictInProgressEvent(output=partial))
                    yield partial
            result = _parse(output_cls, last)
            dispatcher.event(LLMStructuredPredictEndEvent(output=result))
            yield result

        return objects()

    def _structured_messages(
        self, output_cls: type[BaseModel], prompt: BasePromptTemplate, prompt_args: dict[str, Any]
    ) -> list[ChatMessage]:
        messages = self._get_messages(prompt, **prompt_args)
        if not self.metadata.is_chat_model:
            return list(messages)
        copies = [message.model_copy(deep=True) for message in messages]
        return list(_SchemaParser(output_cls=output_cls).format_messages(copies))


class _SchemaParser(PydanticOutputParser[Any]):
    """Tells the schema as it is; LlamaIndex's doubles its braces, which no template takes back."""

    def format(self, query: str) -> str:
        return f"{query}\n\n{self.get_format_string(escape_json=False)}"


def _schema(output_cls: type[BaseModel], llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    return {**(llm_kwargs or {}), "json_schema": closed_schema(output_cls.model_json_schema())}


def _started(output_cls: type[BaseModel], prompt: BasePromptTemplate, args: dict[str, Any]) -> None:
    dispatcher.event(
        LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=args)
    )


def _parse(output_cls: type[BaseModel], response: ChatResponse) -> BaseModel:
    text = response.message.content or ""
    reason = response.additional_kwargs["nbce"]["finish_reason"]
    try:
        return output_cls.model_validate_json(text)
    except ValidationError as error:
        way_out = "raise max_tokens" if reason == "length" else "loosen the class or ask differently"
        raise InputError(
            f"The answer is no {output_cls.__name__} (finish reason {reason!r}): {text[:200]!r}; {way_out}."
        ) from error


def _partial(output_cls: type[BaseModel], response: ChatResponse) -> BaseModel | None:
    """What there is so far; None while it is no object yet."""
    try:
        values = from_json(response.message.content or "", allow_partial="trailing-strings")
    except ValueError:
        return None
    return output_cls.model_construct(**values) if isinstance(values, dict) else None
