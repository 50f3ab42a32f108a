"""Choosing among tools, and questions for them, by constrained decoding: whatever the model, it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.bridge.pydantic import BaseModel, Field, create_model
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.question_gen.prompts import build_tools_text
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.types import ToolMetadata

from nbce_rag import InputError, InputTypeError

from .default_llm import default_llm
from .llm import NBCELLM

__all__ = ["NBCEMultiSelector", "NBCEQuestionGenerator", "NBCESingleSelector"]

_SELECT = PromptTemplate(
    "Some choices are given below, in a numbered list (1 to {num_choices}).\n\n{context_list}\n\n"
    "Question: {query_str}\nThe number of the choice that is most relevant to the question: "
)
_SELECT_MANY = PromptTemplate(
    "Some choices are given below, in a numbered list (1 to {num_choices}).\n\n{context_list}\n\n"
    "Question: {query_str}\nA JSON list of the numbers of the choices that are relevant to the question: "
)
_ASK = PromptTemplate(
    "The tools are:\n{tools_str}\n\nTake the question apart into sub-questions, each of which one of the "
    "tools can answer alone, and which answer it together.\nQuestion: {query_str}\nThe questions as JSON: "
)


class NBCESingleSelector(BaseSelector):
    """One choice, for `RouterQueryEngine`; the model can write nothing but one of the numbers.

    Args:
        llm: an `NBCELLM` (extra `[grammar]`); default: `Settings.llm`.
        prompt: with `{num_choices}`, `{context_list}` and `{query_str}`.

    Raises:
        InputTypeError: another LLM, which would write what it likes.
    """

    def __init__(self, llm: LLM | None = None, prompt: BasePromptTemplate = _SELECT) -> None:
        self._llm, self._prompt = _constrainable(llm), prompt

    def _get_prompts(self) -> dict[str, Any]:
        return {"prompt": self._prompt}

    def _update_prompts(self, prompts_dict: dict[str, Any]) -> None:
        self._prompt = prompts_dict.get("prompt", self._prompt)

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        messages, constraint = self._asked(choices, query)
        return self._result(str(self._llm.chat(messages, **constraint).message.content))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        messages, constraint = self._asked(choices, query)
        return self._result(str((await self._llm.achat(messages, **constraint)).message.content))

    def _asked(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> tuple[Any, dict[str, Any]]:
        if not choices:
            raise InputError("There is nothing to choose from; give at least one tool.")
        lines = [f"({n}) {' '.join((one.description or '').split())}" for n, one in enumerate(choices, 1)]
        return self._prompt.format_messages(
            llm=self._llm,
            num_choices=len(choices),
            context_list="\n\n".join(lines),
            query_str=query.query_str,
        ), self._constraint(len(choices))

    def _constraint(self, count: int) -> dict[str, Any]:
        return {"regex": "|".join(str(number) for number in range(1, count + 1)), "max_tokens": 8}

    def _result(self, text: str) -> SelectorResult:
        numbers = [int(number) for number in text.strip("[] \n").split(",") if number.strip()]
        selections = [SingleSelection(index=number - 1, reason="") for number in dict.fromkeys(numbers)]
        return SelectorResult(selections=selections)


class NBCEMultiSelector(NBCESingleSelector):
    """One or more choices; as `NBCESingleSelector`.

    Args:
        llm, prompt: likewise.
        max_outputs: most choices; None for as many as there are.

    Raises:
        InputTypeError: another LLM.
        InputError: `max_outputs` is below 1.
    """

    def __init__(
        self,
        llm: LLM | None = None,
        prompt: BasePromptTemplate = _SELECT_MANY,
        max_outputs: int | None = None,
    ) -> None:
        super().__init__(llm, prompt)
        if max_outputs is not None:
            _check_count("max_outputs", max_outputs)
        self._max_outputs = max_outputs

    def _constraint(self, count: int) -> dict[str, Any]:
        number = "|".join(str(number) for number in range(1, count + 1))
        more = min(count, self._max_outputs or count) - 1
        return {"regex": rf"\[({number})(, ({number})){{0,{more}}}\]", "max_tokens": 8 * (more + 1)}


class NBCEQuestionGenerator(BaseQuestionGenerator):
    """Sub-questions, for `SubQuestionQueryEngine`; each names a tool that there is.

    Args:
        llm: an `NBCELLM` (extra `[grammar]`); default: `Settings.llm`.
        prompt: with `{tools_str}` and `{query_str}`.
        most: most sub-questions.

    Raises:
        InputTypeError: another LLM.
        InputError: `most` is below 1.
    """

    def __init__(self, llm: LLM | None = None, prompt: PromptTemplate = _ASK, most: int = 5) -> None:
        _check_count("most", most)
        self._llm, self._prompt, self._most = _constrainable(llm), prompt, most

    def _get_prompts(self) -> dict[str, Any]:
        return {"question_gen_prompt": self._prompt}

    def _update_prompts(self, prompts_dict: dict[str, Any]) -> None:
        self._prompt = prompts_dict.get("question_gen_prompt", self._prompt)

    def generate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        """The sub-questions.

        Raises:
            InputError: no tools, or `max_tokens` cut the list off.
        """
        kind = self._kind(tools)
        words: dict[str, Any] = {"tools_str": build_tools_text(tools), "query_str": query.query_str}
        return _plain(self._llm.structured_predict(kind, self._prompt, **words))

    async def agenerate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        """As `generate`."""
        kind = self._kind(tools)
        words: dict[str, Any] = {"tools_str": build_tools_text(tools), "query_str": query.query_str}
        return _plain(await self._llm.astructured_predict(kind, self._prompt, **words))

    def _kind(self, tools: Sequence[ToolMetadata]) -> type[BaseModel]:
        names = tuple(tool.get_name() for tool in tools)
        if not names:
            raise InputError("There is no tool to ask; give at least one.")
        name: Any = Literal[names]
        one = create_model("SubQuestion", sub_question=(str, Field(max_length=200)), tool_name=(name, ...))
        items: Any = list[one]  # type: ignore[valid-type]
        limits = Field(min_length=1, max_length=self._most)
        return create_model("SubQuestionList", items=(items, limits))


def _constrainable(llm: LLM | None) -> NBCELLM:
    llm = default_llm(llm)
    if not isinstance(llm, NBCELLM):
        raise InputTypeError(
            f"A {type(llm).__name__} cannot be held to a choice; give an NBCELLM, or take LlamaIndex's own "
            "LLMSingleSelector, LLMMultiSelector or LLMQuestionGenerator."
        )
    return llm


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise InputError(f"{name}={count} must be at least 1.")


def _plain(made: Any) -> list[SubQuestion]:
    return [SubQuestion(sub_question=one.sub_question, tool_name=one.tool_name) for one in made.items]
