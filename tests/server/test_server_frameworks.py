"""LangChain's and LlamaIndex's own OpenAI clients on the server."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, SecretStr

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

ZETA = "What is the code of Zeta?"
ANSWER = "seven blue apples"


class Code(BaseModel):
    """A code."""

    known: bool


def chat_openai(server: Any, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{server.url}/v1", api_key=SecretStr("none"), model="nbce-codes", max_retries=0, **options
    )


@pytest.mark.parametrize("responses", [False, True])
def test_langchain_answers_and_streams(server: Any, responses: bool) -> None:
    llm = chat_openai(server, use_responses_api=responses)
    message = llm.invoke(ZETA)
    assert message.text == ANSWER
    assert message.usage_metadata is not None
    chunks: list[Any] = list(chat_openai(server, use_responses_api=responses, stream_usage=True).stream(ZETA))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == ANSWER
    assert whole.usage_metadata is not None
    assert llm.with_structured_output(Code).invoke(ZETA, max_tokens=40)


def test_langchain_keeps_citations_of_responses(server: Any) -> None:
    llm = chat_openai(server, use_responses_api=True)
    message = llm.invoke(ZETA)
    streamed: Any = None
    for chunk in llm.stream(ZETA):
        streamed = chunk if streamed is None else streamed + chunk
    for one in (message, streamed):
        blocks: list[Any] = [block for block in one.content_blocks if block["type"] == "text"]
        [citation] = [note for block in blocks for note in block.get("annotations", [])]
        assert citation["type"] == "citation"
        assert (citation["start_index"], citation["end_index"]) == (0, len(ANSWER))
        assert citation["url"] == f"{server.url}/source/codes/zeta"
        assert citation["extras"]["passage_id"] == "zeta"


@pytest.mark.parametrize("responses", [False, True])
def test_langchain_calls_tools(server: Any, responses: bool) -> None:
    def look_up(known: bool) -> str:
        """Looks up a code."""
        return "seven"

    llm = chat_openai(server, use_responses_api=responses).bind_tools([look_up], tool_choice="look_up")
    [call] = llm.invoke(ZETA, max_tokens=60).tool_calls
    assert call["name"] == "look_up"
    assert isinstance(call["args"]["known"], bool)


async def test_langchain_embeds(server: Any) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        model="nbce-codes",
        check_embedding_ctx_length=False,
    )
    assert len(await embeddings.aembed_query("cats purr")) == 32


async def test_llama_index_answers_and_streams(server: Any) -> None:
    common = {"model": "nbce-codes", "api_base": f"{server.url}/v1", "api_key": "none", "max_retries": 0}
    llm = OpenAILike(is_chat_model=True, **common)
    reply = await llm.acomplete(ZETA)
    assert reply.text == ANSWER
    assert reply.raw.choices[0].message.annotations[0].url_citation.title == "Zeta"
    *_, last = llm.stream_complete(ZETA)
    assert last.text == ANSWER
    plain = OpenAILike(is_chat_model=False, **common)  # what it is without being told
    assert plain.complete(ZETA).text == ANSWER
