"""Tools and what may be called, as requests have them; calls as replies have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ...prompts.tools import (
    Tool,
    ToolCall,
    ToolCallReader,
    distinct_tools,
    forced_tools,
    tool_call_schema,
    tool_names,
)
from .errors import bad_field

__all__ = ["CallReader", "Tools", "tools_of"]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request says of tools.

    Attributes:
        functions: those that the model is told of.
        schema: what its answer has to fit, where it has to call one; None where it may choose.
        file_search: tools that name indexes.
        is_parallel: whether several calls may come at once.
    """

    functions: tuple[Tool, ...] = ()
    schema: Mapping[str, Any] | None = None
    file_search: tuple[Mapping[str, Any], ...] = ()
    is_parallel: bool = True


def tools_of(tools: Any, choice: Any, parallel: bool | None) -> Tools:
    """Tools of a request, in the form of chat (`function` within) or of responses (flat).

    Raises:
        ServerError: a tool of another type, or a choice that names none.
    """
    functions: list[Tool] = []
    searches: list[Mapping[str, Any]] = []
    for place, tool in enumerate(tools or ()):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind == "file_search":
            searches.append(tool)
        elif kind == "function":
            functions.append(_function(tool, f"tools.{place}"))
        else:
            raise bad_field(
                f"tools.{place}",
                f"A tool of type {kind!r} is not supported; there are function and file_search.",
            )
    functions = distinct_tools(functions)
    choice = None if isinstance(choice, Mapping) and choice.get("type") == "file_search" else choice
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        functions, choice = _allowed(functions, choice)
    try:
        forced = forced_tools(choice, functions) if functions or choice not in ("required", "any") else []
    except InputError as error:
        raise bad_field("tool_choice", str(error)) from error
    schema = tool_call_schema(functions, forced, several=bool(parallel)) if forced else None
    if choice == "none":
        functions = []
    return Tools(tuple(functions), schema, tuple(searches), parallel is not False)


class CallReader:
    """Tells text from calls while an answer comes.

    Args:
        tools: what may be called.
        is_parallel: whether more than the first call counts.
    """

    def __init__(self, tools: Sequence[Tool], is_parallel: bool = True) -> None:
        self._reader = ToolCallReader(tool_names(tools))
        self._is_parallel = is_parallel

    def push(self, text: str) -> str:
        """The new text that is certainly none of a call."""
        return self._reader.push(text)

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """The rest of the text, and the calls: `{"id", "name", "arguments"}`, the last as JSON text.

        What began as a call and cannot be read is text, so that nobody calls by mistake.
        """
        rest, calls, unreadable = self._reader.finish()
        rest += "".join(one.text for one in unreadable)
        calls = calls if self._is_parallel else calls[:1]
        return rest, [_call(one) for one in calls]


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}


def _function(tool: Mapping[str, Any], param: str) -> Tool:
    inner = tool.get("function", tool)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or not name:
        raise bad_field(param, f"{param} is a function without a name.")
    parameters = inner.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise bad_field(f"{param}.parameters", f"{param}.parameters must be a JSON schema.")
    function = {"name": name, "description": inner.get("description") or "", "parameters": parameters or {}}
    return {"type": "function", "function": function}


def _allowed(tools: Sequence[Tool], choice: Mapping[str, Any]) -> tuple[list[Tool], str]:
    inner = choice.get("allowed_tools", choice)
    listed = inner.get("tools") if isinstance(inner, Mapping) else None
    if not isinstance(listed, list):
        raise bad_field("tool_choice", "tool_choice of type 'allowed_tools' needs a list of tools.")
    names = {_name(one) for one in listed}
    return [tool for tool in tools if _name(tool) in names], str(inner.get("mode") or "auto")


def _name(tool: Any) -> Any:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    return inner.get("name") if isinstance(inner, Mapping) else None
