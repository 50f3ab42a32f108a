"""Chains of LangChain as its tutorials make them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, TypedDict

from everyday import FOLLOW_UP, QUESTION, TEXTS, Chain, Result, World
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_nbce import (
    NBCELLM,
    ChatNBCE,
    NBCERetrievalMiddleware,
    PassagePrompt,
    PassageRetriever,
    PassageVectorStore,
    RelevanceReranker,
    create_nbce_chain,
    create_nbce_documents_chain,
    format_passages,
)
from nbce_rag import PassageIndex

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer from the context, in as few words as possible."), ("human", "{context}\n\n{input}")]
)
HISTORY = [HumanMessage(QUESTION), AIMessage("Ada Quill.")]


def model(world: World, **fields: Any) -> ChatNBCE:
    return ChatNBCE(engine=world.engine, **fields)


def store(world: World) -> PassageVectorStore:
    path = world.folder / "langchain"
    if path.exists():
        return PassageVectorStore(index=PassageIndex.open(path, world.embed))
    made = PassageVectorStore(index=PassageIndex.create(path, world.embed))
    documents = [
        Document(text, id=title, metadata={"title": title, "number": number})
        for number, (title, text) in enumerate(TEXTS.items())
    ]
    made.add_documents(documents)
    return made


def retriever(world: World, **options: Any) -> PassageRetriever:
    return PassageRetriever(store=store(world), **{"k": 3, **options})


def cited(message: Any) -> Result:
    return Result(message.text, len(message.response_metadata["nbce"]["citations"]))


def contexts_of_a_call(world: World) -> Result:
    return cited(model(world).invoke(QUESTION, contexts=retriever(world).invoke(QUESTION)))


def lcel(world: World) -> Result:
    inputs = {"context": retriever(world) | format_passages, "input": RunnablePassthrough()}
    return cited((inputs | PROMPT | model(world)).invoke(QUESTION))


def lcel_completion(world: World) -> Result:
    inputs: Any = {"context": retriever(world) | format_passages, "input": RunnablePassthrough()}
    prompt = PromptTemplate.from_template("{context}\n\nQuestion: {input}\nAnswer:")
    llm = NBCELLM(engine=world.engine, stop=["\n"])
    return Result((inputs | prompt | llm | StrOutputParser()).invoke(QUESTION))


def retrieval_chain(world: World) -> Result:
    from langchain_classic.chains import create_retrieval_chain
    from langchain_classic.chains.combine_documents import create_stuff_documents_chain

    documents = create_stuff_documents_chain(model(world), PROMPT, document_prompt=PassagePrompt())
    return Result(create_retrieval_chain(retriever(world), documents).invoke({"input": QUESTION})["answer"])


def documents_chain(world: World) -> Result:
    chain = create_nbce_documents_chain(model(world), PROMPT)
    return Result(chain.invoke({"context": retriever(world).invoke(QUESTION), "input": QUESTION}))


def cited_chain(world: World) -> Result:
    made = create_nbce_chain(retriever(world), model(world)).invoke(QUESTION)
    return Result(made["answer"], len(made["citations"]))


def history_aware(world: World) -> Result:
    from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain

    rephrase = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("chat_history"), ("human", "{input}"), ("human", "Say that as one question.")]
    )
    aware = create_history_aware_retriever(model(world), retriever(world), rephrase)
    chain = create_retrieval_chain(aware, create_nbce_documents_chain(model(world), PROMPT))
    return Result(chain.invoke({"input": FOLLOW_UP, "chat_history": HISTORY})["answer"])


def multi_query(world: World) -> Result:
    from langchain_classic.retrievers import MultiQueryRetriever

    several = MultiQueryRetriever.from_llm(retriever(world), model(world))
    return cited(model(world).invoke(QUESTION, contexts=several.invoke(QUESTION)))


def compression(world: World) -> Result:
    from langchain_classic.retrievers import ContextualCompressionRetriever

    base = retriever(world, k=5)
    few = ContextualCompressionRetriever(
        base_compressor=RelevanceReranker(llm=model(world), top_n=2), base_retriever=base
    )
    return cited(model(world).invoke(QUESTION, contexts=few.invoke(QUESTION)))


def ensemble(world: World) -> Result:
    from langchain_classic.retrievers import EnsembleRetriever

    by_words = retriever(world, search_type="words")
    both = EnsembleRetriever(retrievers=[retriever(world), by_words], weights=[0.5, 0.5])
    return cited(model(world).invoke(QUESTION, contexts=both.invoke(QUESTION)))


class Search(BaseModel):
    """A search."""

    query: str = Field(max_length=60)
    title: Literal["Ferry", "Market", "Museum"] | None = None


def self_query(world: World) -> Result:
    search: Any = model(world).with_structured_output(Search).invoke(f"Make a search of: {QUESTION}")
    where = {"title": search.title} if search.title else None
    documents = retriever(world).invoke(search.query or QUESTION, filter=where)
    return cited(model(world).invoke(QUESTION, contexts=documents))


def structured(world: World) -> Result:
    class Person(BaseModel):
        name: str = Field(max_length=30)

    documents = retriever(world).invoke(QUESTION)
    return Result(str(model(world).with_structured_output(Person).invoke(QUESTION, contexts=documents)))


def reason_then_grade(world: World) -> Result:
    class Grade(BaseModel):
        reasoning: str = Field(max_length=80)
        grade: Literal["yes", "no"]

    question = f"Does this answer the question {QUESTION!r}? Answer: Ada Quill."
    documents = retriever(world).invoke(QUESTION)
    grader = model(world, max_tokens=120).with_structured_output(Grade)
    return Result(str(grader.invoke(question, contexts=documents)))


def retrieval_qa(world: World) -> Result:
    from langchain_classic.chains import RetrievalQA

    chain = RetrievalQA.from_chain_type(
        model(world), retriever=retriever(world), chain_type_kwargs={"document_prompt": PassagePrompt()}
    )
    return Result(chain.invoke(QUESTION)["result"])


def conversational(world: World) -> Result:
    from langchain_classic.chains import ConversationalRetrievalChain

    chain = ConversationalRetrievalChain.from_llm(
        model(world), retriever(world), combine_docs_chain_kwargs={"document_prompt": PassagePrompt()}
    )
    history = [(QUESTION, "Ada Quill.")]
    return Result(chain.invoke({"question": FOLLOW_UP, "chat_history": history})["answer"])


def memory(world: World) -> Result:
    histories: dict[str, InMemoryChatMessageHistory] = {}
    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("human", "{context}\n\n{input}")]
    )
    chain = RunnableWithMessageHistory(
        prompt | model(world),
        lambda name: histories.setdefault(name, InMemoryChatMessageHistory()),
        input_messages_key="input",
        history_messages_key="history",
    )
    message: Any = None
    for question in (QUESTION, FOLLOW_UP):
        context = format_passages(retriever(world).invoke(question))
        config: Any = {"configurable": {"session_id": "me"}}
        message = chain.invoke({"context": context, "input": question}, config)
    return cited(message)


def batch(world: World) -> Result:
    inputs: Any = {"context": retriever(world) | format_passages, "input": RunnablePassthrough()}
    messages = (inputs | PROMPT | model(world)).batch([QUESTION, "When does the market open?"])
    count = sum(len(message.response_metadata["nbce"]["citations"]) for message in messages)
    return Result(" / ".join(message.text for message in messages), count)


def stream(world: World) -> Result:
    whole: Any = None
    for chunk in model(world).stream(QUESTION, contexts=retriever(world).invoke(QUESTION)):
        whole = chunk if whole is None else whole + chunk
    return Result(whole.text, len(whole.content_blocks[0].get("annotations", [])))


def events(world: World) -> Result:
    async def collect() -> Result:
        chain = create_nbce_chain(retriever(world), model(world))
        text = ""
        async for event in chain.astream_events(QUESTION, version="v2"):
            if event["event"] == "on_chat_model_stream":
                text += event["data"]["chunk"].text
        return Result(text)

    return asyncio.run(collect())


def asynchronous(world: World) -> Result:
    async def ask() -> Result:
        documents = await retriever(world).ainvoke(QUESTION)
        return cited(await model(world).ainvoke(QUESTION, contexts=documents))

    return asyncio.run(ask())


def search_tool(world: World) -> Any:
    @tool(response_format="content_and_artifact")
    def search(query: Annotated[str, Field(max_length=60)]) -> tuple[str, list[Document]]:
        """Finds what is known of the town of Brennick."""
        documents = retriever(world).invoke(query or QUESTION)
        return format_passages(documents), documents

    return search


def agent_with_a_tool(world: World) -> Result:
    from langchain.agents import create_agent

    agent: Any = create_agent(model(world), tools=[search_tool(world)])
    made = agent.invoke({"messages": [("human", QUESTION)]}, {"recursion_limit": 6})
    return cited(made["messages"][-1])


def react_agent(world: World) -> Result:
    from langgraph.prebuilt import create_react_agent

    agent = create_react_agent(model(world), [search_tool(world)])
    made = agent.invoke({"messages": [("human", QUESTION)]}, {"recursion_limit": 6})
    return cited(made["messages"][-1])


def agent_that_retrieves_first(world: World) -> Result:
    from langchain.agents import create_agent

    agent: Any = create_agent(model(world), tools=[], middleware=[NBCERetrievalMiddleware(retriever(world))])
    return cited(agent.invoke({"messages": [("human", QUESTION)]})["messages"][-1])


def forced_tool(world: World) -> Result:
    bound = model(world, max_tokens=200).bind_tools([search_tool(world)], tool_choice="search")
    return Result(str(bound.invoke(QUESTION).tool_calls[0]["args"]))


def graph(world: World) -> Result:
    from langgraph.graph import START, StateGraph

    class State(TypedDict, total=False):
        question: str
        context: list[Document]
        message: AIMessage

    def retrieve(state: State) -> State:
        return {"context": retriever(world).invoke(state["question"])}

    def generate(state: State) -> State:
        return {"message": model(world).invoke(state["question"], contexts=state["context"])}

    builder: Any = StateGraph(State).add_sequence([retrieve, generate]).add_edge(START, "retrieve")
    return cited(builder.compile().invoke({"question": QUESTION})["message"])


def fallback(world: World) -> Result:
    from langchain_core.language_models import FakeListChatModel

    broken = model(world, max_seconds=1e-9).with_fallbacks([FakeListChatModel(responses=["Another model."])])
    return Result(broken.invoke(QUESTION, contexts=retriever(world).invoke(QUESTION)).text)


def criteria(world: World) -> Result:
    from langchain_classic.evaluation.qa import QAEvalChain  # load_evaluator wants OpenAI's package

    judge: Any = QAEvalChain.from_llm(model(world, regex="GRADE: (CORRECT|INCORRECT)"))
    made = judge.evaluate_strings(prediction="Ada Quill.", reference="Ada Quill", input=QUESTION)
    return Result(str(made["value"]))


CHAINS: dict[str, Chain] = {
    f"LangChain {one.__name__.replace('_', ' ')}": one
    for one in (
        contexts_of_a_call,
        lcel,
        lcel_completion,
        retrieval_chain,
        documents_chain,
        cited_chain,
        history_aware,
        multi_query,
        compression,
        ensemble,
        self_query,
        structured,
        reason_then_grade,
        retrieval_qa,
        conversational,
        memory,
        batch,
        stream,
        events,
        asynchronous,
        agent_with_a_tool,
        react_agent,
        agent_that_retrieves_first,
        forced_tool,
        graph,
        fallback,
        criteria,
    )
}
