"""Agents: a query engine as a tool, and a retriever as a tool in front of NBCELLM, each one call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.agent import ReActChatFormatter
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatResponse, CitableBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import QueryEngineTool, ToolOutput
from llama_index.core.tools.types import BaseToolAsyncAdapter
from llama_index_answers import check, rows_of_calls
from scripted_llm import ScriptedLLM

from llama_index_nbce import NBCELLM, capture_reports, citable_retriever_tool, nbce_query_engine
from nbce_rag.passages import Passage
from nbce_rag.prompts.marks import split_marks

QUESTION = "Who runs the ferry?"
SOURCES = ["ferry", "market", "museum"]


def town(index: VectorStoreIndex, llm: NBCELLM, way: str) -> Any:
    """A query engine as a tool that an agent awaits, which asks by `query` or `aquery`, and only so."""
    engine = nbce_query_engine(index, llm, similarity_top_k=3)
    tool = QueryEngineTool.from_defaults(engine, name="town", description="Knows the town.")
    return BaseToolAsyncAdapter(tool) if way == "query" else tool


def run(agent: Any, streamed: bool) -> tuple[str, list[ToolCallResult], str]:
    """The agent's answer, what its tools gave, and what it streamed."""

    async def work() -> tuple[str, list[ToolCallResult], str]:
        handler = agent.run(QUESTION)
        if not streamed:
            output = await handler
            results = [
                ToolCallResult(
                    tool_name=call.tool_name,
                    tool_kwargs=call.tool_kwargs,
                    tool_id=call.tool_id,
                    tool_output=call.tool_output,
                    return_direct=False,
                )
                for call in output.tool_calls
            ]
            return str(output), results, ""
        results, deltas = [], []
        async for event in handler.stream_events():
            if isinstance(event, ToolCallResult):
                results.append(event)
            elif isinstance(event, AgentStream):
                deltas.append(event.delta)
        return str(await handler), results, "".join(deltas)

    return asyncio.run(work())


class Opening(NBCELLM):
    """Calls the tool first, in the words of ReAct, and leaves the rest to the model."""

    def _opening(self, messages: Any) -> ChatResponse | None:
        if str(messages[-1].content).startswith("Observation:"):
            return None
        text = f'Thought: I look it up.\nAction: search\nAction Input: {{"query": "{QUESTION}"}}'
        return ChatResponse(message=ChatMessage(role="assistant", content=text), delta=text)

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._opening(messages) or await super().achat(messages, **kwargs)

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        opening = self._opening(messages)
        if opening is None:
            return await super().astream_chat(messages, **kwargs)

        async def responses() -> Any:
            yield opening

        return responses()


class TestQueryEngineTools:
    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize("way", ["query", "aquery"])
    def test_one_call_with_a_row_for_each_node(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any, way: str, streamed: bool
    ) -> None:
        tool = town(index, llm, way)
        agent = FunctionAgent(tools=[tool], llm=ScriptedLLM(), streaming=streamed)
        with capture_reports() as reports:
            text, results, deltas = run(agent, streamed)
        (result,) = results
        response = result.tool_output.raw_output
        assert text == f"The tool says: {response}"
        assert deltas == (text if streamed else "")
        check(str(response), response.metadata["nbce"], SOURCES, 4)
        assert sorted(n.node.node_id for n in response.source_nodes) == SOURCES
        assert reports == [response.metadata["nbce"]]
        assert rows_of_calls(events) == [4]

    @pytest.mark.parametrize(("way", "other"), [("query", "aquery"), ("aquery", "query")])
    def test_the_tool_asks_in_the_way_it_is_named_for(
        self, llm: NBCELLM, index: VectorStoreIndex, way: str, other: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tool = town(index, llm, way)
        engine = tool.base_tool.query_engine if way == "query" else tool.query_engine

        def refuse(*args: Any) -> None:
            raise AssertionError("asked in the other way")

        monkeypatch.setattr(engine, other, refuse)
        text, _, _ = run(FunctionAgent(tools=[tool], llm=ScriptedLLM()), True)
        assert text.startswith("The tool says: ")
        assert "other way" not in text

    def test_two_agents_at_once_keep_their_answers_apart(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any
    ) -> None:
        tool = town(index, llm, "aquery")
        questions = [QUESTION, "When does the market open?"]

        async def ask(question: str) -> Any:
            handler = FunctionAgent(tools=[tool], llm=ScriptedLLM(query=question)).run(question)
            output: Any = await handler
            return output.tool_calls[0].tool_output.raw_output

        async def both() -> list[Any]:
            return list(await asyncio.gather(*map(ask, questions)))

        for question, response in zip(questions, asyncio.run(both()), strict=True):
            check(str(response), response.metadata["nbce"], SOURCES, 4)
            alone: Any = nbce_query_engine(index, llm, similarity_top_k=3).query(question)
            assert str(response) == str(alone)
        assert rows_of_calls(events) == [4] * 4


class TestRetrieverTools:
    @pytest.mark.parametrize("streamed", [False, True])
    def test_in_a_function_agent_nbce_reads_the_blocks(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any, streamed: bool
    ) -> None:
        tool = citable_retriever_tool(index.as_retriever(similarity_top_k=3), name="search")
        writer = ScriptedLLM(tool="search", argument="query", reader=llm)
        text, results, deltas = run(FunctionAgent(tools=[tool], llm=writer, streaming=streamed), streamed)
        self.judge(text, results, events)
        assert deltas == (text if streamed else "")

    @pytest.mark.parametrize("streamed", [False, True])
    def test_in_a_react_agent_nbce_reads_the_marks(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any, streamed: bool
    ) -> None:
        """It hands on the text of a tool's output, which is empty for blocks in LlamaIndex itself."""
        tool = citable_retriever_tool(index.as_retriever(similarity_top_k=3), name="search")
        formatter = ReActChatFormatter(system_header="Tools: {tool_desc} {tool_names}", context="")
        kind: Any = Opening  # type checkers make up an `__init__` of its fields
        model = kind(engine=llm.engine)
        agent = ReActAgent(tools=[tool], llm=model, formatter=formatter, streaming=streamed)
        text, results, _ = run(agent, streamed)
        self.judge(text, results, events)

    def judge(self, text: str, results: list[ToolCallResult], events: Any) -> None:
        (result,) = results
        blocks = result.tool_output.blocks
        assert sorted(b.source for b in blocks if isinstance(b, CitableBlock)) == SOURCES
        assert rows_of_calls(events) == [4]
        (end,) = [e for e in events.seen if e.class_name() == "LLMChatEndEvent"]
        made = end.response.raw["nbce"]
        check(made["answer"], made, SOURCES, 4)
        assert text == made["answer"]
        assert [c["index"] for c in made["contexts"]] == [0, 1, 2]

    def test_output_is_blocks_and_its_text_their_marks(self, llm: NBCELLM, index: VectorStoreIndex) -> None:
        tool = citable_retriever_tool(index.as_retriever(similarity_top_k=3), name="search")
        output = tool(query=QUESTION)
        blocks = output.blocks
        assert [type(b) for b in blocks] == [CitableBlock] * 3
        assert asyncio.run(tool.acall(query=QUESTION)).blocks == blocks
        messages = [
            ChatMessage(role="user", content=QUESTION),
            ChatMessage(role="assistant", content="I search."),
            ChatMessage(role="tool", blocks=blocks),
        ]
        response: Any = llm.chat(messages)
        assert response.raw["nbce"]["rows"] == 4
        passages = [part for part in split_marks(output.content) if isinstance(part, Passage)]
        assert [passage.id for passage in passages] == [
            b.source for b in blocks if isinstance(b, CitableBlock)
        ]
        assert ToolOutput(tool_name="t", blocks=blocks, raw_input={}, raw_output=None).content == ""
        output.content = "Replaced."
        assert output.content == str(output) == "Replaced."

    def test_a_function_agent_refuses_a_base_model_as_its_own(
        self, base_llm: NBCELLM, index: VectorStoreIndex
    ) -> None:
        """A model without a chat template was not taught to choose a tool: it needs another around it."""
        tool = citable_retriever_tool(index.as_retriever(), name="search")
        assert not base_llm.metadata.is_function_calling_model

        async def refused() -> None:
            await FunctionAgent(tools=[tool], llm=base_llm).run(QUESTION)

        with pytest.raises(ValueError, match="FunctionCallingLLM"):
            asyncio.run(refused())
