"""What every response synthesizer of LlamaIndex does, asked of ours and of two of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import CompactAndRefine, SimpleSummarize
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_nbce import NBCELLM, NBCESynthesizer

QUESTION = "Who runs the ferry?"


@pytest.fixture(params=["nbce", "compact", "simple"])
def make(request: pytest.FixtureRequest, llm: NBCELLM) -> Callable[..., Any]:
    classes = {"compact": CompactAndRefine, "simple": SimpleSummarize}
    if request.param == "nbce":
        return lambda **options: NBCESynthesizer(llm, **options)
    return lambda **options: classes[request.param](llm=MockLLM(), **options)


@pytest.fixture
def scored(nodes: list[TextNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=0.5) for node in nodes]


def test_query_answers_with_its_sources(make: Callable[..., Any], scored: list[NodeWithScore]) -> None:
    extra = [NodeWithScore(node=TextNode(id_="extra", text="x"))]
    for query in (QUESTION, QueryBundle(QUESTION)):
        response = make().synthesize(query, scored, additional_source_nodes=extra)
        assert isinstance(response, Response)
        assert response.metadata is not None
        assert response.response
        assert [n.node.node_id for n in response.source_nodes] == ["ferry", "market", "museum", "extra"]
        assert response.metadata["ferry"] == {"page": 0}


def test_all_four_ways_give_the_same_text(make: Callable[..., Any], scored: list[NodeWithScore]) -> None:
    whole = make().synthesize(QUESTION, scored).response
    stream = make(streaming=True).synthesize(QUESTION, scored)
    assert isinstance(stream, StreamingResponse)
    assert "".join(stream.response_gen) == whole

    async def run() -> tuple[Any, Any]:
        answer = await make().asynthesize(QUESTION, scored)
        streamed = await make(streaming=True).asynthesize(QUESTION, scored)
        assert isinstance(streamed, AsyncStreamingResponse)
        return answer.response, "".join([text async for text in streamed.async_response_gen()])

    assert asyncio.run(run()) == (whole, whole)


def test_streaming_is_looked_at_in_each_call(make: Callable[..., Any], scored: list[NodeWithScore]) -> None:
    synthesizer = make()
    synthesizer._streaming = True  # as CondenseQuestionChatEngine does it
    assert isinstance(synthesizer.synthesize(QUESTION, scored), StreamingResponse)
    synthesizer._streaming = False
    assert isinstance(synthesizer.synthesize(QUESTION, scored), Response)


def test_without_nodes_there_is_an_empty_response(make: Callable[..., Any]) -> None:
    assert make().synthesize(QUESTION, []).response == "Empty Response"
    assert list(make(streaming=True).synthesize(QUESTION, []).response_gen) == ["Empty Response"]
    assert asyncio.run(make().asynthesize(QUESTION, [])).response == "Empty Response"


def test_the_template_is_a_prompt_that_can_be_updated(
    make: Callable[..., Any], scored: list[NodeWithScore], events: Any
) -> None:
    synthesizer = make()
    assert "text_qa_template" in synthesizer.get_prompts()
    synthesizer.update_prompts({"text_qa_template": PromptTemplate("Zebra {context_str} {query_str}")})
    synthesizer.synthesize(QUESTION, scored)
    starts = [e for e in events.seen if e.class_name() in ("LLMChatStartEvent", "LLMCompletionStartEvent")]
    given = getattr(starts[0], "prompt", None) or str(starts[0].messages[0].blocks[0])
    assert "Zebra" in given


def test_events_come_in_pairs(make: Callable[..., Any], scored: list[NodeWithScore], events: Any) -> None:
    make().synthesize(QUESTION, scored)
    assert events.count("SynthesizeStartEvent") == events.count("SynthesizeEndEvent") == 1
    assert events.names[0] == "SynthesizeStartEvent"
    assert events.names[-1] == "SynthesizeEndEvent"
