"""Wordings bound to a model's tokenizer, each once."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from ..noncharacters import PASSAGES
from .chat_template import (
    TURN_MARKS,
    fitting_form,
    messages_as_text,
    turn_stops,
    with_instruction,
    with_mark,
    with_result_names,
)
from .encoder import PromptEncoder
from .prompt import Prompt
from .template import PromptTemplate, Style, check_style
from .thinking import Thinking, Thought, thinking_of
from .tokenizer import Tokenizer

__all__ = ["Encoders", "bind"]

_Wording: TypeAlias = tuple[PromptTemplate, str, bool | None]

_MOST = 32  # encoders of templates that are held; those of conversations go with them


def bind(
    prompt: Prompt,
    template: PromptTemplate,
    tokenizer: Tokenizer,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    thought: Thought | None = None,
) -> PromptEncoder:
    """The encoder of a prompt.

    Args:
        prompt: the words.
        template: the engine's wording, where the prompt has none of its own.
        tokenizer: the model's.
        chat_template_kwargs: see `nbce_rag.options.Options`.
        thought: see `PromptEncoder`.

    Raises:
        InputError: a chat wording for a tokenizer without a chat template.
        ModelError: a chat template that fails on every form of the conversation.
    """
    template = prompt.template or template
    if prompt.text is not None:
        stop = () if tokenizer.has_chat_template else turn_stops(prompt.text)
        return _of_text(prompt, template, tokenizer, prompt.text, stop, thought)
    if prompt.messages is None:
        return PromptEncoder(template, tokenizer, chat_template_kwargs=chat_template_kwargs, thought=thought)
    messages = with_mark(with_result_names(prompt.messages))
    if not tokenizer.has_chat_template:
        messages = messages_as_text(with_instruction(messages, prompt.tools) if prompt.tools else messages)
        if len(messages) == 1 and messages[0]["role"] == "user":
            text = _in_plain_wording(template, str(messages[0]["content"]))
            return _of_text(prompt, template, tokenizer, text, (*template.stop, *turn_stops(text)))
        stop = (*template.stop, *TURN_MARKS)
        return PromptEncoder(_around(prompt, template, stop), tokenizer, messages=messages)
    form, with_tools = fitting_form(tokenizer, messages, prompt.tools, chat_template_kwargs)
    return PromptEncoder(
        _around(prompt, template),
        tokenizer,
        messages=form,
        tools=prompt.tools if with_tools else (),
        chat_template_kwargs=chat_template_kwargs,
        thought=thought,
    )


class Encoders:
    """The encoders of one engine. Safe to use from several threads.

    Those of the engine's wording, under different `chat_template_kwargs`, are held up to a bound; that of a
    request's own prompt lives as long as the prompt.

    Args:
        template: the engine's wording; None is the built-in one for the tokenizer, in each request's style.
        tokenizer: the model's.
    """

    def __init__(self, template: PromptTemplate | None, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._templates: OrderedDict[_Wording, PromptEncoder] = OrderedDict()
        self._prompts: WeakKeyDictionary[Prompt, tuple[_Wording, PromptEncoder]] = WeakKeyDictionary()
        self._thinking: Thinking | None = None

    @property
    def own(self) -> PromptTemplate | None:
        """The wording that was given, if one was."""
        return self._template

    @property
    def thinking(self) -> Thinking:
        """What the tokenizer's chat template knows of thinking."""
        if self._thinking is None:
            self._thinking = thinking_of(self._tokenizer)
        return self._thinking

    def template(self, style: Style | None = None) -> PromptTemplate:
        """The wording of a style; None is the engine's own, or the built-in default.

        Raises:
            InputError: a style beside a wording that was given.
        """
        check_style(style, self._template)
        return self._template or PromptTemplate.for_tokenizer(self._tokenizer, style)

    def of(
        self,
        prompt: Prompt | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        style: Style | None = None,
        thinking: bool | None = None,
    ) -> PromptEncoder:
        """The encoder of a request's prompt, or of the engine's wording.

        Args:
            prompt: the request's own words.
            chat_template_kwargs, style, thinking: see `nbce_rag.options.Options`.

        Raises:
            InputError, ModelError: what `bind`, `template` and `Thinking.variables` raise.
        """
        prompt = prompt or Prompt()
        # A text is worded already; of the template no more than the words around a passage count.
        template = prompt.template or self.template(style if prompt.text is None else None)
        variables = self.thinking.variables(thinking, chat_template_kwargs)
        wording = (template, json.dumps(variables, sort_keys=True), thinking)
        with self._lock:
            if prompt.is_template and wording in self._templates:
                self._templates.move_to_end(wording)
                return self._templates[wording]
            bound = self._prompts.get(prompt)
        if bound is not None and bound[0] == wording:
            return bound[1]
        thought = self.thinking.thought(thinking, variables)
        encoder = bind(prompt, template, self._tokenizer, variables, thought)
        with self._lock:
            if not prompt.is_template:
                self._prompts[prompt] = (wording, encoder)
                return encoder
            self._templates[wording] = encoder
            while len(self._templates) > _MOST:
                self._templates.popitem(last=False)
        return encoder


def _of_text(
    prompt: Prompt,
    template: PromptTemplate,
    tokenizer: Tokenizer,
    text: str,
    stop: tuple[str, ...] = (),
    thought: Thought | None = None,
) -> PromptEncoder:
    if text.endswith(PASSAGES):
        text += "\n"  # a row needs a token of its own to go on from
    around = _around(prompt, template, stop)
    return PromptEncoder(around, tokenizer, text=text, trusted=prompt.trusted, thought=thought)


def _around(prompt: Prompt, template: PromptTemplate, stop: tuple[str, ...] = ()) -> PromptTemplate:
    """What a template says of a passage, without the instructions that the prompt has instead."""
    # `resolve` takes the blank lines after passages away, so each has to bring its own.
    passage = template.passage if template.passage.endswith("\n") else f"{template.passage}\n\n"
    return replace(
        template,
        prefix="",
        passage=passage,
        suffix="{question}",
        system=None,
        stop=stop,
        refusal=prompt.refusal,
        chat=False,
    )


def _in_plain_wording(template: PromptTemplate, text: str) -> str:
    """A question in the template's words; a text that words it itself stays as it is."""
    before, mark, after = text.partition(PASSAGES)
    if before.strip() or after.rstrip().endswith(":") or PASSAGES in after:
        return text
    return before + mark + template.suffix.replace("{question}", after.strip(), 1)
