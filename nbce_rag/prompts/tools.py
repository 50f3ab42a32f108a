"""Tools: what a model is told of them, the grammar of a forced call, and calls read out of its text.

Tools are OpenAI-style dicts, `{"type": "function", "function": {"name", "description", "parameters"}}`, which
is what chat templates take.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..errors import InputError
from .schemas import closed_schema

__all__ = [
    "Tool",
    "ToolCall",
    "ToolCallReader",
    "UnreadableCall",
    "distinct_tools",
    "forced_tools",
    "instruction",
    "tool_call_schema",
    "tool_names",
]

Tool = Mapping[str, Any]

_OPENERS = (
    "<tool_call>",
    "<|tool_call|>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<function_call>",
    "```tool_call",
    "to=functions.",
    "assistant to=functions.",
    "commentary to=functions.",
)
_RECIPIENT = "to=functions."  # gpt-oss names the tool in the head of the message
_LEAD = re.compile("|".join(map(re.escape, _OPENERS)))
_MOST_CALLS = 8  # that are forced at once; a weak model would go on for as long as it may
_SAY_MEMBERS = {"$ref", "allOf", "anyOf", "oneOf", "properties"}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model makes.

    Attributes:
        name: the tool's.
        arguments: by name, as JSON has them.
        id: by which the result names its call.
    """

    name: str
    arguments: dict[str, Any]
    id: str


@dataclass(frozen=True, slots=True)
class UnreadableCall:
    """A call that the model began and that cannot be read.

    Attributes:
        text: all that it wrote.
        error: what is wrong with it, in a sentence.
        id: as of `ToolCall`.
    """

    text: str
    error: str
    id: str


def tool_names(tools: Iterable[Tool]) -> list[str]:
    """Names of the tools, in their order."""
    return [tool["function"]["name"] for tool in tools]


def distinct_tools(tools: Iterable[Tool]) -> list[Tool]:
    """The tools without repetitions: of one name the last one counts."""
    return list({tool["function"]["name"]: tool for tool in tools}.values())


def forced_tools(tool_choice: Any, tools: Sequence[Tool]) -> list[str]:
    """The tools of which one must be called; none when the model may choose not to.

    Args:
        tool_choice: None or "auto", "none", "any" (or "required", True), a tool's name, or a mapping that
            holds it as OpenAI or Anthropic do.
        tools: those at hand.

    Raises:
        InputError: a tool that is not among them, something that says nothing, or no tools to choose from.
    """
    names = tool_names(tools)
    if tool_choice in (None, False, "auto", "none"):
        return []
    if not names:
        raise InputError(f"tool_choice={tool_choice!r} forces a call, but there are no tools; give some.")
    if tool_choice in (True, "any", "required"):
        return names
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        tool_choice = function.get("name") if isinstance(function, Mapping) else tool_choice.get("name")
    if tool_choice not in names:
        raise InputError(
            f"tool_choice={tool_choice!r} names no tool; the tools are {names}, and 'auto', 'any' and 'none' "
            "are understood too."
        )
    return [cast(str, tool_choice)]


def tool_call_schema(tools: Sequence[Tool], names: Sequence[str], *, several: bool = False) -> dict[str, Any]:
    """JSON schema of a call of one of the named tools.

    Args:
        tools: those at hand.
        names: of those that may be called.
        several: a list of one to eight calls, instead of a call.
    """
    calls = []
    definitions: dict[str, Any] = {}
    for tool in tools:
        function = tool["function"]
        if function["name"] not in names:
            continue
        parameters = dict(function.get("parameters") or {})
        if not parameters.keys() & _SAY_MEMBERS:
            parameters["properties"] = {}
        parameters = closed_schema(parameters)
        definitions.update(parameters.pop("$defs", {}))
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if several:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": _MOST_CALLS}
    return {**schema, "$defs": definitions} if definitions else schema


def instruction(tools: Sequence[Tool]) -> str:
    """What a model whose chat template knows no tools is told of them."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You may call one of these functions:\n{listed}\n"
        'To call one, reply with nothing but JSON: {"name": <function name>, "arguments": {<its arguments>}}'
    )


class ToolCallReader:
    """Splits a growing text into what can be shown and what is, or may become, tool calls.

    Args:
        names: the tools that may be called; without any, all is text.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = set(names)
        self._text = ""
        self._shown = 0

    def push(self, text: str) -> str:
        """The new text that is certainly none of a call."""
        self._text += text
        end = len(self._text)
        stripped = self._text.lstrip()
        if not self._names:
            pass
        elif not stripped or stripped[0] in "{[`":
            end = 0  # bare JSON
        elif match := _LEAD.search(self._text):
            end = match.start()
        else:
            for opener in _OPENERS:
                for size in range(min(len(opener) - 1, len(self._text)), 0, -1):
                    if self._text.endswith(opener[:size]):
                        end = min(end, len(self._text) - size)
                        break
        new = self._text[self._shown : max(end, self._shown)]
        self._shown += len(new)
        return new

    def finish(self) -> tuple[str, list[ToolCall], list[UnreadableCall]]:
        """(the rest of the text, calls, calls that cannot be read). What is no call stays text."""
        rest = self._text[self._shown :]
        calls: list[ToolCall] = []
        recipient = self._recipient(rest)
        for item in _objects(rest) if self._names else ():
            name, arguments = _call(item) if recipient is None else (recipient, item)
            if name in self._names and isinstance(arguments, dict):
                calls.append(ToolCall(name, arguments, _new_id()))
        if calls:
            return "", calls, []
        if self._names and _LEAD.search(rest):
            error = f"No call of one of {sorted(self._names)} can be read in it."
            return "", [], [UnreadableCall(rest, error, _new_id())]
        return rest, [], []

    def _recipient(self, text: str) -> str | None:
        """The tool that a message is addressed to; what follows its name may follow at once."""
        address = text.partition(_RECIPIENT)[2]
        return max((name for name in self._names if address.startswith(name)), key=len, default=None)


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _objects(text: str) -> list[Any]:
    """The JSON objects in a text, those within lists too, in order."""
    decoder = json.JSONDecoder()
    values: list[Any] = []
    place = 0
    while (
        start := min((i for i in (text.find("{", place), text.find("[", place)) if i >= 0), default=-1)
    ) >= 0:
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
            continue
        values += value if isinstance(value, list) else [value]
    return [value for value in values if isinstance(value, dict)]


def _call(item: Mapping[str, Any]) -> tuple[Any, Any]:
    """Name and arguments, in the ways in which chat templates teach models to write them."""
    inner = item.get("function")
    if isinstance(inner, Mapping):
        item = inner
    name = item.get("name", inner)
    arguments: Any = next((item[k] for k in ("arguments", "parameters", "args") if k in item), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return name, None
    return name, arguments
