"""Engines, agents and pipelines of LlamaIndex as its tutorials make them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from everyday import FOLLOW_UP, QUESTION, TEXTS, Chain, Result, World
from llama_index.core import Document, StorageContext, VectorStoreIndex, get_response_synthesizer
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.memory import Memory
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.tools import QueryEngineTool
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from pydantic import BaseModel, Field

from llama_index_nbce import (
    NBCELLM,
    NBCEQuestionGenerator,
    NBCESingleSelector,
    NBCESynthesizer,
    PassageVectorStore,
    RelevanceReranker,
    citable_retriever_tool,
    nbce_chat_engine,
    nbce_query_engine,
)
from nbce_rag import PassageIndex


def model(world: World, **options: Any) -> NBCELLM:
    return NBCELLM(engine=world.engine, **options)


def index(world: World) -> Any:
    path = world.folder / "llama-index"
    if path.exists():
        return PassageVectorStore(PassageIndex.open(path, world.embed)).as_index()
    store = PassageVectorStore(PassageIndex.create(path, world.embed))
    documents = [Document(text=text, id_=title, metadata={"title": title}) for title, text in TEXTS.items()]
    return VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=store.embed_model,
    )


def query_engine(world: World, **options: Any) -> RetrieverQueryEngine:
    return nbce_query_engine(index(world), model(world), similarity_top_k=3, **options)


def cited(response: Any) -> Result:
    report = (response.metadata or {}).get("nbce")
    return Result(str(response), None if not report else len(report["citations"]))


def query(world: World) -> Result:
    return cited(query_engine(world).query(QUESTION))


def query_with_a_synthesizer(world: World) -> Result:
    llm = model(world)
    return cited(
        index(world).as_query_engine(llm=llm, response_synthesizer=NBCESynthesizer(llm)).query(QUESTION)
    )


def query_streamed(world: World) -> Result:
    response: Any = query_engine(world, streaming=True).query(QUESTION)
    text = "".join(response.response_gen)
    return Result(text, len(response.metadata["nbce"]["citations"]))


def query_async(world: World) -> Result:
    return cited(asyncio.run(_of(query_engine(world).aquery(QUESTION))))


def query_reranked(world: World) -> Result:
    reranker = RelevanceReranker(llm=model(world), top_n=2)
    engine = nbce_query_engine(index(world), model(world), similarity_top_k=5, node_postprocessors=[reranker])
    return cited(engine.query(QUESTION))


def query_structured(world: World) -> Result:
    class Person(BaseModel):
        """A person."""

        name: str = Field(max_length=30)

    return cited(query_engine(world, output_cls=Person).query(QUESTION))


def _chat(mode: str) -> Callable[[World], Result]:
    def chat(world: World) -> Result:
        engine = nbce_chat_engine(index(world), model(world), chat_mode=mode, similarity_top_k=3)
        engine.chat(QUESTION)
        return cited(engine.chat(FOLLOW_UP))

    chat.__name__ = f"chat_{mode}"
    return chat


def chat_simple(world: World) -> Result:
    return Result(str(nbce_chat_engine(index(world), model(world), chat_mode="simple").chat(QUESTION)))


def chat_streamed(world: World) -> Result:
    response: Any = nbce_chat_engine(index(world), model(world), chat_mode="context").stream_chat(QUESTION)
    text = "".join(response.response_gen)
    return Result(text, len(response.metadata["nbce"]["citations"]))


def chat_with_memory(world: World) -> Result:
    memory = Memory.from_defaults(session_id="me", token_limit=400)
    engine = nbce_chat_engine(index(world), model(world), chat_mode="context", memory=memory)
    engine.chat(QUESTION)
    return cited(engine.chat(FOLLOW_UP))


def _tools(world: World) -> list[QueryEngineTool]:
    engine = query_engine(world)
    named = {"transport": "Ferries and tramways.", "culture": "The museum and its paintings."}
    return [QueryEngineTool.from_defaults(engine, name=n, description=d) for n, d in named.items()]


def router(world: World) -> Result:
    engine = RouterQueryEngine(NBCESingleSelector(model(world)), _tools(world), llm=model(world))
    return cited(engine.query(QUESTION))


def sub_questions(world: World) -> Result:
    llm = model(world, max_tokens=160)
    engine = SubQuestionQueryEngine.from_defaults(
        _tools(world),
        llm=llm,
        question_gen=NBCEQuestionGenerator(llm, most=2),
        response_synthesizer=NBCESynthesizer(model(world)),
        use_async=False,
        verbose=False,
    )
    return cited(engine.query("Who runs the ferry, and who built the museum?"))


def citation_engine(world: World) -> Result:
    llm = model(world)
    engine = CitationQueryEngine.from_args(
        index(world), llm=llm, response_synthesizer=NBCESynthesizer(llm), similarity_top_k=3
    )
    return cited(engine.query(QUESTION))


def _stock(mode: str) -> Callable[[World], Result]:
    def engine(world: World) -> Result:
        llm: Any = model(world)
        synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)  # type: ignore[arg-type]
        retriever = index(world).as_retriever(similarity_top_k=3)
        return Result(str(RetrieverQueryEngine(retriever, synthesizer).query(QUESTION)))

    engine.__name__ = f"stock_{mode}"
    return engine


def ingestion(world: World) -> Result:
    store = PassageVectorStore(PassageIndex.create(world.folder / "ingested", world.embed, exist_ok=True))
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), store.embed_model],
        vector_store=store,
    )
    pipeline.run(documents=[Document(text=text, id_=title) for title, text in TEXTS.items()])
    return cited(nbce_query_engine(store, model(world), similarity_top_k=3).query(QUESTION))


def react_agent(world: World) -> Result:
    return _agent(ReActAgent, world)


def function_agent(world: World) -> Result:
    return _agent(FunctionAgent, world)


def _agent(kind: Any, world: World) -> Result:
    tool = citable_retriever_tool(
        index(world).as_retriever(similarity_top_k=3), name="search", description="Finds facts of Brennick."
    )

    async def ask() -> Any:
        return await kind(tools=[tool], llm=model(world)).run(QUESTION, max_iterations=4)

    return Result(str(asyncio.run(ask())))


def faithfulness(world: World) -> Result:
    response: Any = query_engine(world).query(QUESTION)
    judge: Any = model(world, regex="YES|NO")
    return Result(f"passing: {FaithfulnessEvaluator(llm=judge).evaluate_response(response=response).passing}")


def relevancy(world: World) -> Result:
    response: Any = query_engine(world).query(QUESTION)
    judge: Any = model(world, regex="YES|NO")
    made = RelevancyEvaluator(llm=judge).evaluate_response(query=QUESTION, response=response)
    return Result(f"passing: {made.passing}")


def workflow(world: World) -> Result:
    class Token(Event):
        text: str

    class Ask(Workflow):
        @step
        async def ask(self, context: Context, event: StartEvent) -> StopEvent:
            response: Any = await query_engine(world, streaming=True).aquery(event.question)
            async for text in response.async_response_gen():
                context.write_event_to_stream(Token(text=text))
            return StopEvent(result=response.metadata["nbce"])

    async def collect() -> Result:
        handler = Ask(timeout=600).run(question=QUESTION)
        text = "".join([event.text async for event in handler.stream_events() if isinstance(event, Token)])
        report: Any = await handler
        return Result(text, len(report["citations"]))

    return asyncio.run(collect())


async def _of(awaitable: Any) -> Any:
    return await awaitable


CHAINS: dict[str, Chain] = {
    f"LlamaIndex {one.__name__.replace('_', ' ')}": one
    for one in (
        query,
        query_with_a_synthesizer,
        query_streamed,
        query_async,
        query_reranked,
        query_structured,
        _chat("context"),
        _chat("condense_plus_context"),
        _chat("condense_question"),
        chat_simple,
        chat_streamed,
        chat_with_memory,
        router,
        sub_questions,
        citation_engine,
        _stock("refine"),
        _stock("tree_summarize"),
        _stock("accumulate"),
        ingestion,
        react_agent,
        function_agent,
        faithfulness,
        relevancy,
        workflow,
    )
}
