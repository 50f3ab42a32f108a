"""Structured output by constrained decoding, in LangChain's three methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from nbce_rag import InputError, closed_schema

__all__ = ["structured_output"]

_METHODS = ("json_schema", "function_calling", "json_mode")


def structured_output(
    model: BaseChatModel, schema: Any, *, method: str, include_raw: bool, **options: Any
) -> Runnable[LanguageModelInput, Any]:
    """The model with a parser behind it; see `ChatNBCE.with_structured_output`."""
    options.pop("strict", None)
    if method not in _METHODS:
        raise InputError(f"method={method!r} is not known; use one of {', '.join(_METHODS)}.")
    if schema is None and method != "json_mode":
        raise InputError(f"method={method!r} needs a schema; without one use method='json_mode'.")
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    parser: Runnable[Any, Any]
    traced = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        bound = model.bind_tools([schema], tool_choice=name, **traced, **options)
        inner: Any = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
        parser = RunnableLambda(_calls_it(name), name="whole_call") | inner
    else:
        response_format: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            closed = closed_schema(convert_to_json_schema(schema))
            response_format = {"type": "json_schema", "json_schema": {"schema": closed}}
        bound = model.bind(response_format=response_format, **traced, **options)
        inner = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
        # Whole answers only: half an object fits no schema.
        parser = RunnableLambda(_Whole(inner), name="structured_output")
    if not include_raw:
        return bound | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    # The model first, so that what is given to a call reaches it.
    raw: Any = RunnableMap(raw=RunnablePassthrough())
    chain: Runnable[LanguageModelInput, Any] = (
        bound | raw | parsed.with_fallbacks([failed], exception_key="parsing_error")
    )
    return chain


_WAYS_OUT = {
    "length": "it was cut off, so raise max_tokens",
    "no_evidence": "no passage supports one; answer_without_context=True asks the model without any",
}


class _Whole:
    """Parses a finished message; a chunked one is joined before, since this is no generator.

    Core's parsers close what is open, which makes another object of one that was cut off.
    """

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def __call__(self, message: Any) -> Any:
        text = _text(message)
        try:
            json.loads(text, strict=False)
        except ValueError as error:
            raise _no_whole("object", message) from error
        return self._parser.parse(text)


def _calls_it(name: str) -> Callable[[AIMessage], AIMessage]:
    """The message itself, if it calls the tool."""

    def check(message: AIMessage) -> AIMessage:
        if not any(call["name"] == name for call in message.tool_calls):
            raise _no_whole(f"call of {name}", message)
        return message

    return check


def _no_whole(kind: str, message: Any) -> OutputParserException:
    text = _text(message)
    reason = message.response_metadata.get("finish_reason")
    way_out = _WAYS_OUT.get(reason, "ask differently")
    return OutputParserException(
        f"The answer is no whole {kind} (finish reason {reason!r}): {text[:200]!r}; {way_out}.",
        llm_output=text,
    )


def _text(message: Any) -> str:
    return str(message.text if isinstance(message.text, str) else message.text())
