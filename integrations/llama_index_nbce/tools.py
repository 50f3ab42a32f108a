"""Tools of LlamaIndex: told to the model, and its calls as agents and programs read them from a response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool

from nbce_rag import InputError, Tool, ToolCall, distinct_tools

__all__ = ["ToolCalling", "call_blocks", "calls_of", "openai_calls", "tool_dicts"]


class ToolCalling(FunctionCallingLLM):
    """`chat_with_tools` and its kin, so that agents and programs that call functions work."""

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        if tool_choice is None and tool_required:
            tool_choice = "required"
        return {
            "messages": messages,
            "tools": list(tools),
            "tool_choice": tool_choice,
            "allow_parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a response.

        Raises:
            InputError: there is none, unless that is allowed.
        """
        calls = calls_of(response.message)
        if not calls and error_on_no_tool_call:
            text = str(response.message.content or "")
            reason = (response.additional_kwargs.get("nbce") or {}).get("finish_reason")
            way_out = (
                "It was cut off: raise max_tokens."
                if reason == "length"
                else "With tool_required=True it has to."
            )
            raise InputError(f"The model called no tool but said {text[:200]!r}. {way_out}")
        return [
            ToolSelection(
                tool_id=id_ or "", tool_name=name, tool_kwargs=dict(args) if isinstance(args, Mapping) else {}
            )
            for id_, name, args in calls
        ]


def tool_dicts(tools: Sequence[Any]) -> list[Tool]:
    """Tools of LlamaIndex, or OpenAI-style dicts, as such dicts; of one name the last one counts.

    Raises:
        InputError: something that is neither.
    """
    made: list[Tool] = []
    for tool in tools:
        if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping):
            made.append(tool)
        elif isinstance(tool, BaseTool):
            made.append(tool.metadata.to_openai_tool(skip_length_check=True))
        else:
            raise InputError(
                f"A tool is a {type(tool).__name__}; give tools of LlamaIndex or OpenAI's dicts."
            )
    return distinct_tools(made)


def calls_of(message: ChatMessage) -> list[tuple[str | None, str, Any]]:
    """(id, name, arguments) of the calls in a message: of its blocks, or of OpenAI's dicts beside them.

    Arguments are a dict, or the text itself where they came as text that is no JSON.
    """
    calls: list[tuple[str | None, str, Any]] = [
        (block.tool_call_id, block.tool_name, _arguments(block.tool_kwargs))
        for block in message.blocks
        if isinstance(block, ToolCallBlock)
    ]
    if calls:
        return calls
    for call in message.additional_kwargs.get("tool_calls") or ():
        if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
            function = call["function"]
            calls.append((call.get("id"), str(function.get("name")), _arguments(function.get("arguments"))))
    return calls


def call_blocks(calls: Sequence[ToolCall]) -> list[ToolCallBlock]:
    """The calls as blocks."""
    return [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments) for call in calls
    ]


def openai_calls(calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The calls as `additional_kwargs` of a message, where parts of LlamaIndex look for them."""
    if not calls:
        return {}
    return {
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in calls
        ]
    }


def _arguments(value: Any) -> Any:
    if not isinstance(value, str):
        return value or {}
    try:
        return json.loads(value)
    except ValueError:
        return value
