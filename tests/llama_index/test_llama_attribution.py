"""Citations on what other query engines answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import jsonschema
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, Response
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from pydantic import BaseModel

from llama_index_nbce import (
    NBCELLM,
    NBCEAttributionQueryEngine,
    ResponseAttribution,
    cited_nodes,
    format_citations,
    nbce_query_engine,
)
from nbce_rag import report_schema
from nbce_rag.errors import InputError, InputTypeError

QUESTION = "Who runs the ferry?"
TEXT = "Ada runs the ferry, and the market opens at eight."


class Fixed(CustomQueryEngine):
    """An engine that always answers the same."""

    response: Any
    nodes: list[NodeWithScore] = []  # noqa: RUF012 -- a pydantic field

    def custom_query(self, query_str: str) -> Any:
        return Response(self.response, source_nodes=self.nodes, metadata={"own": 1})


@pytest.fixture
def sources(nodes: list[TextNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=0.5 - 0.1 * place) for place, node in enumerate(nodes)]


def check(response: Any, text: str = TEXT) -> dict[str, Any]:
    """The report of a response, whose citations the package's functions read."""
    report: dict[str, Any] = response.metadata["nbce"]
    jsonschema.validate(json.loads(json.dumps(report, allow_nan=False)), report_schema())
    assert str(response) == report["answer"] == text
    assert report["finish_reason"] == "given"
    ids = [node.node.node_id for node in response.source_nodes]
    assert [node.node.node_id for node in cited_nodes(response)] == [
        ids[report["contexts"][[c["id"] for c in report["contexts"]].index(id_)]["metadata"]["index"]]
        for id_ in report["cited_ids"]
    ]
    if report["cited_ids"]:
        assert "[1]" in format_citations(response)
    return report


def test_a_response_of_any_engine(llm: NBCELLM, sources: list[NodeWithScore]) -> None:
    attribution = ResponseAttribution(llm, citation_threshold=0.01)
    response = attribution.attribute(QUESTION, Response(TEXT, source_nodes=sources))
    report = check(response)
    assert report["cited_ids"]
    assert [c["metadata"]["source"] for c in report["contexts"]] == ["ferry", "market", "museum"]
    assert [c["metadata"]["ref_doc_id"] for c in report["contexts"]] == ["sea.txt", "town.txt", "town.txt"]
    # The same as from the engine itself, and in the form of the package's own engine.
    again = ResponseAttribution(llm.engine, citation_threshold=0.01)
    other = check(again.attribute(QueryBundle(QUESTION), Response(TEXT, source_nodes=sources)))
    assert other["citations"] == report["citations"]


def test_in_the_form_of_our_own_engine(
    llm: NBCELLM, index: VectorStoreIndex, sources: list[NodeWithScore]
) -> None:
    own = (nbce_query_engine(index, llm, similarity_top_k=2).query(QUESTION).metadata or {})["nbce"]
    report = check(ResponseAttribution(llm).attribute(QUESTION, Response(TEXT, source_nodes=sources)))
    assert report.keys() == own.keys()
    assert report["contexts"][0].keys() == own["contexts"][0].keys()
    assert report["contexts"][0]["metadata"].keys() == own["contexts"][0]["metadata"].keys()


@pytest.mark.parametrize("streaming", [False, True])
def test_around_a_stock_engine(streaming: bool, llm: NBCELLM, index: VectorStoreIndex) -> None:
    inner = index.as_query_engine(llm=MockLLM(max_tokens=6), similarity_top_k=2, streaming=streaming)
    engine = NBCEAttributionQueryEngine(inner, llm, ablate=True)
    assert isinstance(engine, BaseQueryEngine)
    response = engine.query(QUESTION)
    assert str(response).split() == ["text"] * 6
    report = check(response, str(response))
    assert len(report["ablation"]["necessity"]) == 2
    again = asyncio.run(engine.aquery(QUESTION))
    assert check(again, str(response))["citations"] == report["citations"]


def test_a_chat_engine_that_streams(llm: NBCELLM, index: VectorStoreIndex) -> None:
    attribution = ResponseAttribution(llm)
    engine = index.as_chat_engine(ChatMode.CONTEXT, llm=MockLLM(max_tokens=6), similarity_top_k=2)
    plain = engine.chat(QUESTION)
    report = check(attribution.attribute(QUESTION, plain), str(plain))
    engine.reset()
    streamed = attribution.attribute(QUESTION, engine.stream_chat(QUESTION))
    assert check(streamed, str(plain))["citations"] == report["citations"]

    async def asynchronously() -> Any:
        engine.reset()
        stream = await engine.astream_chat(QUESTION)
        with pytest.raises(InputTypeError, match="await aattribute"):
            attribution.attribute(QUESTION, stream)
        return await attribution.aattribute(QUESTION, stream)

    assert check(asyncio.run(asynchronously()), str(plain))["citations"] == report["citations"]


def test_own_metadata_stay(llm: NBCELLM, sources: list[NodeWithScore]) -> None:
    engine = NBCEAttributionQueryEngine(Fixed(response=TEXT, nodes=sources), llm)
    response = engine.query(QUESTION)
    assert isinstance(response, Response)
    assert response.metadata is not None
    assert response.metadata["own"] == 1
    check(response)


def test_nothing_to_attribute(llm: NBCELLM, sources: list[NodeWithScore]) -> None:
    class Fact(BaseModel):
        who: str

    attribution = ResponseAttribution(llm)
    blank = [NodeWithScore(node=TextNode(text=" "))]
    for response in (
        Response(TEXT),
        Response(None, source_nodes=sources),
        Response(TEXT, source_nodes=blank),
        PydanticResponse(Fact(who="Ada"), source_nodes=sources),
        SimpleChatEngine.from_defaults(llm=MockLLM()).chat("Hello"),
    ):
        assert attribution.attribute(QUESTION, response) is response
        assert "nbce" not in (getattr(response, "metadata", None) or {})


def test_wrong_arguments(llm: NBCELLM) -> None:
    for engine in ("kb", nbce_query_engine, SimpleChatEngine.from_defaults(llm=MockLLM())):
        with pytest.raises(InputTypeError, match="is no query engine"):
            NBCEAttributionQueryEngine(engine, llm)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="MockLLM cannot attribute"):
        ResponseAttribution(MockLLM())
    with pytest.raises(InputError, match="Unknown option depth"):
        ResponseAttribution(llm, depth=3)
    with pytest.raises(InputError, match="score_scale='feet'"):
        ResponseAttribution(llm, score_scale="feet")


def test_wrong_responses(llm: NBCELLM, sources: list[NodeWithScore]) -> None:
    async def pieces() -> AsyncGenerator[str, None]:
        yield TEXT

    attribution = ResponseAttribution(llm)
    wrong: Any
    for wrong in (TEXT, None, sources):
        with pytest.raises(InputTypeError, match="no response"):
            attribution.attribute(QUESTION, wrong)
    for wrong in (None, 3):
        with pytest.raises(InputTypeError, match="query must be a text"):
            attribution.attribute(wrong, Response(TEXT, source_nodes=sources))
    stream = AsyncStreamingResponse(pieces(), source_nodes=sources)
    with pytest.raises(InputTypeError, match="await aattribute"):
        attribution.attribute(QUESTION, stream)
    check(asyncio.run(attribution.aattribute(QUESTION, stream)))
