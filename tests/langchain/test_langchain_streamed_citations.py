"""Citations in LangChain's streams: they come while the text does, once each, and add up to the message's."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from written_answers import FERRY, LONG, MARKET, PASSAGES, make_writer

from langchain_nbce import ChatNBCE

ASKED = "What is there?"
VERSIONS = [None, "v0", "v1", "responses/v1"]


def streamed(llm: Any, **kwargs: Any) -> tuple[list[AIMessageChunk], Any]:
    """The chunks, and their sum."""
    chunks = list(llm.stream(ASKED, contexts=PASSAGES, **kwargs))
    return chunks, reduce(add, chunks)


def cited(message: Any) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in one.items() if name not in ("id", "index")}
        for block in message.content_blocks
        for one in block.get("annotations", ())
    ]


def model(version: str | None, text: str = LONG, **fields: Any) -> ChatNBCE:
    more: dict[str, Any] = {} if version is None else {"output_version": version}
    return ChatNBCE(engine=make_writer(text), max_tokens=400, **more, **fields)


@pytest.mark.parametrize("version", VERSIONS)
def test_chunks_carry_citations_as_they_become_certain(version: str | None) -> None:
    llm = model(version)
    message = llm.invoke(ASKED, contexts=PASSAGES)
    chunks, whole = streamed(llm)
    assert [LONG[one["start_index"] : one["end_index"]] for one in cited(message)] == [
        FERRY, MARKET, FERRY, MARKET,
    ]  # fmt: skip
    assert [one for chunk in chunks for one in cited(chunk)] == cited(message)
    assert not cited(chunks[-1])
    assert cited(whole) == cited(message)
    text = ""
    for chunk in chunks:
        text += chunk.text
        assert all(one["end_index"] <= len(text) < len(LONG) for one in cited(chunk))
    assert whole.text == message.text == LONG
    assert whole.additional_kwargs == message.additional_kwargs
    assert set(whole.response_metadata) == set(message.response_metadata) - {"token_usage"} | (
        {"output_version"} if version == "v1" else set()
    )
    assert whole.response_metadata.get("annotations") == message.response_metadata.get("annotations")
    assert whole.response_metadata["nbce"]["citations"] == message.response_metadata["nbce"]["citations"]
    if version != "v1":
        assert whole.content == message.content == LONG


async def test_async_streams_do_too() -> None:
    llm = model("v1")
    chunks = [chunk async for chunk in llm.astream(ASKED, contexts=PASSAGES)]
    assert [one for chunk in chunks for one in cited(chunk)] == cited(
        await llm.ainvoke(ASKED, contexts=PASSAGES)
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_of_a_short_answer_the_last_chunk_has_them(version: str | None) -> None:
    llm = model(version, "Ada Fenwick and her son.", citation_threshold=0.01)
    chunks, whole = streamed(llm)
    assert cited(chunks[-1]) == cited(whole) == cited(llm.invoke(ASKED, contexts=PASSAGES))
    assert cited(whole)
    assert not any(map(cited, chunks[:-1]))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_no_text_has_no_annotations(version: str | None) -> None:
    call = '{"name": "tell", "arguments": {"what": "' + FERRY + '"}}'
    text = f"{FERRY} {MARKET}\n\nSo I ask for it, as it is told to everybody who asks.\n\n<tool_call>{call}"
    tool = {"type": "function", "function": {"name": "tell", "parameters": {"type": "object"}}}
    llm = model(version, text)
    message = llm.invoke(ASKED, contexts=PASSAGES, tools=[tool])
    chunks, whole = streamed(llm, tools=[tool])
    assert [one["args"] for one in message.tool_calls] == [{"what": FERRY}]
    assert [one["args"] for one in whole.tool_calls] == [{"what": FERRY}]
    shown = [LONG[one["start_index"] : one["end_index"]] for one in cited(message)]
    assert shown == [FERRY, MARKET]
    assert [one for chunk in chunks for one in cited(chunk)] == cited(message)
    assert cited(whole) == cited(message)
