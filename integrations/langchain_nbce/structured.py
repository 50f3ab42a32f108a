"""Structured output by constrained decoding, in LangChain's three methods."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from nbce_rag.errors import InputError

__all__ = ["structured_output", "wanted_schema"]

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
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        constraint = {"type": "object"} if method == "json_mode" else _closed(convert_to_json_schema(schema))
        wanted = (
            {"type": "json_object"}
            if method == "json_mode"
            else {"type": "json_schema", "json_schema": {"schema": constraint}}
        )
        bound = model.bind(response_format=wanted, **traced, **options)
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


def wanted_schema(wanted: Any) -> Any:
    """The schema of an OpenAI-style `response_format`.

    Raises:
        InputError: a format that is not known.
    """
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_object":
        return {"type": "object"}
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        inner = wanted.get("json_schema")
        return inner.get("schema", inner) if isinstance(inner, Mapping) else wanted.get("schema")
    raise InputError(
        f"response_format={wanted!r} is not known; give {{'type': 'json_object'}} or "
        "{'type': 'json_schema', 'json_schema': {'schema': ...}}."
    )


class _Whole:
    """Parses a finished message; a chunked one is joined before, since this is no generator."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def __call__(self, message: Any) -> Any:
        text = message.text if isinstance(message.text, str) else message.text()
        return self._parser.parse(str(text))


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without LangChain's title and description on top, and without room for other members."""
    made = {name: value for name, value in schema.items() if name not in ("title", "description")}
    made.setdefault("type", "object")
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made
