"""The tools: search, fetch, ask, compare and list_indexes, over what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp_types import CallToolResult, ContentBlock, EmbeddedResource, TextContent, TextResourceContents
from pydantic import BaseModel, Field

from ...answers.answer import Piece
from ...errors import NbceError
from ...options import Options
from ...passages import Passage
from ..ask import Ask, Message, Outcome, Retrieved
from ..asking import begin, work_on
from ..links import Links
from ..policy import Policy
from ..retrieval import explanation, rags_of
from ..served import Opening, Served
from ..sources import around
from .results import (
    AskResult,
    CompareResult,
    FetchResult,
    IndexesResult,
    IndexItem,
    SearchResult,
    answer_result,
    comparison_result,
    fetch_result,
    search_result,
    uri_of,
)

__all__ = ["Tools"]

_LOOK_S = 0.05  # between two looks whether the model is loaded
_K = 8

Question = Annotated[str, Field(min_length=1, description="In the words of whoever asks, and complete.")]
Index = Annotated[
    str | list[str] | None, Field(description="Name of an index, or several (`list_indexes`); null for all.")
]
K = Annotated[int, Field(ge=1, le=100, description="How many passages.")]
Where = Annotated[
    dict[str, Any] | None,
    Field(description='Condition on metadata, such as {"year": {"$gte": 1900}, "language": "en"}.'),
]
Mode = Annotated[
    Literal["vector", "words", "hybrid"] | None, Field(description="Search by meaning, by words, or both.")
]
AnyContext = Context[Any, Any]


class Tools:
    """The tools' functions, each of which takes the one way of all questions (`nbce_rag.server.asking`).

    What is wrong is raised, in our words, and never an empty result.

    Args:
        opening: what is served, as soon as it is open; a call waits for it.
        policy: who may read what, when a call comes.
        links: makes the links of addresses for one call; None where there is no page to open.
    """

    def __init__(
        self,
        opening: Opening,
        policy: Callable[[], Policy],
        links: Callable[[AnyContext], Links | None] = lambda context: None,
    ) -> None:
        self._opening, self._policy, self._links = opening, policy, links

    async def search(
        self,
        query: Question,
        context: AnyContext,
        index: Index = None,
        k: K = _K,
        where: Where = None,
        mode: Mode = None,
    ) -> Annotated[CallToolResult, SearchResult]:
        """Find the passages that answer a question best. Read one with what stands around it with `fetch`."""
        with _told():
            served = await self._served(context)
            ask = self._ask(served, context, query, index, _given(k=k, where=where, mode=mode))
            retrieved = await self._found(served, ask, context)
            result = search_result(retrieved, self._links(context))
            # One text with the JSON and nothing else, which is what ChatGPT reads.
            return _result(result, [_text(result.model_dump_json())])

    async def fetch(
        self, id: Annotated[str, Field(description="As `search` gives it.")], context: AnyContext
    ) -> Annotated[CallToolResult, FetchResult]:
        """Read a passage with what stands around it in its source."""
        with _told():
            served = await self._served(context)
            index, _, passage_id = id.partition("/")
            result = await asyncio.to_thread(self._fetched, served, context, index, passage_id)
            return _result(result, [_text(result.model_dump_json())])

    async def ask(
        self,
        question: Question,
        context: AnyContext,
        index: Index = None,
        k: K = _K,
        where: Where = None,
        mode: Mode = None,
        style: Annotated[
            Literal["short", "long"] | None,
            Field(description="As few words as possible, or full sentences; null is the model's own."),
        ] = None,
        max_tokens: Annotated[int | None, Field(ge=1, description="Most tokens of the answer.")] = None,
    ) -> Annotated[CallToolResult, AskResult]:
        """Answer a question from the indexes, with a citation for each stretch that a passage supports.

        Citations are measured while the answer is written, not claimed by the model. Where no passage answers
        the question it abstains and says so.
        """
        with _told():
            served = await self._served(context)
            options = _given(style=style, max_tokens=max_tokens)
            asked = self._ask(served, context, question, index, _given(k=k, where=where, mode=mode), options)
            outcome = await self._outcome(served, asked, context)
            result, links = answer_result(outcome, self._links(context))
            return _result(result, [_text(str(outcome.answer)), *links])

    async def compare(
        self,
        question: Question,
        context: AnyContext,
        index: Index = None,
        k: K = _K,
        where: Where = None,
        mode: Mode = None,
    ) -> Annotated[CallToolResult, CompareResult]:
        """Let every passage answer a question by itself, and say which agree and which contradict others."""
        with _told():
            served = await self._served(context)
            ask = self._ask(served, context, question, index, _given(k=k, where=where, mode=mode))

            def work(request: Any, retrieved: Retrieved) -> Any:
                if not request.passages:
                    raise ToolError(f"No passage was found: {explanation(served, ask)}")
                return served.nbce.compare(request.question, request.passages)

            await context.report_progress(0, None, "Searching")
            comparison, retrieved = await work_on(served, ask, _caller(context), self._policy(), work)
            result = comparison_result(comparison, retrieved, self._links(context))
            return _result(result, [_text(str(comparison))])

    async def list_indexes(self, context: AnyContext) -> Annotated[CallToolResult, IndexesResult]:
        """The indexes that can be asked, with how much is in them."""
        with _told():
            served = await self._served(context)
            names = self._readable(served, context)
            result = await asyncio.to_thread(_indexes, served, names)
            lines = [
                f"{one.name}: {one.passages} passages of {one.sources} sources" for one in result.indexes
            ]
            return _result(result, [_text("\n".join(lines) or "There is no index.")])

    async def passage(self, index: str, passage_id: str, context: AnyContext) -> str:
        """A passage's text."""
        served = await self._served(context)
        try:
            return (await asyncio.to_thread(self._passage, served, context, index, passage_id)).text
        except ToolError as error:
            raise ResourceNotFoundError(str(error)) from error
        except NbceError as error:
            raise ResourceError(str(error)) from error

    async def answer_with_sources(
        self, question: str, context: AnyContext, index: str | None = None
    ) -> list[UserMessage]:
        """The passages for a question, and the question to be answered from them alone, with citations."""
        with _told():
            served = await self._served(context)
            ask = self._ask(served, context, question, index, {"k": _K})
            retrieved = await self._found(served, ask, context)
            links = self._links(context)
            items = search_result(retrieved, links).results
            messages = [
                UserMessage(_embedded(passage, item.index))
                for passage, item in zip(retrieved.passages, items, strict=True)
            ]
            sources = "\n".join(f"[{place}] {item.title} ({item.url})" for place, item in enumerate(items, 1))
            wording = (
                "Answer the question from the passages above alone. Behind each statement put the number of "
                "the passage that it rests on, like [1]. If they do not answer it, say so.\n\n"
                f"Passages:\n{sources or 'none was found'}\n\nQuestion: {question}"
            )
            return [*messages, UserMessage(wording)]

    async def _served(self, context: AnyContext) -> Served:
        """What is served, once it is open.

        Raises:
            ToolError: it could not be opened.
        """
        if not self._opening.is_done:
            await context.report_progress(0, None, "Loading the model")
        while not self._opening.is_done:
            await asyncio.sleep(_LOOK_S)
        if self._opening.served is None:
            error = self._opening.error
            reason = str(error) if isinstance(error, NbceError) else "its log says why"
            raise ToolError(f"What is to be asked could not be opened: {reason}")
        return self._opening.served

    def _readable(self, served: Served, context: AnyContext) -> list[str]:
        policy, caller = self._policy(), _caller(context)
        return [name for name in served.rags if policy.may_read(caller, name)]

    def _ask(
        self,
        served: Served,
        context: AnyContext,
        question: str,
        index: str | list[str] | None,
        search: dict[str, Any],
        options: dict[str, Any] | None = None,
    ) -> Ask:
        names = (
            self._readable(served, context) if index is None else [index] if isinstance(index, str) else index
        )
        if not names:
            raise ToolError("There is no index to search; `list_indexes` lists those that there are.")
        messages = (Message("user", (question,)),)
        return Ask(
            messages=messages, indexes=tuple(dict.fromkeys(names)), search=search, options=options or {}
        )

    async def _found(self, served: Served, ask: Ask, context: AnyContext) -> Retrieved:
        """What a search alone finds."""
        _, retrieved = await work_on(
            served, ask, _caller(context), self._policy(), lambda request, retrieved: None
        )
        return retrieved

    async def _outcome(self, served: Served, ask: Ask, context: AnyContext) -> Outcome:
        """The whole answer, with reports of how far it is. Whoever cancels the call frees its rows."""
        answering = await begin(served, ask, _caller(context), self._policy())
        done, total = 0, 1 + int(ask.options.get("max_tokens", Options.max_tokens))
        answer = None
        async with aclosing(answering):
            async for event in answering:
                if isinstance(event, Piece):
                    done += len(event.tokens)
                    answer = event.answer
                    message = "Answering" if answer is None else "Done"
                else:
                    done, message = 1, f"Reading {len(event.passages)} passages"
                await context.report_progress(min(done, total), total, message)
        assert answer is not None  # the engine's last piece has it
        return Outcome(answer, answering.retrieved, answering.notes)

    def _fetched(self, served: Served, context: AnyContext, index: str, passage_id: str) -> FetchResult:
        passage = self._passage(served, context, index, passage_id)
        surroundings = around(served.rags[index].index, passage)
        return fetch_result(passage, index, surroundings, self._links(context))

    def _passage(self, served: Served, context: AnyContext, index: str, passage_id: str) -> Passage:
        """A passage of an index that the caller may read.

        Raises:
            ToolError: there is none of this id.
            ServerError: there is no such index.
        """
        rag = rags_of(served, [index], _caller(context), self._policy())[index]
        passage = rag.index.get(passage_id)
        if passage is None:
            raise ToolError(
                f"The index {index!r} has no passage {passage_id!r}; give an id as `search` does."
            )
        return passage


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def _told() -> Iterator[None]:
    """Our errors as the tool's own, whose text reaches the client; that of others stays in the log."""
    try:
        yield
    except NbceError as error:
        raise ToolError(str(error)) from error


def _caller(context: AnyContext) -> Any:
    """Who asks, as what authenticates HTTP left it; None on stdio, where it is whoever started us."""
    request = context.request_context.request
    return getattr(getattr(request, "state", None), "caller", None)


def _indexes(served: Served, names: list[str]) -> IndexesResult:
    indexes = {name: served.rags[name].index for name in names}
    items = [
        IndexItem(name=name, passages=len(index), sources=len(index.sources()), embedder=index.embedder_name)
        for name, index in indexes.items()
    ]
    return IndexesResult(indexes=items)


def _result(result: BaseModel, content: list[ContentBlock]) -> CallToolResult:
    return CallToolResult(content=content, structured_content=result.model_dump(mode="json"))


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _embedded(passage: Passage, index: str) -> EmbeddedResource:
    uri = uri_of(index, passage.id)
    contents = TextResourceContents(uri=uri, text=passage.text, mime_type="text/plain")
    return EmbeddedResource(type="resource", resource=contents)
