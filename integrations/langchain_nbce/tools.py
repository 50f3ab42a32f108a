"""Tools of LangChain as chat templates take them, and calls read out of a text as LangChain's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.utils.function_calling import convert_to_openai_tool

from nbce_rag import Tool, UnreadableCall, distinct_tools
from nbce_rag import ToolCall as Call

__all__ = ["invalid_call", "tool_call", "tool_dicts"]


def tool_dicts(tools: Sequence[Any]) -> list[Tool]:
    """What LangChain converts to tools as OpenAI-style dicts; of one name the last one counts."""
    return distinct_tools(convert_to_openai_tool(tool) for tool in tools)


def tool_call(call: Call) -> ToolCall:
    """A call as messages hold it."""
    return ToolCall(name=call.name, args=call.arguments, id=call.id, type="tool_call")


def invalid_call(call: UnreadableCall) -> InvalidToolCall:
    """A call that cannot be read, as messages hold it."""
    return InvalidToolCall(name=None, args=call.text, id=call.id, error=call.error, type="invalid_tool_call")
