"""Citations in LlamaIndex's streams: they come while the text does, and add up to the whole answer's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, CitableBlock, CitationBlock, TextBlock
from llama_index.core.schema import NodeWithScore, TextNode
from written_answers import FERRY, LONG, MARKET, PASSAGES, make_writer

from llama_index_nbce import NBCELLM, NBCESynthesizer, cited_nodes

CONTEXTS = [
    CitableBlock(content=[TextBlock(text=text)], title="", source=str(number))
    for number, text in enumerate(PASSAGES)
]
MESSAGES = [ChatMessage(role="user", blocks=[*CONTEXTS, TextBlock(text="What is there?")])]


def llm(text: str = LONG) -> NBCELLM:
    return NBCELLM(engine=make_writer(text), max_tokens=400)


def blocks(response: Any) -> list[CitationBlock]:
    return [block for block in response.message.blocks if isinstance(block, CitationBlock)]


def check(steps: list[Any], whole: Any) -> None:
    deltas = [step.additional_kwargs.get("citations_delta") for step in steps]
    assert [step.raw["citations_delta"] for step, delta in zip(steps, deltas, strict=True) if delta] == [
        delta for delta in deltas if delta
    ]
    cited = [one for delta in deltas if delta for one in delta["citations"]]
    assert cited == whole.raw["nbce"]["citations"] == steps[-1].raw["nbce"]["citations"]
    assert [one["text"] for one in cited] == [FERRY, MARKET, FERRY, MARKET]
    assert deltas[-1] is None  # all were certain before the end
    assert "citations_delta" not in whole.raw
    assert "citations_delta" not in whole.additional_kwargs


def test_steps_of_a_chat_have_the_citations_that_are_certain() -> None:
    model = llm()
    whole = model.chat(MESSAGES)
    steps = list(model.stream_chat(MESSAGES))
    check(steps, whole)
    assert blocks(steps[-1]) == blocks(whole)
    assert len(blocks(whole)) == 4
    for before, step in pairwise(steps):
        assert blocks(step)[: len(blocks(before))] == blocks(before)
        ends = [(block.additional_location_info or {})["response_end"] for block in blocks(step)]
        assert all(end <= len(step.message.content or "") for end in ends)


async def test_steps_of_async_chats_and_of_completions_do_too() -> None:
    model = llm()
    steps = [step async for step in await model.astream_chat(MESSAGES)]
    check(steps, await model.achat(MESSAGES))
    prompt = model.complete("What is there?", contexts=PASSAGES)
    check(list(model.stream_complete("What is there?", contexts=PASSAGES)), prompt)


def test_what_a_tool_is_told_is_no_citation_of_the_message() -> None:
    call = '{"name": "tell", "arguments": {"what": "' + FERRY + '"}}'
    model = llm(f"{FERRY} {MARKET}\n\nSo I ask for it, as it is told to everybody here.\n\n<tool_call>{call}")
    tool = {"type": "function", "function": {"name": "tell", "parameters": {"type": "object"}}}
    whole = model.chat(MESSAGES, tools=[tool])
    last = list(model.stream_chat(MESSAGES, tools=[tool]))[-1]
    assert last.message.additional_kwargs["tool_calls"]
    assert [(b.additional_location_info or {})["response_end"] for b in blocks(last)] == [
        len(FERRY),
        len(f"{FERRY} {MARKET}"),
    ]
    assert blocks(last) == blocks(whole)


def test_the_metadata_of_a_streamed_response_fill_as_it_comes() -> None:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(n))) for n, text in enumerate(PASSAGES)]
    response: Any = NBCESynthesizer(llm(), streaming=True).synthesize("What is there?", nodes)
    counts = [len(response.metadata["nbce"].get("citations", ())) for _ in response.response_gen]
    assert counts[0] == 0
    assert {1, 2, 3}.intersection(counts)
    assert counts == sorted(counts)
    assert counts[-1] == len(response.metadata["nbce"]["citations"]) == 4
    assert [node.node.node_id for node in cited_nodes(response)] == ["0", "1"]
