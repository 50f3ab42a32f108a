"""The form in which a conversation is put to a model, so that its chat template takes it whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError, ModelError
from ..noncharacters import PASSAGES
from .tokenizer import Message, Tokenizer
from .tools import Tool, instruction, tool_names

__all__ = [
    "TURN_MARKS",
    "check_chat_template_kwargs",
    "fitting_form",
    "messages_as_text",
    "turn_stops",
    "with_instruction",
    "with_mark",
    "with_result_names",
]

TURN_MARKS = ("\nuser:", "\nUser:", "\nHuman:", "\nassistant:", "\nAssistant:")
"""Where the next turn of a conversation in plain words begins, which a base model would go on to invent."""
_ROLE = re.compile(r"(?:user|human|assistant|ai|system|tool):", re.IGNORECASE)
# What rendering gives a template by itself or is steered by; a value of another's would break the rows.
_RESERVED = frozenset(
    {
        "add_generation_prompt",
        "bos_token",
        "chat_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "documents",
        "eos_token",
        "max_length",
        "messages",
        "pad_token",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "self",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
        "unk_token",
    }
)


def check_chat_template_kwargs(kwargs: Any) -> dict[str, Any] | None:
    """A copy of what a chat template may look at beside messages and tools, if there is anything.

    Raises:
        InputError: not a mapping of names to JSON values, or a name that rendering needs for itself.
    """
    if kwargs is None:
        return None
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise InputError(
            f"chat_template_kwargs={kwargs!r} must be a mapping with names as keys, such as "
            "{'enable_thinking': False}."
        )
    if reserved := sorted(_RESERVED & kwargs.keys()):
        raise InputError(
            f"chat_template_kwargs={kwargs!r} must not hold {', '.join(reserved)}: rendering sets that "
            "itself. Messages and tools belong to the call, another template to the tokenizer."
        )
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(kwargs), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"chat_template_kwargs={kwargs!r} must hold JSON values only: {error}.") from error
    return copy


def fitting_form(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Sequence[Message], bool]:
    """The first form that the chat template renders whole, and whether it is to be given the tools.

    As they are, first. What the template refuses or leaves out is put otherwise: runs of one role are joined,
    calls and their results become text, a system message heads the user's, tools are described in the system
    message. If nothing is whole the last form is what is left, and says what is wrong when it is rendered.
    """
    form: Sequence[Message] = messages
    for offered in (tools, ()) if tools else ((),):
        for form in _forms(messages if offered or not tools else with_instruction(messages, tools)):
            text = _rendered(tokenizer, form, offered, chat_template_kwargs)
            if text is None or not _is_whole(text, form):
                continue
            if not offered:
                return form, False
            # The conversation may speak of a tool too, so its name alone does not show that it is told of.
            without = _rendered(tokenizer, form, (), chat_template_kwargs) or ""
            if all(text.count(name) > without.count(name) for name in tool_names(offered)):
                return form, True
    return form, False


def with_mark(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with the mark for passages: before the last user message, where there is none.

    What stands before it does not change from question to question, so that it is read once.
    """
    if any(PASSAGES in str(message["content"]) for message in messages):
        return messages
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    place = users[-1] if users else len(messages) - 1
    marked = list(messages)
    marked[place] = {**marked[place], "content": f"{PASSAGES}{marked[place]['content'] or ''}"}
    return marked


def with_result_names(messages: Sequence[Message]) -> list[Message]:
    """The messages, each result of a tool with the tool's name, which some templates want.

    Where it has none, it is that of the call whose `id` is the result's `tool_call_id`.
    """
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    names = {call.get("id"): call["function"]["name"] for call in calls if call.get("id")}
    return [
        {**message, "name": names[message["tool_call_id"]]}
        if message["role"] == "tool" and not message.get("name") and message.get("tool_call_id") in names
        else message
        for message in messages
    ]


def with_instruction(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The messages with the tools described in the system message."""
    description = instruction(tools)
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{description}"}, *messages[1:]]
    return [{"role": "system", "content": description}, *messages]


def messages_as_text(messages: Sequence[Message]) -> list[Message]:
    """Tool calls and their results in words."""
    made: list[Message] = []
    for message in messages:
        content = str(message["content"] or "")
        if message.get("tool_calls"):
            calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
            made.append({"role": message["role"], "content": "\n".join(filter(None, [content, *calls]))})
        elif message["role"] == "tool":
            name = f" of {message['name']}" if message.get("name") else ""
            made.append({"role": "user", "content": f"Result{name}:\n{content}"})
        else:
            made.append(message)
    return made


def turn_stops(text: str) -> tuple[str, ...]:
    """`TURN_MARKS` for a text that is a conversation: its first or last line begins with a role."""
    lines = text.strip().splitlines()
    return TURN_MARKS if lines and any(_ROLE.match(line) for line in (lines[0], lines[-1])) else ()


def _forms(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    yield messages
    yield _merged(messages)
    told = messages_as_text(messages)
    yield told
    yield _merged(told)
    yield _folded(_merged(told))


def _rendered(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    chat_template_kwargs: Mapping[str, Any] | None,
) -> str | None:
    try:
        return tokenizer.render(messages, tools=tools, variables=chat_template_kwargs)
    except ModelError:
        return None


def _is_whole(text: str, messages: Sequence[Message]) -> bool:
    """Whether nothing was left out; templates may cut earlier answers, such as their reasoning."""
    if text.count(PASSAGES) != sum(str(message["content"]).count(PASSAGES) for message in messages):
        return False
    for message in messages:
        content = str(message["content"] or "").strip()
        if message["role"] != "assistant" and content not in text:
            return False
        if any(call["function"]["name"] not in text for call in message.get("tool_calls", ())):
            return False
    return True


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Runs of one role as one message."""
    made: list[dict[str, Any]] = []
    for message in messages:
        last = made[-1] if made else None
        if (
            last is not None
            and last["role"] == message["role"]
            and message["role"] in ("system", "user", "assistant")
            and "tool_calls" not in last
        ):
            joined = "\n\n".join(str(text) for text in (last["content"], message["content"]) if text)
            made[-1] = {**last, **message, "content": joined}
        else:
            made.append(dict(message))
    return list(made)


def _folded(messages: Sequence[Message]) -> list[Message]:
    """System messages at the head of the user message that follows."""
    made: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(str(message["content"]))
        elif waiting and message["role"] == "user":
            made.append({**message, "content": "\n\n".join([*waiting, str(message["content"])])})
            waiting = []
        else:
            made.append(message)
    if waiting:
        made.append({"role": "user", "content": "\n\n".join(waiting)})
    return _merged(made)
