"""Another model that knows nothing of contexts, in the place of ours: it reads them as text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig

from nbce_rag import InputTypeError, Passage, split_marks

from .documents import to_passages
from .settings import NBCESettings, in_our_names

__all__ = ["ContextsAsText"]

_CALL = {"contexts", "score_scale"}


class ContextsAsText(Runnable[LanguageModelInput, Any]):
    """A model that is given what `ChatNBCE` is given: `contexts=` and marked passages reach it as text.

    `ChatNBCE().with_fallbacks([other])` makes these of models that are not ours. Options that only ours
    knows are left out.

    Args:
        model: any chat or completion model.
        separator: stands between passages.

    Raises:
        InputTypeError: it is no model.
    """

    def __init__(self, model: Runnable[Any, Any], separator: str = "\n\n") -> None:
        if not isinstance(model, Runnable):
            raise InputTypeError(
                f"A {type(model).__name__} is no model; give a chat or completion model of LangChain, and to "
                "with_fallbacks a list of them."
            )
        self.model = model
        self.separator = separator

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """The model's answer."""
        return self.model.invoke(*self._plain(input, kwargs), config, **_known(kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """As `invoke`."""
        return await self.model.ainvoke(*self._plain(input, kwargs), config, **_known(kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> Iterator[Any]:
        """As the model streams."""
        yield from self.model.stream(*self._plain(input, kwargs), config, **_known(kwargs))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> AsyncIterator[Any]:
        """As `stream`."""
        async for chunk in self.model.astream(*self._plain(input, kwargs), config, **_known(kwargs)):
            yield chunk

    def bind_tools(self, tools: Any, **kwargs: Any) -> ContextsAsText:
        """The model with tools."""
        return ContextsAsText(self.model.bind_tools(tools, **kwargs), self.separator)  # type: ignore[attr-defined]

    def with_structured_output(self, schema: Any, **kwargs: Any) -> ContextsAsText:
        """The model with a parser."""
        model: Any = self.model
        return ContextsAsText(model.with_structured_output(schema, **kwargs), self.separator)

    def _plain(self, input: LanguageModelInput, kwargs: Mapping[str, Any]) -> tuple[LanguageModelInput]:
        """The input with passages as text; those of a call stand before the last question.

        Where nobody asks, as in a prompt that is one system message, they stand before the last message.
        """
        contexts = kwargs.get("contexts")
        passages = [] if contexts is None else to_passages(contexts)
        before = "".join(passage.text + self.separator for passage in passages)
        if isinstance(input, str):
            return (before + _unmarked(input),)
        given = input.to_messages() if isinstance(input, PromptValue) else convert_to_messages(input)
        messages = [_unmarked_message(message) for message in given]
        asked = [place for place, one in enumerate(messages) if isinstance(one, HumanMessage)]
        places = asked or range(len(messages))
        if before and places:
            question = messages[place := places[-1]]
            content: Any = question.content
            content = before + content if isinstance(content, str) else [before, *content]
            messages[place] = question.model_copy(update={"content": content})
        return (messages,)


def _known(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What other models know of the arguments of a call."""
    ours = (_CALL | set(NBCESettings.model_fields)) - _COMMON
    return {name: value for name, value in in_our_names(kwargs).items() if name not in ours}


_COMMON = {"stop", "temperature", "max_tokens", "top_p", "seed", "logprobs", "top_logprobs"}


def _unmarked_message(message: BaseMessage) -> BaseMessage:
    content: Any = message.content
    if isinstance(content, str):
        return message.model_copy(update={"content": _unmarked(content)})
    blocks = [_unmarked_block(block) for block in content]
    return message.model_copy(update={"content": blocks})


def _unmarked_block(block: Any) -> Any:
    if isinstance(block, str):
        return _unmarked(block)
    return {**block, "text": _unmarked(block["text"])} if isinstance(block.get("text"), str) else block


def _unmarked(text: str) -> str:
    return "".join(part.text if isinstance(part, Passage) else part for part in split_marks(text))
