"""The form in which one conversation or text is put to a model, so that its chat template takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nbce_rag.noncharacters import PASSAGES
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.template import PromptTemplate

from .tools import instruction

__all__ = ["chat_encoder", "text_encoder"]

Message = Mapping[str, Any]


def chat_encoder(
    tokenizer: Any,
    template: PromptTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> PromptEncoder:
    """The wording of a conversation.

    A chat template is given the messages as they are. What it refuses or leaves out is put otherwise: runs
    of one role are joined, a system message heads the user's, tools are described in the system message,
    and calls and their results become text. A model without a chat template reads a single message as the
    engine's plain prompt (as it is when it ends in a colon, for then it words the prompt itself), and a
    conversation as "role: text" lines.

    Args:
        tokenizer: the model's.
        template: the engine's wording, of which the passage's is used.
        messages: as `apply_chat_template` takes them; `PASSAGES` stands in one at most.
        tools: OpenAI-style dicts.

    Raises:
        ModelError: a chat template that fails on every form.
    """
    if not any(PASSAGES in str(message["content"]) for message in messages):
        messages = _with_mark(messages)
    if not getattr(tokenizer, "chat_template", None):
        messages = _as_text(_told(messages, tools) if tools else messages)
        if len(messages) == 1 and messages[0]["role"] == "user":
            return text_encoder(
                tokenizer, template, _plain(template, str(messages[0]["content"])), template.stop
            )
        return PromptEncoder(_around(template, template.stop), tokenizer, messages=messages)
    form, with_tools = _fitting(tokenizer, messages, tools)
    return PromptEncoder(
        _around(template, ()), tokenizer, messages=form, tools=list(tools) if with_tools else None
    )


def text_encoder(
    tokenizer: Any, template: PromptTemplate, text: str, stop: tuple[str, ...] = ()
) -> PromptEncoder:
    """The wording of a plain prompt, in which `PASSAGES` may stand once."""
    if PASSAGES not in text:
        text = PASSAGES + text
    if text.endswith(PASSAGES):
        text += "\n"  # a row needs a token of its own to go on from
    return PromptEncoder(_around(template, stop), tokenizer, text=text)


def _around(template: PromptTemplate, stop: tuple[str, ...]) -> PromptTemplate:
    # `resolve` takes the blank lines after passages away, so each has to bring its own.
    passage = template.passage if template.passage.endswith("\n") else f"{template.passage}\n\n"
    return replace(
        template,
        prefix="",
        passage=passage,
        suffix="{question}",
        system=None,
        stop=stop,
        refusal=None,
        chat=False,
    )


def _plain(template: PromptTemplate, text: str) -> str:
    before, mark, after = text.partition(PASSAGES)
    if before.strip() or after.rstrip().endswith(":"):
        return text
    return before + mark + template.suffix.replace("{question}", after.strip(), 1)


def _with_mark(messages: Sequence[Message]) -> list[Message]:
    """The mark before the last user message, where a conversation without passages is cut."""
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    place = users[-1] if users else len(messages) - 1
    marked = list(messages)
    marked[place] = {**marked[place], "content": f"{PASSAGES}{marked[place]['content']}"}
    return marked


def _fitting(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[Message], bool]:
    """The first form that the chat template renders whole, and whether it is to be given the tools."""
    names = [tool["function"]["name"] for tool in tools]
    form: Sequence[Message] = messages
    for with_tools in (True, False) if tools else (False,):
        for form in _forms(messages if with_tools or not tools else _told(messages, tools)):
            text = _rendered(tokenizer, form, tools if with_tools else ())
            if text is not None and _is_whole(text, form, names if with_tools else []):
                return form, with_tools
    return form, False


def _forms(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    yield messages
    yield _merged(messages)
    told = _as_text(messages)
    yield told
    yield _merged(told)
    yield _folded(_merged(told))


def _rendered(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any]) -> str | None:
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=True,
                **({"tools": list(tools)} if tools else {}),
            )
        )
    except Exception:  # jinja raises whatever the template's author chose
        return None


def _is_whole(text: str, messages: Sequence[Message], names: Sequence[str]) -> bool:
    """Whether nothing was left out; templates may cut earlier answers, such as their reasoning."""
    if text.count(PASSAGES) != 1 or not all(name in text for name in names):
        return False
    for message in messages:
        content = str(message["content"]).strip()
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
            joined = "\n\n".join(text for text in (str(last["content"]), str(message["content"])) if text)
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


def _as_text(messages: Sequence[Message]) -> list[Message]:
    """Tool calls and their results in words."""
    made: list[Message] = []
    for message in messages:
        content = str(message["content"])
        if message.get("tool_calls"):
            calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
            made.append({"role": message["role"], "content": "\n".join(filter(None, [content, *calls]))})
        elif message["role"] == "tool":
            name = f" of {message['name']}" if message.get("name") else ""
            made.append({"role": "user", "content": f"Result{name}:\n{content}"})
        else:
            made.append(message)
    return made


def _told(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The tools described in the system message."""
    told = instruction(tools)
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{told}"}, *messages[1:]]
    return [{"role": "system", "content": told}, *messages]
