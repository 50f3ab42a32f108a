"""Prompt: what one request puts in the place of the engine's wording, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .template import PromptTemplate
from .tokenizer import Message

__all__ = ["Prompt"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """The wording of one request: another template, a whole conversation, or a plain text.

    `nbce_rag.noncharacters.PASSAGES` says where passages go: once for all of them, or once for each, in
    their order. What a chat template may look at beside the messages is an option of the request,
    `chat_template_kwargs`. Two prompts are never equal, so that an engine binds each to its tokenizer once.

    Attributes:
        messages: a conversation, oldest first, as chat templates take it. A model without a chat template
            reads a single one in the engine's plain wording (as it stands where it ends in a colon or
            begins before the passages, for then it words the prompt itself), several as "role: text".
        text: a plain prompt, which the model goes on from as it stands.
        tools: with `messages`, tools that the model is told of, OpenAI-style.
        template: in place of the engine's. With `messages` or `text` only its words around one passage
            count, and for models without a chat template its plain wording and stop strings.
        refusal: with `messages` or `text`, the reply that they ask for when a passage holds no answer.
        trusted: special tokens in `text` count, and a BOS that it begins with is not written twice: for
            text from a program that renders a chat format.

    Raises:
        InputError: both `messages` and `text`, no message, a message without role or content, or what goes
            with the one beside the other.
    """

    messages: Sequence[Message] | None = None
    text: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    template: PromptTemplate | None = None
    refusal: str | None = None
    trusted: bool = False

    def __post_init__(self) -> None:
        if self.messages is not None and self.text is not None:
            raise InputError("A prompt is a conversation or a text; give messages or text, not both.")
        for place, message in enumerate(self.messages or ()):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise InputError(f"messages[{place}]={message!r} must be a mapping with role and content.")
        if self.messages is not None and not self.messages:
            raise InputError("There is no message; give at least one.")
        if self.tools and self.messages is None:
            raise InputError("Tools are told in a conversation; give messages too.")
        if self.trusted and self.text is None:
            raise InputError("trusted=True is about special tokens in a text; give text too.")
        if self.refusal is not None and self.is_template:
            raise InputError("A refusal without messages or text belongs into the template; put it there.")

    @property
    def is_template(self) -> bool:
        """Whether it words nothing but passages and question, by a template."""
        return self.messages is None and self.text is None
