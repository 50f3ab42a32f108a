"""The input of /v1/responses as a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..ask import Message
from .errors import bad_field
from .messages import arguments_of, content_parts, messages_of

__all__ = ["input_messages"]

_PASSED_OVER = ("reasoning", "file_search_call")  # of earlier answers; what they held is not read again


def input_messages(given: str | list[Any], instructions: str | None) -> tuple[Message, ...]:
    """Messages of a request's input, with its instructions before them.

    Calls of tools that follow each other belong to one message, as chat templates take them.

    Raises:
        ServerError: an item of a kind that there is not, or one that a text model cannot read.
    """
    messages = [] if instructions is None else [Message("system", (instructions,))]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    names: dict[str, str] = {}
    for place, item in enumerate(items):
        param = f"input.{place}"
        if not isinstance(item, Mapping):
            raise bad_field(param, f"{param} must be an object.")
        kind = item.get("type", "message")
        if kind == "message":
            messages += _message(item, param)
        elif kind == "function_call":
            _add_call(messages, item, param)
            names[str(item.get("call_id"))] = str(item.get("name"))
        elif kind == "function_call_output":
            messages.append(_result(item, names, param))
        elif isinstance(kind, str) and kind.startswith("input_"):
            messages.append(Message("user", content_parts([item], "input")))
        elif kind not in _PASSED_OVER:
            raise bad_field(
                param,
                f"{param} is of type {kind!r}, which is not supported; there are message, function_call, "
                "function_call_output, input_text and input_file.",
            )
    if not any(message.role != "system" for message in messages):
        raise bad_field("input", "input holds no message.")
    return tuple(messages)


def _message(item: Mapping[str, Any], param: str) -> tuple[Message, ...]:
    if "role" not in item:
        raise bad_field(f"{param}.role", f"{param} is a message without a role.")
    content = item.get("content")
    # The place of the item, not of the only message in a list of its own.
    if isinstance(content, list):
        content_parts(content, f"{param}.content")
    return messages_of([dict(item)], "input")


def _add_call(messages: list[Message], item: Mapping[str, Any], param: str) -> None:
    if not isinstance(item.get("name"), str):
        raise bad_field(param, f"{param} is a call without a name.")
    call = {
        "type": "function",
        "id": str(item.get("call_id") or ""),
        "function": {"name": item["name"], "arguments": arguments_of(item.get("arguments") or "{}")},
    }
    last = messages[-1] if messages else None
    if last is not None and last.role == "assistant":
        calls = [*last.extras.get("tool_calls", ()), call]
        messages[-1] = Message("assistant", last.parts, {**last.extras, "tool_calls": calls})
    else:
        messages.append(Message("assistant", ("",), {"tool_calls": [call]}))


def _result(item: Mapping[str, Any], names: Mapping[str, str], param: str) -> Message:
    output, call = item.get("output"), str(item.get("call_id") or "")
    if not isinstance(output, str | list):
        output = json.dumps(output, ensure_ascii=False)
    extras = {"tool_call_id": call, **({"name": names[call]} if call in names else {})}
    return Message("tool", content_parts(output, f"{param}.output"), extras)
