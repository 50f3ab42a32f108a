"""Chains: LangChain's documents chain with passages kept apart, and retrieval with citations in one call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from operator import itemgetter
from typing import Any

from langchain_core.language_models import LanguageModelLike
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.retrievers import RetrieverLike
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnablePassthrough
from langchain_core.runnables.utils import AddableDict

from nbce_rag import InputError

from .documents import mark_documents
from .output import citations
from .settings import NBCESettings

__all__ = ["create_nbce_chain", "create_nbce_documents_chain"]


def create_nbce_documents_chain(
    llm: LanguageModelLike,
    prompt: BasePromptTemplate[Any],
    *,
    output_parser: BaseOutputParser[Any] | None = None,
    document_prompt: BasePromptTemplate[str] | None = None,
    document_separator: str = "\n\n",
    document_variable_name: str = "context",
    mark_key: str | None = None,
) -> Runnable[dict[str, Any], Any]:
    """`create_stuff_documents_chain`, with each document a context of its own.

    Args:
        llm: `ChatNBCE` or `NBCELLM`; other models read the documents as one text.
        prompt: has the variable `document_variable_name`.
        output_parser: default: the text.
        document_prompt: wording of one document; default: its content.
        document_separator: stands between documents, for other models.
        document_variable_name: input with the documents.
        mark_key: the model's `mark_key`, if it has one; default: that of `llm`.

    Raises:
        InputError: the prompt lacks the variable.
    """
    if document_variable_name not in prompt.input_variables:
        raise InputError(
            f"The prompt lacks the variable {document_variable_name!r} for the documents; it has "
            f"{prompt.input_variables}."
        )
    key = mark_key if mark_key is not None else _key_of(llm)

    def mark(inputs: dict[str, Any]) -> str:
        documents = inputs[document_variable_name]
        return mark_documents(documents, document_prompt, separator=document_separator, key=key)

    assign: Any = RunnablePassthrough.assign(**{document_variable_name: mark})
    steps = assign.with_config(run_name="format_inputs") | prompt | llm | (output_parser or StrOutputParser())
    chain: Runnable[dict[str, Any], Any] = steps.with_config(run_name="nbce_documents_chain")
    return chain


def create_nbce_chain(
    retriever: RetrieverLike, llm: Any, *, prompt: BasePromptTemplate[Any] | None = None
) -> Runnable[Any, dict[str, Any]]:
    """Retrieval, answer and citations in one chain.

    Args:
        retriever: any retriever of LangChain.
        llm: `ChatNBCE`; `NBCELLM` works too, but has no place for citations.
        prompt: has the variables `context` and `input`; default: the wording of the model's engine.

    Returns:
        A chain from a question, or a dict with `input`, to a dict of `input`, `context` (the documents),
        `answer` and `citations` (core's `Citation`). It streams, the citations last.

    Raises:
        InputError: the prompt lacks a variable, or there is none and `llm` is not ours.
    """
    if prompt is not None and (missing := {"context", "input"} - set(prompt.input_variables)):
        raise InputError(f"The prompt lacks {sorted(missing)}; it has {prompt.input_variables}.")
    if prompt is None and not isinstance(llm, NBCESettings):
        raise InputError("Give a prompt with 'context' and 'input': the model is not ChatNBCE or NBCELLM.")
    key = _key_of(llm)

    def as_input(question: Any) -> dict[str, Any]:
        if isinstance(question, str):
            return {"input": question}
        if isinstance(question, Mapping) and isinstance(question.get("input"), str):
            return dict(question)
        raise InputError(f"The chain takes a question or a dict with 'input', got {question!r}.")

    def word(inputs: dict[str, Any]) -> Any:
        marked = mark_documents(inputs["context"], None, separator="\n\n", key=key)
        if prompt is not None:
            return prompt.invoke({**inputs, "context": marked})
        template = llm.nbce().prompt
        text = template.prefix + marked + "\n\n" + template.suffix.replace("{question}", inputs["input"], 1)
        system = [SystemMessage(template.system)] if template.system else []
        return [*system, HumanMessage(text)] if hasattr(llm, "bind_tools") else text

    retrieve: Any = itemgetter("input") | RunnableLambda(lambda text: text, name="question") | retriever
    steps: Any = (
        RunnableLambda(as_input, name="input")
        | RunnablePassthrough.assign(context=retrieve)
        | RunnablePassthrough.assign(message=RunnableLambda(word, name="prompt") | llm)
        | RunnableGenerator(_split, _asplit, name="citations")
    )
    chain: Runnable[Any, dict[str, Any]] = steps.with_config(run_name="nbce_chain")
    return chain


class _Splitter:
    """Takes messages out of streamed dicts and puts answer and citations in."""

    def __init__(self) -> None:
        self._has_citations = False

    def push(self, chunk: Mapping[str, Any]) -> Iterator[AddableDict]:
        rest = {name: value for name, value in chunk.items() if name != "message"}
        if rest:
            yield AddableDict(rest)
        if "message" not in chunk:
            return
        message = chunk["message"]
        text = message.text if isinstance(message, BaseMessage) else message
        yield AddableDict(answer=str(text))
        nbce = message.response_metadata.get("nbce") if isinstance(message, BaseMessage) else None
        if nbce is not None:
            self._has_citations = True
            yield AddableDict(citations=citations(nbce))

    def finish(self) -> Iterator[AddableDict]:
        if not self._has_citations:
            yield AddableDict(citations=[])


def _split(chunks: Iterator[Mapping[str, Any]]) -> Iterator[AddableDict]:
    splitter = _Splitter()
    for chunk in chunks:
        yield from splitter.push(chunk)
    yield from splitter.finish()


async def _asplit(chunks: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[AddableDict]:
    splitter = _Splitter()
    async for chunk in chunks:
        for made in splitter.push(chunk):
            yield made
    for made in splitter.finish():
        yield made


def _key_of(llm: Any) -> str | None:
    inner = getattr(llm, "bound", llm)
    return inner.key if isinstance(inner, NBCESettings) else None
