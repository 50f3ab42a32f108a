"""The chains that people have, each with the one documented change."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.tools import tool

from langchain_nbce import (
    NBCELLM,
    ChatNBCE,
    NBCERetrievalMiddleware,
    PassagePrompt,
    create_nbce_chain,
    create_nbce_documents_chain,
    format_passages,
)
from langchain_nbce.output import citations
from nbce_rag.errors import InputError

DOCS = [
    Document("The ferry is run by Ada.", id="d1", metadata={"title": "Ferry", "relevance_score": 0.9}),
    Document("The market opens at eight.", id="d2", metadata={"relevance_score": 0.1}),
]
CHAT_PROMPT = ChatPromptTemplate.from_messages([("system", "Use this.\n\n{context}"), ("human", "{input}")])
QUESTIONS = ["Who runs the ferry?", "When does the market open?", "Where?"]
Chat = Callable[..., ChatNBCE]


class Fixed(BaseRetriever):
    """Any retriever that is not ours."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any = None) -> list[Document]:
        return DOCS if "market" not in query else DOCS[1:]


def expected(llm: ChatNBCE, question: str) -> str:
    """The answer by the plainest way."""
    documents = Fixed().invoke(question)
    messages = CHAT_PROMPT.invoke({"context": format_passages(documents), "input": question})
    message = llm.invoke(messages)
    assert len(message.response_metadata["nbce"]["contexts"]) == len(documents)
    return message.text


async def check(chain: Runnable[Any, str], inputs: list[Any], answers: list[str]) -> None:
    """All ways of running a chain give those answers, and streams come in pieces."""
    assert [chain.invoke(given) for given in inputs] == answers
    assert chain.batch(inputs) == answers
    assert await chain.abatch(inputs) == answers
    pieces = list(chain.stream(inputs[0]))
    assert "".join(pieces) == answers[0]
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join([piece async for piece in chain.astream(inputs[1])]) == answers[1]
    events = [event async for event in chain.astream_events(inputs[0], version="v2")]
    tokens = [str(e["data"]["chunk"].text) for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(tokens) == answers[0]
    assert len([token for token in tokens if token]) > 1


async def test_lcel_with_format_passages(chat: Chat) -> None:
    llm = chat()
    chain = (
        {"context": Fixed() | format_passages, "input": RunnablePassthrough()}
        | CHAT_PROMPT
        | llm
        | StrOutputParser()
    )
    await check(chain, QUESTIONS, [expected(llm, question) for question in QUESTIONS])


async def test_retrieval_chain_with_document_prompt(chat: Chat) -> None:
    classic = pytest.importorskip("langchain_classic.chains")
    from langchain_classic.chains.combine_documents import create_stuff_documents_chain

    llm = chat()
    answers = [expected(llm, question) for question in QUESTIONS]
    for documents_chain in (
        create_stuff_documents_chain(llm, CHAT_PROMPT, document_prompt=PassagePrompt()),
        create_nbce_documents_chain(llm, CHAT_PROMPT),
    ):
        chain = classic.create_retrieval_chain(Fixed(), documents_chain)
        inputs = [{"input": question} for question in QUESTIONS]
        result = chain.invoke(inputs[0])
        assert (result["answer"], result["context"]) == (answers[0], DOCS)
        await check(chain.pick("answer") | StrOutputParser(), inputs, answers)


async def test_stuff_chain_alone(chat: Chat) -> None:
    llm = chat()
    inputs = [{"input": question, "context": Fixed().invoke(question)} for question in QUESTIONS]
    await check(create_nbce_documents_chain(llm, CHAT_PROMPT), inputs, [expected(llm, q) for q in QUESTIONS])
    with pytest.raises(InputError, match="'docs'"):
        create_nbce_documents_chain(llm, CHAT_PROMPT, document_variable_name="docs")


def test_documents_chain_words_documents_as_its_prompt_says(chat: Chat) -> None:
    llm = chat()
    seen: list[str] = []
    prompt = PromptTemplate.from_template("{context}\n\nQ: {input}")

    def look(value: Any) -> Any:
        seen.append(value.to_string())
        return value

    for document_prompt in (
        PassagePrompt("[{title}] {page_content}"),
        PromptTemplate.from_template("[{title}] {page_content}"),
    ):
        chain = create_nbce_documents_chain(look | llm, prompt, document_prompt=document_prompt)
        assert chain.invoke({"context": DOCS[:1], "input": "Who?"})
        assert "[Ferry] The ferry is run by Ada." in seen[-1]
        assert "id=d1" in seen[-1]
        assert "title=" not in seen[-1]
    assert seen[0] == seen[1]
    with pytest.raises(ValueError, match="title"):
        create_nbce_documents_chain(
            llm, prompt, document_prompt=PassagePrompt("{title}: {page_content}")
        ).invoke({"context": DOCS, "input": "Who?"})


def test_retrieval_qa_and_conversational_retrieval(chat: Chat) -> None:
    pytest.importorskip("langchain_classic")
    from langchain_classic.chains import ConversationalRetrievalChain, RetrievalQA

    llm = chat()
    chain = RetrievalQA.from_chain_type(
        llm,
        retriever=Fixed(),
        chain_type_kwargs={"document_prompt": PassagePrompt()},
        return_source_documents=True,
    )
    plain = RetrievalQA.from_chain_type(llm, retriever=Fixed())
    seen: list[int] = []
    generate = ChatNBCE._generate

    def count(self: ChatNBCE, messages: Any, *args: Any, **kwargs: Any) -> Any:
        result = generate(self, messages, *args, **kwargs)
        seen.append(len(result.generations[0].message.response_metadata["nbce"]["contexts"]))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChatNBCE, "_generate", count)
        assert chain.invoke({"query": QUESTIONS[0]})["result"]
        plain.invoke({"query": QUESTIONS[0]})
        talk = ConversationalRetrievalChain.from_llm(
            llm, Fixed(), combine_docs_chain_kwargs={"document_prompt": PassagePrompt()}
        )
        assert talk.invoke({"question": QUESTIONS[0], "chat_history": []})["answer"]
    assert seen == [2, 0, 2]


async def test_nbce_chain(chat: Chat) -> None:
    llm = chat(citation_threshold=0.01)
    chain = create_nbce_chain(Fixed(), llm)
    result = chain.invoke(QUESTIONS[0])
    assert result.keys() == {"input", "context", "answer", "citations"}
    assert (result["input"], result["context"]) == (QUESTIONS[0], DOCS)
    # the wording is the engine's own
    template = llm.engine.prompt
    message = llm.invoke(
        template.prefix + format_passages(DOCS) + "\n\n" + template.suffix.replace("{question}", QUESTIONS[0])
    )
    assert result["answer"] == message.text
    without_ids = [{k: v for k, v in c.items() if k != "id"} for c in result["citations"]]
    wanted = citations(message.response_metadata["nbce"])
    assert without_ids == [{k: v for k, v in c.items() if k != "id"} for c in wanted]
    assert without_ids
    assert (
        await chain.ainvoke({"input": QUESTIONS[0]})
        == {**result, "citations": (await chain.ainvoke(QUESTIONS[0]))["citations"]}
        or without_ids
    )
    streamed = list(chain.stream(QUESTIONS[0]))
    assert len([c for c in streamed if c.get("answer")]) > 1
    assert "".join(c.get("answer", "") for c in streamed) == result["answer"]
    assert [list(c) for c in streamed if "citations" in c] == [["citations"]]
    assert [r["answer"] for r in chain.batch(QUESTIONS)] == [chain.invoke(q)["answer"] for q in QUESTIONS]
    own = create_nbce_chain(Fixed(), llm, prompt=CHAT_PROMPT)
    assert own.invoke(QUESTIONS[0])["answer"] == expected(llm, QUESTIONS[0])
    completed = create_nbce_chain(Fixed(), NBCELLM(engine=llm.engine, max_tokens=8)).invoke(QUESTIONS[0])
    assert completed["answer"]
    assert completed["citations"] == []
    with pytest.raises(InputError, match="context"):
        create_nbce_chain(Fixed(), llm, prompt=ChatPromptTemplate.from_template("{input}"))
    with pytest.raises(InputError, match="'input'"):
        chain.invoke({"question": "Who?"})


def test_documents_in_a_placeholder_and_history(chat: Chat) -> None:
    llm = chat()
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Use this.\n\n{context}"), MessagesPlaceholder("history"), ("human", "{input}")]
    )
    history = [HumanMessage(f"{format_passages(DOCS)} Old?"), AIMessage("Yes.")]
    message = (prompt | llm).invoke(
        {"context": format_passages(DOCS[:1]), "history": history, "input": "Who?"}
    )
    assert [c["id"] for c in message.response_metadata["nbce"]["contexts"]] == ["d1"]


def test_per_call_contexts_bound_to_a_sequence(chat: Chat) -> None:
    llm = chat()
    chain = ChatPromptTemplate.from_template("{q}") | llm.bind(contexts=DOCS)
    assert chain.invoke({"q": "Who?"}).text == llm.invoke("Who?", contexts=DOCS).text


def test_agents(chat: Chat, taught_folder: Any) -> None:
    agents = pytest.importorskip("langchain.agents")
    from langgraph.checkpoint.memory import InMemorySaver

    @tool(response_format="content_and_artifact")
    def get_weather(location: str) -> tuple[str, list[Document]]:
        """Retrieve information."""
        return "\n\n".join(f"Source: {d.metadata}\nContent: {d.page_content}" for d in DOCS), DOCS

    llm = ChatNBCE(model=str(taught_folder), device="cpu", dtype="float32", max_tokens=160)
    agent = agents.create_agent(llm, [get_weather], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    question = {"messages": [{"role": "user", "content": "What is the weather in San Francisco, CA?"}]}
    messages = agent.invoke(question, config)["messages"]
    assert [type(m) for m in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert messages[1].tool_calls[0]["args"] == {"location": "San Francisco, CA"}
    assert [c["id"] for c in messages[3].response_metadata["nbce"]["contexts"]] == ["d1", "d2"]
    # the state that the checkpoint gives back asks for no more than the new question does
    after = agent.invoke({"messages": [{"role": "user", "content": "Hello"}]}, config)["messages"]
    assert after[-1].response_metadata["nbce"]["contexts"] == []
    assert len(after) == 6


async def test_two_step_agents(chat: Chat) -> None:
    agents = pytest.importorskip("langchain.agents")
    from langchain.agents.middleware import dynamic_prompt
    from langgraph.checkpoint.memory import InMemorySaver

    @dynamic_prompt
    def with_context(request: Any) -> str:
        return f"Use this.\n\n{format_passages(Fixed().invoke(request.state['messages'][-1].text))}"

    llm = chat()
    question = {"messages": [HumanMessage(QUESTIONS[0])]}
    prompted = agents.create_agent(llm, tools=[], middleware=[with_context])
    assert prompted.invoke(question)["messages"][-1].text == expected(llm, QUESTIONS[0])

    agent = agents.create_agent(
        llm, tools=[], middleware=[NBCERetrievalMiddleware(Fixed())], checkpointer=InMemorySaver()
    )
    wanted = llm.invoke(QUESTIONS[0], contexts=DOCS)
    config: Any = {"configurable": {"thread_id": "1"}}
    state = agent.invoke(question, config)
    assert state["messages"][-1].text == wanted.text
    assert state["context"] == DOCS
    again = await agent.ainvoke({"messages": [HumanMessage(QUESTIONS[1])]}, config)
    nbce = again["messages"][-1].response_metadata["nbce"]
    assert [c["id"] for c in nbce["contexts"]] == ["d2"]
    pieces = [
        m.text
        for m, _ in agent.stream(question, {"configurable": {"thread_id": "2"}}, stream_mode="messages")
    ]
    assert "".join(pieces) == wanted.text
    assert len([piece for piece in pieces if piece]) > 1


def test_langgraph_node(chat: Chat) -> None:
    pytest.importorskip("langgraph")
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph

    llm = chat()

    class State(MessagesState):
        context: list[Document]

    graph = StateGraph(State)
    graph.add_node(
        "answer", lambda state: {"messages": [llm.invoke(state["messages"], contexts=state["context"])]}
    )
    graph.add_edge(START, "answer")
    app = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    result = app.invoke({"messages": [HumanMessage(QUESTIONS[0])], "context": DOCS}, config)
    assert result["messages"][-1].text == llm.invoke(QUESTIONS[0], contexts=DOCS).text
    kept = app.get_state(config).values["messages"][-1]
    assert kept.response_metadata["nbce"] == result["messages"][-1].response_metadata["nbce"]


def test_retriever_tool(chat: Chat) -> None:
    from langchain_core.tools import create_retriever_tool

    llm = chat()
    call = {"name": "find", "args": {"query": "ferry"}, "id": "c", "type": "tool_call"}
    for options in ({"response_format": "content_and_artifact"}, {"document_prompt": PassagePrompt()}):
        found = create_retriever_tool(Fixed(), "find", "Finds.", **options)  # type: ignore[arg-type]
        messages = [HumanMessage("Who?"), AIMessage("", tool_calls=[call]), found.invoke(call)]
        nbce = llm.invoke(messages).response_metadata["nbce"]
        assert [(c["id"], c["score"]) for c in nbce["contexts"]] == [("d1", 0.9), ("d2", 0.1)]


def test_other_models_read_marked_passages_as_text() -> None:
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    chain = create_nbce_documents_chain(FakeListChatModel(responses=["Ada"]), CHAT_PROMPT)
    assert chain.invoke({"context": DOCS, "input": "Who?"}) == "Ada"
    assert itemgetter(0)(format_passages(DOCS).documents) is DOCS[0]
