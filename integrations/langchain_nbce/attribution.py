"""PassageAttribution: citations on what another chat model has answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    message_chunk_to_message,
)
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, Field, field_validator

from nbce_rag import Answer, Answerer, InputError, Options, Request, Turn, resolve

from .block_citations import cited_blocks, uncited_blocks
from .chat_model import ChatNBCE
from .documents import to_passages
from .output import PROVIDER, TEXT_PROVIDER, citations
from .settings import NBCESettings

__all__ = ["PassageAttribution"]


class PassageAttribution(RunnableSerializable[Any, AIMessage]):
    """Says which documents a message rests on that any chat model wrote, as `ChatNBCE` says it of its own.

    `create_retrieval_chain(...) | PassageAttribution()`, or
    `RunnablePassthrough.assign(answer=prompt | llm) | PassageAttribution()`. The input is a dict with
    question, documents and answer, or a tuple of these; the answer is a message or a text, the question a
    text or the messages that end with it.

    The message comes back with its text as it was, its usage and its tool calls, and with
    `response_metadata["nbce"]` and annotations in `content_blocks`. For them its `model_provider` is "nbce";
    that of the model that wrote it is `text_model_provider`. Of a message whose content is a list the text
    blocks get the annotations. A message without text, or without any document, comes back as it was.

    Attributes:
        llm: whose engine and options read the documents: `ChatNBCE`, `NBCELLM` an `nbce_rag.NBCE`
            or a `RemoteNBCE`.
        question_key, documents_key, answer_key: what the input calls them; the defaults are those of
            `create_retrieval_chain`.
        ablate: whether the report says how much less likely the text is without each document.

    Example:
        >>> chain = create_retrieval_chain(retriever, answers) | PassageAttribution()  # doctest: +SKIP
        >>> chain.invoke({"input": "Who runs the ferry?"}).content_blocks  # doctest: +SKIP
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    llm: Any = Field(default_factory=ChatNBCE)
    question_key: str = "input"
    documents_key: str = "context"
    answer_key: str = "answer"
    ablate: bool = False

    @field_validator("llm")
    @classmethod
    def _check_llm(cls, llm: Any) -> Any:
        if not isinstance(llm, (NBCESettings, Answerer)):
            raise ValueError(
                f"llm must be a ChatNBCE, an NBCELLM or an nbce_rag.NBCE, got {type(llm).__name__}; the "
                "model that answers stands before this one in the chain"
            )
        return llm

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """The message with its citations; `kwargs` are options of `nbce_rag.Options`."""
        return self._call_with_config(self._annotated, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """As `invoke`, in a worker thread."""
        return await self._acall_with_config(self._aannotated, input, config, **kwargs)

    async def _aannotated(self, value: Any, **options: Any) -> AIMessage:
        return await asyncio.to_thread(self._annotated, value, **options)

    def _annotated(self, value: Any, **options: Any) -> AIMessage:
        question, documents, message = self._parts(value)
        score_key, scale = (
            (self.llm.score_key, self.llm.score_scale) if isinstance(self.llm, NBCESettings) else (None, None)
        )
        passages = to_passages(documents, **({"score_key": score_key} if score_key else {}))
        talk = resolve([Turn("user", [question])], passages, score_scale=scale)
        text = str(message.text)
        if not talk.passages or not text.strip():
            return message
        engine, base = self._engine(options)
        request = Request(question, talk.passages, base, is_retrieved=True)
        answer = engine.attribute(request, text=text)
        if self.ablate:
            answer = engine.ablate(answer)
        return _with_citations(message, answer, talk.notes)

    def _engine(self, options: Mapping[str, Any]) -> tuple[Answerer, Options]:
        if isinstance(self.llm, NBCESettings):
            engine = self.llm.nbce()
            return engine, self.llm.options(engine, None, options)
        return self.llm, self.llm.options.updated(**options)

    def _parts(self, value: Any) -> tuple[str, Any, AIMessage]:
        """Question, documents and message of an input.

        Raises:
            InputError: something is missing, or is no question and no message.
        """
        keys = (self.question_key, self.documents_key, self.answer_key)
        if isinstance(value, Mapping):
            if missing := [key for key in keys if key not in value]:
                raise InputError(
                    f"The input lacks {', '.join(missing)}; it has {', '.join(map(str, value))}. Name what "
                    "it has with question_key, documents_key and answer_key."
                )
            value = tuple(value[key] for key in keys)
        if not isinstance(value, (tuple, list)) or len(value) != 3:
            raise InputError(
                f"PassageAttribution takes a dict with {', '.join(keys)}, or (question, documents, answer), "
                f"not a {type(value).__name__}."
            )
        question, documents, answer = value
        return _question(question), documents, _message(answer)


def _question(value: Any) -> str:
    """A question as text; of messages the last of the user."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        asked = [one for one in value if isinstance(one, HumanMessage)]
        value = asked[-1] if asked else value
    text = str(value.text) if isinstance(value, BaseMessage) else value
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"The question {text!r} is no text; give what was asked.")
    return text


def _message(value: Any) -> AIMessage:
    if isinstance(value, str):
        return AIMessage(value)
    if isinstance(value, AIMessageChunk):
        value = message_chunk_to_message(value)
    if not isinstance(value, AIMessage):
        raise InputError(f"The answer is a {type(value).__name__}; give an AIMessage or a text.")
    return value


def _with_citations(message: AIMessage, answer: Answer, notes: Sequence[str]) -> AIMessage:
    """A message with what is said of its text; everything else of it stays."""
    report = answer.to_dict()
    report["warnings"] += notes
    metadata = {**message.response_metadata, "nbce": report}
    provider = metadata.get("model_provider")
    if provider is not None and provider != PROVIDER:
        metadata[TEXT_PROVIDER] = provider
    # Core asks the provider's translator for blocks, and ours puts annotations in.
    metadata["model_provider"] = PROVIDER
    if isinstance(message.content, str):
        return message.model_copy(update={"response_metadata": metadata})
    content = cited_blocks(uncited_blocks(message.content), citations(report))
    return message.model_copy(update={"content": content, "response_metadata": metadata})
