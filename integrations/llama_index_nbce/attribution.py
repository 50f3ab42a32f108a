"""Citations on what any query engine has answered, whatever model wrote it."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.schema import QueryBundle

from nbce_rag import Answer, Answerer, InputTypeError, Options, Request, Turn, check_score_scale, resolve

from .contexts import passages_of
from .llm import NBCELLM
from .report import complete, describe

__all__ = ["NBCEAttributionQueryEngine", "ResponseAttribution"]


class ResponseAttribution:
    """Puts `metadata["nbce"]` on a response that another engine gave: which source nodes its text rests on.

    What it holds is what `NBCESynthesizer` says of its own answers, so that `cited_nodes` and
    `format_citations` read it. The text stays as it is. A streamed response is read to its end. A response
    without text or source nodes, or with an object in place of a text, comes back as it was.

    Args:
        llm: an `NBCELLM`, an `nbce_rag.NBCE` or a `RemoteNBCE`, whose engine and options read the nodes.
        score_scale: as in `NBCESynthesizer`.
        ablate: whether the report says how much less likely the text is without each node.
        **options: see `nbce_rag.Options`; those of fusion and citation count.

    Raises:
        InputTypeError: the LLM is another one, which cannot say what it would have read.
        InputError: unknown or impossible options, or an unknown scale.
    """

    def __init__(
        self, llm: Any, *, score_scale: str | None = None, ablate: bool = False, **options: Any
    ) -> None:
        if not isinstance(llm, (NBCELLM, Answerer)):
            raise InputTypeError(
                f"{type(llm).__name__} cannot attribute; give an NBCELLM or an nbce_rag.NBCE. The model that "
                "answers is the query engine's own."
            )
        check_score_scale(score_scale)
        self._engine: Answerer = llm.engine if isinstance(llm, NBCELLM) else llm
        base = llm.engine.options.updated(**llm.options) if isinstance(llm, NBCELLM) else llm.options
        self._options: Options = base.updated(**options)
        self._score_scale, self._ablate = score_scale, ablate

    def attribute(self, query: str | QueryBundle, response: Any) -> Any:
        """The response with its citations.

        Args:
            query: what was asked.
            response: of any query engine, or of a chat engine.

        Raises:
            InputTypeError: it is no response, or streams asynchronously, or the query is no text.
        """
        if isinstance(response, StreamingResponse):
            response = response.get_response()
        if isinstance(response, StreamingAgentChatResponse):
            if response.chat_stream is not None:
                for _ in response.response_gen:
                    pass
            elif response.achat_stream is not None and not response.response:
                raise _streams_asynchronously(response)
            response = _whole(response)
        return self._attributed(query, response)

    async def aattribute(self, query: str | QueryBundle, response: Any) -> Any:
        """`attribute` in a worker thread; also for a response that streams asynchronously."""
        if isinstance(response, AsyncStreamingResponse):
            response = await response.get_response()
        if isinstance(response, StreamingAgentChatResponse) and response.achat_stream is not None:
            async for _ in response.async_response_gen():
                pass
            response = _whole(response)
        return await asyncio.to_thread(self.attribute, query, response)

    def _attributed(self, query: str | QueryBundle, response: Any) -> Any:
        if isinstance(response, AsyncStreamingResponse):
            raise _streams_asynchronously(response)
        if not hasattr(response, "response") or not hasattr(response, "source_nodes"):
            raise InputTypeError(
                f"{type(response).__name__} is no response; give what a query engine or a chat engine "
                "returned."
            )
        question = query.query_str if isinstance(query, QueryBundle) else query
        if not isinstance(question, str):
            raise InputTypeError(f"The query must be a text or a QueryBundle, not {type(query).__name__}.")
        text, nodes = response.response, list(response.source_nodes)
        if not isinstance(text, str) or not text.strip() or not nodes:
            return response
        talk = resolve([Turn("user", [question])], passages_of(nodes), score_scale=self._score_scale)
        if not talk.passages:
            return response
        request = Request(question, talk.passages, self._options, is_retrieved=True)
        answer: Answer = self._engine.attribute(request, text=text)
        if self._ablate:
            answer = self._engine.ablate(answer)
        report = describe(answer, talk.notes)
        complete(report, nodes)
        response.metadata = {**(getattr(response, "metadata", None) or {}), "nbce": report}
        return response


def _whole(response: StreamingAgentChatResponse) -> AgentChatResponse:
    """A stream of a chat engine that was read to its end."""
    return AgentChatResponse(
        response=response.response, sources=response.sources, source_nodes=response.source_nodes
    )


def _streams_asynchronously(response: Any) -> InputTypeError:
    return InputTypeError(f"The {type(response).__name__} streams asynchronously; await aattribute instead.")


class NBCEAttributionQueryEngine(BaseQueryEngine):
    """A query engine whose responses another one gives, and this one cites.

    Args:
        query_engine: any; one that streams is read to its end.
        llm, **attribution: arguments of `ResponseAttribution`.

    Raises:
        InputTypeError: it is no query engine, or the LLM cannot attribute.
    """

    def __init__(self, query_engine: BaseQueryEngine, llm: Any, **attribution: Any) -> None:
        if not isinstance(query_engine, BaseQueryEngine):
            raise InputTypeError(
                f"A {type(query_engine).__name__} is no query engine; for a response that is there already, "
                "or of a chat engine, take ResponseAttribution."
            )
        super().__init__(callback_manager=query_engine.callback_manager)
        self._inner = query_engine
        self._attribution = ResponseAttribution(llm, **attribution)

    def _get_prompt_modules(self) -> Any:
        return {"query_engine": self._inner}

    def _query(self, query_bundle: QueryBundle) -> Response:
        attributed: Response = self._attribution.attribute(query_bundle, self._inner.query(query_bundle))
        return attributed

    async def _aquery(self, query_bundle: QueryBundle) -> Response:
        response = await self._inner.aquery(query_bundle)
        attributed: Response = await self._attribution.aattribute(query_bundle, response)
        return attributed
