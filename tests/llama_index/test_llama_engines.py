"""The matrix: every way of asking, through every engine, is one call of the model with k + 1 rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import CitableBlock
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.tools import QueryEngineTool
from llama_index_answers import check, rows_of_calls

from llama_index_nbce import (
    NBCELLM,
    NBCECondensePlusContextChatEngine,
    NBCECondenseQuestionChatEngine,
    NBCEContextChatEngine,
    NBCESynthesizer,
    cited_nodes,
    nbce_chat_engine,
    nbce_query_engine,
)
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError, NbceWarning
from nbce_rag.fusion import Posterior

QUESTION = "Who runs the ferry?"
WAYS = ("query", "aquery", "stream", "astream")
CONDENSE = "Condense. {chat_history} {question}"


class OneSubQuestion(BaseQuestionGenerator):
    """Asks the tool what was asked."""

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None: ...

    def generate(self, tools: Any, query: Any) -> list[SubQuestion]:
        return [SubQuestion(sub_question=query.query_str, tool_name=tools[0].name)]

    async def agenerate(self, tools: Any, query: Any) -> list[SubQuestion]:
        return self.generate(tools, query)


def query_engine(kind: str, index: VectorStoreIndex, llm: NBCELLM, streaming: bool) -> Any:
    retriever = index.as_retriever(similarity_top_k=3)
    synthesizer = NBCESynthesizer(llm, streaming=streaming)
    if kind == "retriever":
        return nbce_query_engine(index, llm, similarity_top_k=3, streaming=streaming)
    if kind == "as_query_engine":
        return index.as_query_engine(llm=llm, similarity_top_k=3, response_synthesizer=synthesizer)
    if kind == "citation":
        return CitationQueryEngine(retriever, llm=llm, response_synthesizer=synthesizer)
    tool = QueryEngineTool.from_defaults(nbce_query_engine(retriever, llm), name="town", description="Town.")
    return SubQuestionQueryEngine.from_defaults(
        [tool],
        llm=llm,
        question_gen=OneSubQuestion(),
        response_synthesizer=synthesizer,
        verbose=False,
        use_async=False,
    )


def ask(engine: Any, way: str) -> tuple[str, Any]:
    """Text and response of one question."""
    if way == "query":
        response = engine.query(QUESTION)
        return str(response), response
    if way == "stream":
        response = engine.query(QUESTION)
        return "".join(response.response_gen), response

    async def run() -> tuple[str, Any]:
        response = await engine.aquery(QUESTION)
        if way == "aquery":
            return str(response), response
        return "".join([text async for text in response.async_response_gen()]), response

    return asyncio.run(run())


def chat(engine: Any, way: str, message: str = QUESTION) -> tuple[str, Any]:
    if way == "query":
        response = engine.chat(message)
        return str(response), response
    if way == "stream":
        response = engine.stream_chat(message)
        return "".join(response.response_gen), response

    async def run() -> tuple[str, Any]:
        if way == "aquery":
            response = await engine.achat(message)
            return str(response), response
        response = await engine.astream_chat(message)
        return "".join([text async for text in response.async_response_gen()]), response

    return asyncio.run(run())


class TestQueryEngines:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(
        ("kind", "rows"),
        [("retriever", [4]), ("as_query_engine", [4]), ("citation", [4]), ("sub-question", [4, 2])],
    )
    def test_matrix(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any, kind: str, rows: list[int], way: str
    ) -> None:
        engine = query_engine(kind, index, llm, "stream" in way)
        text, response = ask(engine, way)
        assert rows_of_calls(events) == rows
        sources = [n.node.node_id for n in response.source_nodes]
        check(text, response.metadata["nbce"], sources, rows[-1])
        assert all(n.node.node_id in sources for n in cited_nodes(response))
        if kind in ("retriever", "as_query_engine"):
            assert sorted(sources) == ["ferry", "market", "museum"]

    def test_postprocessors_and_retriever_options(self, llm: NBCELLM, index: VectorStoreIndex) -> None:
        cut = SimilarityPostprocessor(similarity_cutoff=0.3)
        response = nbce_query_engine(index, llm, node_postprocessors=[cut]).query(QUESTION)
        assert all((n.score or 0.0) >= 0.3 for n in response.source_nodes)
        assert len(response.source_nodes) < 3
        engine = nbce_query_engine(index, llm, retriever_options={"doc_ids": ["town.txt"]})
        assert {n.node.node_id for n in engine.query(QUESTION).source_nodes} == {"market", "museum"}
        with pytest.raises(InputError, match="retriever_options"):
            nbce_query_engine(index.as_retriever(), llm, retriever_options={"doc_ids": []})
        with pytest.raises(InputError, match="MockLLM"):
            nbce_query_engine(MockLLM(), llm)  # type: ignore[arg-type]

    def test_over_a_passage_index(
        self, llm: NBCELLM, index: VectorStoreIndex, store: Any, events: Any
    ) -> None:
        response: Any = nbce_query_engine(store.client, llm, similarity_top_k=3).query(QUESTION)
        assert rows_of_calls(events) == [4]
        same: Any = nbce_query_engine(index, llm, similarity_top_k=3).query(QUESTION)
        assert response.response == same.response

    def test_the_stock_engine_joins_the_nodes_in_one_row(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any
    ) -> None:
        """Why there is a synthesizer: with NBCELLM alone, nothing is fused."""
        with pytest.warns(NbceWarning, match="joined"):
            index.as_query_engine(llm=llm, similarity_top_k=3).query(QUESTION)
        assert rows_of_calls(events) == [1]

    def test_without_an_llm_nothing_falls_back_on_another(self, index: VectorStoreIndex) -> None:
        for make in (nbce_query_engine, nbce_chat_engine):
            with pytest.raises(InputError, match=r"There is no LLM: give llm=NBCELLM"):
                make(index)

    def test_callbacks_see_the_answer_once(self, make_engine: Callable[..., NBCE], index: Any) -> None:
        from llama_index.core.callbacks import CBEventType, LlamaDebugHandler

        debug = LlamaDebugHandler(print_trace_on_end=False)
        manager = CallbackManager([debug])
        llm = NBCELLM(engine=make_engine(), callback_manager=manager)
        nbce_query_engine(index, llm, callback_manager=manager).query(QUESTION)
        for kind in (CBEventType.LLM, CBEventType.SYNTHESIZE, CBEventType.QUERY):
            assert len(debug.get_event_pairs(kind)) == 1


class TestChatEngines:
    @pytest.fixture
    def llm(self, make_engine: Any) -> NBCELLM:
        """Whose random answers hold words, which only can be cited."""
        return NBCELLM(engine=make_engine(fusion=Posterior(gamma=0.0, together=0)))

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(
        ("mode", "rows"),
        [
            ("context", ([4], [4])),
            ("condense_plus_context", ([4], [1, 4])),
            ("condense_question", ([4], [1, 4])),
        ],
    )
    def test_matrix(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any, mode: str, rows: Any, way: str
    ) -> None:
        options: dict[str, Any] = {"condense_prompt": CONDENSE} if mode == "condense_plus_context" else {}
        if mode == "condense_question":
            options["condense_question_prompt"] = PromptTemplate(CONDENSE)
        engine = nbce_chat_engine(index, llm, chat_mode=mode, similarity_top_k=3, **options)
        for number, message in enumerate([QUESTION, "And the market?"]):
            text, response = chat(engine, way, message)
            assert rows_of_calls(events) == rows[number]
            events.seen.clear()
            sources = [n.node.node_id for n in response.source_nodes]
            check(text, response.metadata["nbce"], sources, 4)
            history = engine.chat_history
            assert [m.role.value for m in history] == ["user", "assistant"] * (number + 1)
            assert history[-1].content == text
            assert history[-2].content == message
            assert len(history[-1].blocks) == 1
        engine.reset()
        assert engine.chat_history == []

    @pytest.mark.parametrize("kind", [NBCEContextChatEngine, NBCECondensePlusContextChatEngine])
    def test_system_prompt_and_history_are_in_every_row(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any, kind: Any
    ) -> None:
        history = [ChatMessage(role="user", content="Hello."), ChatMessage(role="assistant", content="Hi.")]
        engine = kind.from_defaults(
            retriever=index.as_retriever(), llm=llm, system_prompt="Be brief.", chat_history=history
        )
        engine.chat(QUESTION)
        starts = [e for e in events.seen if e.class_name() == "LLMChatStartEvent"]
        messages = starts[-1].messages
        assert [m.role.value for m in messages] == ["system", "user", "assistant", "user"]
        assert "Be brief." in messages[0].content
        assert sum(isinstance(b, CitableBlock) for b in messages[0].blocks) == 2
        assert messages[-1].content == QUESTION

    def test_the_stock_chat_engine_ignores_the_synthesizer(
        self, llm: NBCELLM, index: VectorStoreIndex, events: Any
    ) -> None:
        """Why there are chat engines here."""
        engine = index.as_chat_engine(
            chat_mode=ChatMode.CONTEXT, llm=llm, response_synthesizer=NBCESynthesizer(llm)
        )
        assert isinstance(engine, ContextChatEngine)
        with pytest.warns(NbceWarning, match="joined"):
            engine.chat(QUESTION)
        assert rows_of_calls(events) == [1]

    def test_options_and_mistakes(self, llm: NBCELLM, index: VectorStoreIndex) -> None:
        engine = nbce_chat_engine(index, llm, chat_mode="context", synthesis={"max_tokens": 2})
        response: Any = engine.chat(QUESTION)
        assert response.metadata["nbce"]["usage"]["generated_tokens"] <= 2
        for agent in ("react", ChatMode.OPENAI):
            with pytest.raises(InputError, match="ReActAgent or FunctionAgent"):
                nbce_chat_engine(index, llm, chat_mode=agent)
        with pytest.raises(InputError, match="chat_mode='worst'"):
            nbce_chat_engine(index, llm, chat_mode="worst")
        with pytest.raises(TypeError, match="MockLLM"):
            nbce_chat_engine(index, MockLLM())

    def test_core_still_has_what_is_overridden(self) -> None:
        for kind in (NBCEContextChatEngine, NBCECondensePlusContextChatEngine):
            stock = next(base for base in kind.__mro__ if base.__module__.startswith("llama_index.core"))
            assert "_get_response_synthesizer" in vars(stock), stock
        for condensing in (NBCECondensePlusContextChatEngine, NBCECondenseQuestionChatEngine):
            bases = condensing.__mro__
            stock = next(base for base in bases if base.__module__.startswith("llama_index.core"))
            assert {"_condense_question", "_acondense_question"} <= vars(stock).keys(), stock

    @pytest.mark.parametrize("mode", ["condense_plus_context", "condense_question"])
    async def test_a_base_model_condenses_to_one_line(
        self, base_llm: NBCELLM, llm: NBCELLM, index: VectorStoreIndex, mode: str, monkeypatch: Any
    ) -> None:
        """It writes on behind the question, and what it writes must not be looked for."""
        history = [ChatMessage(role="user", content="Hello."), ChatMessage(role="assistant", content="Hi.")]
        long = "\nWho runs it?\n\n<Answer>\nAda."
        for model, right in ((base_llm, "Who runs it?"), (llm, long)):
            made = nbce_chat_engine(index, model, chat_mode=mode)
            stock: Any = next(b for b in type(made).__mro__ if b.__module__.startswith("llama_index.core"))
            for says, expected in (
                ("\nWho runs it?\n\n<Answer>\nAda.", right),
                ("Who?\nWhen?", "Who?\nWhen?"),
            ):

                async def later(self: Any, history: Any, message: str, says: str = says) -> str:
                    return says

                monkeypatch.setattr(stock, "_condense_question", lambda self, history, message, s=says: s)
                monkeypatch.setattr(stock, "_acondense_question", later)
                engine: Any = made
                assert engine._condense_question(history, "Who?\nWhen?") == expected
                assert await engine._acondense_question(history, "Who?\nWhen?") == expected


def test_engines_are_llama_index_engines(llm: NBCELLM, index: VectorStoreIndex) -> None:
    assert isinstance(nbce_query_engine(index, llm), RetrieverQueryEngine)
