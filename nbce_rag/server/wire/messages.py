"""Messages in OpenAI's form, with documents in their content as Anthropic's and OpenAI's clients put them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...passages import Passage
from ..ask import Message
from .documents import passage_of
from .errors import ServerError, bad_field

__all__ = ["content_parts", "messages_of"]

_ROLES = {
    "developer": "system",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXTS = ("text", "input_text", "output_text")


def messages_of(messages: Any, param: str = "messages") -> tuple[Message, ...]:
    """A conversation, as chat requests have it.

    Raises:
        ServerError: no messages, an unknown role, or content that a text model cannot read.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise bad_field(param, f"{param} must be a list of at least one message.")
    return tuple(_message(message, f"{param}.{place}") for place, message in enumerate(messages))


def content_parts(content: Any, param: str) -> tuple[str | Passage, ...]:
    """The texts and documents of a message's content: a text, or a list of parts.

    Raises:
        ServerError: a part that a text model cannot read, named by its place.
    """
    if content is None:
        return ("",)
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise bad_field(param, f"{param} must be a text or a list of parts.")
    return tuple(_part(part, f"{param}.{place}") for place, part in enumerate(content))


def _message(message: Any, param: str) -> Message:
    if not isinstance(message, Mapping):
        raise bad_field(param, f"{param} must be an object with 'role' and 'content'.")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_field(
            f"{param}.role", f"{param}.role {role!r} is not known; there are {', '.join(_ROLES)}."
        )
    extras: dict[str, Any] = {}
    if message.get("tool_calls"):
        extras["tool_calls"] = _calls(message["tool_calls"], f"{param}.tool_calls")
    for name in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(message.get(name), str) and _ROLES[role] in ("tool", "assistant"):
            extras[name] = message[name]
    return Message(_ROLES[role], content_parts(message.get("content"), f"{param}.content"), extras)


def _calls(calls: Any, param: str) -> list[dict[str, Any]]:
    made = []
    for place, call in enumerate(calls if isinstance(calls, list) else [calls]):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise bad_field(f"{param}.{place}", f"{param}.{place} must be a call of a function with a name.")
        arguments = function.get("arguments") or "{}"
        made.append(
            {
                "type": "function",
                "id": str(call.get("id") or ""),
                "function": {"name": function["name"], "arguments": arguments_of(arguments)},
            }
        )
    return made


def arguments_of(text: Any) -> Any:
    """Arguments of a call, which chat templates take as an object; what is no JSON stays a text."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _part(part: Any, param: str) -> str | Passage:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise bad_field(param, f"{param} must be an object with 'type'.")
    kind = part.get("type")
    if kind in _TEXTS or kind == "refusal":
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise bad_field(param, f"{param} is of type {kind!r} and has no text.")
        return text
    if kind == "search_result":
        return passage_of({**part, "text": _joined(part.get("content"), param)}, param)
    if kind == "document":
        return _document(part, param)
    if kind in ("input_file", "file"):
        return _file(part, param)
    raise bad_field(
        param,
        f"{param} is of type {kind!r}, which a text model cannot read; there are text, document, "
        "search_result, and input_file with a text.",
        code="unsupported_content",
    )


def _document(part: Mapping[str, Any], param: str) -> Passage:
    """Anthropic's block: a source of text, or of content blocks."""
    source = part.get("source")
    if isinstance(source, Mapping) and source.get("type") == "text":
        text = source.get("data")
    elif isinstance(source, Mapping) and source.get("type") == "content":
        text = _joined(source.get("content"), param)
    else:
        raise _no_text(param)
    fields = {"id": part.get("id"), "title": part.get("title"), "text": text}
    return passage_of(fields, param)


def _file(part: Mapping[str, Any], param: str) -> Passage:
    """OpenAI's part: text in base64, with or without `data:` before it."""
    inner = part.get("file") if isinstance(part.get("file"), Mapping) else part
    assert isinstance(inner, Mapping)
    data, name = inner.get("file_data"), inner.get("filename")
    if not isinstance(data, str):
        raise _no_text(param)
    head, comma, body = data.partition(",")
    is_url = bool(comma) and head.startswith("data:")
    if is_url and not head.startswith("data:text/") and "json" not in head:
        raise _no_text(param)
    try:
        raw = base64.b64decode(body if is_url else data, validate=True)
        text = raw.decode()
    except (binascii.Error, ValueError):
        if is_url:
            raise _no_text(param) from None
        text = data
    return passage_of({"text": text, "title": name, "source": name}, param)


def _joined(content: Any, param: str) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in parts if part]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _no_text(param)
    return "\n".join(texts)


def _no_text(param: str) -> ServerError:
    return bad_field(
        param,
        f"{param} holds no text that can be read; give the document's text, or put files into an index.",
        code="unsupported_content",
    )
