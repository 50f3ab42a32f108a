"""A conversation and its passages, as the request that the engine answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..noncharacters import PASSAGES
from ..passages import Passage
from ..prompts.conversation import Conversation, Turn, resolve
from ..prompts.prompt import Prompt
from ..prompts.template import PromptTemplate
from ..request import Request
from .ask import Ask

if TYPE_CHECKING:
    from ..engine.nbce import NBCE

__all__ = ["request_of"]


def request_of(
    nbce: NBCE, ask: Ask, contexts: Sequence[Passage] | None, *, is_retrieved: bool
) -> tuple[Request, tuple[str, ...]]:
    """The request of a question, and notes on its passages.

    Args:
        nbce: the engine.
        ask: the question.
        contexts: the passages to read; None leaves it to those that stand in the messages.
        is_retrieved: whether passages were looked for elsewhere than in the messages, so that without any
            nothing should be answered.

    Raises:
        InputError: an empty question, scores that cannot be, unknown or impossible options.
    """
    talk = resolve([Turn(message.role, message.parts) for message in ask.messages], contexts)
    is_retrieved = is_retrieved or (contexts is None and talk.is_retrieved)
    request = nbce.request(talk.question, prompt=_prompt(nbce, ask, talk, is_retrieved), **ask.options)
    return replace(request, passages=talk.passages, is_retrieved=is_retrieved), talk.notes


def _prompt(nbce: NBCE, ask: Ask, talk: Conversation, is_retrieved: bool) -> Prompt | None:
    """The wording of a conversation; None leaves it to the engine."""
    if ask.wording == "text":
        return Prompt(text=talk.texts[0])
    is_worded = ask.wording == "server" and is_retrieved and not ask.tools
    if is_worded and len(ask.messages) == 1 and _is_text(ask):
        return None
    texts, refusal = list(talk.texts), None
    last = max((n for n, message in enumerate(ask.messages) if message.role == "user"), default=None)
    template = nbce.prompt
    if is_worded and last is not None and template.chat:
        texts[last], refusal = _worded(template, texts[last]), template.refusal
    messages = [
        {"role": message.role, "content": text, **message.extras}
        for message, text in zip(ask.messages, texts, strict=True)
    ]
    return Prompt(messages, tools=ask.tools, refusal=refusal)


def _is_text(ask: Ask) -> bool:
    return ask.messages[0].role == "user" and all(isinstance(part, str) for part in ask.messages[0].parts)


def _worded(template: PromptTemplate, text: str) -> str:
    """A question in the words of the engine; a text that places passages stays as it is."""
    question = text.removeprefix(PASSAGES)
    if PASSAGES in question:
        return text
    return template.prefix + PASSAGES + template.suffix.replace("{question}", question.strip(), 1)
