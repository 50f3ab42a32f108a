"""Query and chat engines in which every retrieved node is a context of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import (
    AsyncStreamingResponse,
    PydanticResponse,
    StreamingResponse,
)
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import LLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES

from nbce_rag import InputError, PassageIndex

from .default_llm import default_llm
from .retriever import PassageRetriever
from .store import PassageVectorStore
from .synthesizer import NBCESynthesizer, capture_reports

__all__ = [
    "NBCECondensePlusContextChatEngine",
    "NBCECondenseQuestionChatEngine",
    "NBCEContextChatEngine",
    "nbce_chat_engine",
    "nbce_query_engine",
]


class _TextSynthesizer(NBCESynthesizer):
    """For chat engines, which stream text: a structured answer is its JSON, in one piece."""

    def synthesize(self, *args: Any, **kwargs: Any) -> Any:
        response = super().synthesize(*args, **kwargs)
        if not self._streaming or not isinstance(response, PydanticResponse):
            return response
        pieces = (text for text in [str(response)])
        return StreamingResponse(pieces, response.source_nodes, response.metadata)

    async def asynthesize(self, *args: Any, **kwargs: Any) -> Any:
        response = await super().asynthesize(*args, **kwargs)
        if not self._streaming or not isinstance(response, PydanticResponse):
            return response

        async def pieces() -> AsyncGenerator[str, None]:
            yield str(response)

        return AsyncStreamingResponse(pieces(), response.source_nodes, response.metadata)


class _ReportMixin:
    """Puts `metadata["nbce"]` on the responses of a chat engine; of a stream it fills as that comes."""

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        """As in LlamaIndex."""
        with capture_reports() as reports:
            return _with_report(super().chat(*args, **kwargs), reports)  # type: ignore[misc]

    async def achat(self, *args: Any, **kwargs: Any) -> Any:
        """As in LlamaIndex."""
        with capture_reports() as reports:
            return _with_report(await super().achat(*args, **kwargs), reports)  # type: ignore[misc]

    def stream_chat(self, *args: Any, **kwargs: Any) -> Any:
        """As in LlamaIndex."""
        with capture_reports() as reports:
            return _with_report(super().stream_chat(*args, **kwargs), reports)  # type: ignore[misc]

    async def astream_chat(self, *args: Any, **kwargs: Any) -> Any:
        """As in LlamaIndex."""
        with capture_reports() as reports:
            return _with_report(await super().astream_chat(*args, **kwargs), reports)  # type: ignore[misc]


class _OneCallMixin(_ReportMixin):
    """Replaces the synthesizer that LlamaIndex's chat engines make for each turn, whatever they are given."""

    synthesis: ClassVar[dict[str, Any]] = {}
    """Arguments of `NBCESynthesizer`, set by `nbce_chat_engine` on its engines."""

    def _get_response_synthesizer(self, chat_history: list[ChatMessage], streaming: bool = False) -> Any:
        stock = super()._get_response_synthesizer(chat_history, streaming)  # type: ignore[misc]
        return _TextSynthesizer(
            self._llm,  # type: ignore[attr-defined]
            text_qa_template=stock._text_qa_template,
            streaming=streaming,
            callback_manager=self.callback_manager,  # type: ignore[attr-defined]
            **self.synthesis,
        )


class _StandaloneMixin:
    """Condenses a turn to one line where a base model does it, which goes on writing after the question."""

    def _condense_question(self, chat_history: list[ChatMessage], message: str, /) -> str:
        made = super()._condense_question(chat_history, message)  # type: ignore[misc]
        return self._standalone(made, message)

    async def _acondense_question(self, chat_history: list[ChatMessage], message: str, /) -> str:
        made = await super()._acondense_question(chat_history, message)  # type: ignore[misc]
        return self._standalone(made, message)

    def _standalone(self, made: str, message: str) -> str:
        if made == message or self._llm.metadata.is_chat_model:  # type: ignore[attr-defined]
            return made
        return made.strip().split("\n", 1)[0].strip() or message


class NBCEContextChatEngine(_OneCallMixin, ContextChatEngine):
    """`ContextChatEngine`, each node a context of its own; history and system prompt are in every row."""


class NBCECondensePlusContextChatEngine(_StandaloneMixin, _OneCallMixin, CondensePlusContextChatEngine):
    """`CondensePlusContextChatEngine`, with each node a context of its own.

    Condensing the question is a call of its own, without contexts.
    """


class NBCECondenseQuestionChatEngine(_StandaloneMixin, _ReportMixin, CondenseQuestionChatEngine):
    """`CondenseQuestionChatEngine`, which hands on what its query engine says about the answer."""


def nbce_query_engine(
    source: BaseIndex[Any] | BaseRetriever | PassageIndex | PassageVectorStore | str | os.PathLike[str],
    llm: LLM | None = None,
    *,
    similarity_top_k: int = 8,
    node_postprocessors: Sequence[Any] | None = None,
    callback_manager: Any = None,
    retriever_options: dict[str, Any] | None = None,
    **synthesis: Any,
) -> RetrieverQueryEngine:
    """A query engine over an index or retriever, answering through `NBCESynthesizer`.

    Args:
        source: an index of LlamaIndex, a retriever, a `PassageIndex`, its store or its folder.
        llm: an `NBCELLM`; default: `Settings.llm`.
        similarity_top_k: nodes to retrieve. Not for a retriever, which has its own.
        node_postprocessors, callback_manager: as in LlamaIndex.
        retriever_options: more arguments of `index.as_retriever`, such as `filters`.
        **synthesis: arguments of `NBCESynthesizer`, such as `streaming`, `text_qa_template`, `output_cls`,
            `answer_without_context` and options of generation.
    """
    synthesis = _scale_of(source) | synthesis
    return RetrieverQueryEngine(
        _retriever(source, similarity_top_k, retriever_options),
        response_synthesizer=NBCESynthesizer(llm, callback_manager=callback_manager, **synthesis),
        node_postprocessors=list(node_postprocessors or []),
        callback_manager=callback_manager,
    )


def nbce_chat_engine(
    source: BaseIndex[Any]
    | BaseRetriever
    | PassageIndex
    | PassageVectorStore
    | str
    | os.PathLike[str]
    | BaseQueryEngine,
    llm: LLM | None = None,
    *,
    chat_mode: str = "condense_plus_context",
    similarity_top_k: int = 8,
    retriever_options: dict[str, Any] | None = None,
    synthesis: dict[str, Any] | None = None,
    **engine_options: Any,
) -> BaseChatEngine:
    """A chat engine whose every answer from nodes is one call of the model.

    Args:
        source, llm, similarity_top_k, retriever_options: as in `nbce_query_engine`.
        chat_mode: "context", "condense_plus_context" (also as "best"), "condense_question", or "simple",
            which asks the model without any nodes.
        synthesis: arguments of `NBCESynthesizer`.
        **engine_options: arguments of the engine's `from_defaults`, such as `memory` and `system_prompt`.

    Raises:
        InputError: another `chat_mode`; of "react" and "openai" it says what to take.
    """
    llm = default_llm(llm)
    synthesis = _scale_of(source) | (synthesis or {})
    chat_mode = str(getattr(chat_mode, "value", chat_mode))
    if chat_mode in ("react", "openai"):
        raise InputError(
            f"chat_mode={chat_mode!r} is an agent: make a ReActAgent or FunctionAgent of "
            "llama_index.core.agent.workflow with "
            "tools=[QueryEngineTool.from_defaults(nbce_query_engine(...))]."
        )
    if chat_mode == "simple":
        return SimpleChatEngine.from_defaults(llm=llm, **engine_options)
    if chat_mode == "condense_question":
        engine = (
            source
            if isinstance(source, BaseQueryEngine)
            else RetrieverQueryEngine(
                _retriever(source, similarity_top_k, retriever_options),
                response_synthesizer=_TextSynthesizer(llm, **synthesis),
            )
        )
        return NBCECondenseQuestionChatEngine.from_defaults(engine, llm=llm, **engine_options)
    kinds: dict[str, Any] = {
        "context": NBCEContextChatEngine,
        "condense_plus_context": NBCECondensePlusContextChatEngine,
        "best": NBCECondensePlusContextChatEngine,
    }
    if chat_mode not in kinds:
        raise InputError(f"chat_mode={chat_mode!r} must be simple, condense_question, {' or '.join(kinds)}.")
    NBCESynthesizer(llm, **synthesis)  # what is wrong with the arguments shows now, not at the first turn
    retriever = _retriever(source, similarity_top_k, retriever_options)
    chat: Any = kinds[chat_mode].from_defaults(retriever=retriever, llm=llm, **engine_options)
    chat.synthesis = synthesis
    return chat  # type: ignore[no-any-return]


def _scale_of(source: object) -> dict[str, Any]:
    """What is known of a retriever's scores: sums of 1 / (60 + rank) look like cosines and are none."""
    fused = isinstance(source, QueryFusionRetriever) and source.mode == FUSION_MODES.RECIPROCAL_RANK
    return {"score_scale": "rank"} if fused else {}


def _retriever(source: Any, k: int, options: dict[str, Any] | None) -> BaseRetriever:
    if isinstance(source, BaseRetriever):
        if options:
            raise InputError("retriever_options are for an index; the retriever given has its own.")
        return source
    if isinstance(source, PassageIndex | PassageVectorStore | str | os.PathLike):
        return PassageRetriever(source, similarity_top_k=k, **(options or {}))
    if isinstance(source, BaseIndex):
        return source.as_retriever(similarity_top_k=k, **(options or {}))
    raise InputError(f"Got a {type(source).__name__}; give an index, a retriever, a store or a folder.")


def _with_report(response: Any, reports: list[dict[str, Any]]) -> Any:
    if not response.source_nodes:
        # LlamaIndex takes them from all kinds of responses but async streams.
        for source in response.sources:
            response.source_nodes.extend(getattr(source.raw_output, "source_nodes", []))
    if reports:
        response.metadata = {**(getattr(response, "metadata", None) or {}), "nbce": reports[-1]}
    return response
