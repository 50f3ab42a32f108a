"""What chains, agents and middleware expect of any chat model, and found missing."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from index_tools import bag_of_words
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_nbce import ChatNBCE, ContextsAsText, PassageVectorStore, RelevanceReranker, format_passages
from nbce_rag import InputError, InputTypeError, PassageIndex

Chat = Callable[..., ChatNBCE]
DOCUMENTS = [Document("The ferry is run by Ada."), Document("The market opens at eight.")]


class Echo(GenericFakeChatModel):
    """Says what it was asked, and notes the arguments of the call."""

    messages: Iterator[Any] = iter(())
    seen: list[Any] = []  # noqa: RUF012 -- a pydantic field

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        self.seen.append(kwargs)
        self.messages = iter([AIMessage("|".join(message.text for message in messages))])
        return super()._generate(messages, stop, run_manager)


def test_a_profile_says_what_fits(chat: Chat, tiny_folder: Callable[..., Path]) -> None:
    llm = chat()
    assert llm.profile is not None
    assert llm.profile["max_input_tokens"] == llm.engine.window
    assert llm.profile["tool_calling"]
    assert not chat(template=False).profile["tool_calling"]  # type: ignore[index]
    late = ChatNBCE(model=str(tiny_folder("llama", chat=True)), dtype="float32", device="cpu")
    profiles = [late.profile]  # nothing is loaded for it
    late.nbce()
    profiles.append(late.profile)
    assert [profile is None for profile in profiles] == [True, False]
    assert ChatNBCE(profile={"max_input_tokens": 7}).profile == {"max_input_tokens": 7}


def test_middleware_that_summarises_reads_the_profile(chat: Chat) -> None:
    middleware = pytest.importorskip("langchain.agents.middleware")
    middleware.SummarizationMiddleware(model=chat(), trigger=("fraction", 0.8), keep=("fraction", 0.3))


def test_several_calls_may_be_forced_at_once(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setattr("nbce_rag.prompts.tools._MOST_CALLS", 3)

    @tool
    def stay() -> None:
        """Stays."""

    llm = chat(max_tokens=250, bad_words=[" ", "\n", "\t", "\r"])
    many = llm.bind_tools([stay], tool_choice="any", parallel_tool_calls=True).invoke("Stay.")
    assert 1 <= len(many.tool_calls) <= 3
    assert {call["name"] for call in many.tool_calls} == {"stay"}
    assert json.loads(llm.bind_tools([stay], tool_choice="any").invoke("Stay.").text or "{}") == {}


@pytest.mark.parametrize(("parallel", "count"), [(None, 2), (True, 2), (False, 1)])
def test_calls_beside_each_other_can_be_forbidden(chat: Chat, parallel: bool | None, count: int) -> None:
    pytest.importorskip("llguidance")
    call = json.dumps({"name": "add", "arguments": {"a": 1}})
    written = json.dumps([json.loads(call)] * 2).replace("[", r"\[").replace("{", r"\{").replace("}", r"\}")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {}}}}}]
    llm = chat(max_tokens=250)
    options: dict[str, Any] = {} if parallel is None else {"parallel_tool_calls": parallel}
    message = llm.invoke("Add.", tools=tools, regex=written, **options)
    assert len(message.tool_calls) == count
    whole: Any = None
    for chunk in llm.stream("Add.", tools=tools, regex=written, **options):
        whole = chunk if whole is None else whole + chunk
    assert len(whole.tool_calls) == count


def test_a_free_field_comes_before_what_is_graded(chat: Chat) -> None:
    pytest.importorskip("llguidance")

    class Grade(BaseModel):
        reasoning: str
        grade: Literal["yes", "no"]

    llm = chat(max_tokens=300, temperature=1.0, seed=3, bad_words=["\\"])
    made = llm.with_structured_output(Grade, include_raw=True).invoke("Is it?")
    assert made["raw"].text.lstrip("{ \n").startswith('"reasoning"')
    if made["parsed"] is not None:
        assert made["parsed"].grade in ("yes", "no")


def test_dates_are_metadata(tmp_path: Path) -> None:
    store = PassageVectorStore(index=PassageIndex.create(tmp_path / "index", bag_of_words))
    day = datetime.datetime(2024, 5, 1, 12, 30)
    documents = [
        Document(f"Notes of {year}.", metadata={"written": day.replace(year=year), "day": day.date()})
        for year in (2022, 2024)
    ]
    store.add_documents(documents, ids=["a", "b"])
    assert store.get_by_ids(["b"])[0].metadata["written"] == "2024-05-01T12:30:00"
    newer = store.similarity_search("Notes", filter={"written": {"$gte": datetime.datetime(2023, 1, 1)}})
    assert [document.id for document in newer] == ["b"]


@pytest.mark.parametrize("transport", ["contexts", "marks", "messages"])
def test_another_model_stands_in_and_reads_contexts_as_text(chat: Chat, transport: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")

    echo = Echo(seen=[])
    llm = chat().with_fallbacks([echo])
    llm.runnable.engine.stream_batch = fail  # type: ignore[attr-defined]
    llm.runnable.engine.batch = fail  # type: ignore[attr-defined]
    text = "The ferry is run by Ada.\n\nThe market opens at eight.\n\n"
    if transport == "contexts":
        given: Any = ("Who?", {"contexts": DOCUMENTS, "max_tokens": 5, "fusion": "mean", "stop": ["."]})
        wanted = f"{text}Who?"
    elif transport == "marks":
        prompt = ChatPromptTemplate.from_messages([("human", "{context}\n\n{question}")])
        given = (prompt.invoke({"context": format_passages(DOCUMENTS), "question": "Who?"}), {})
        wanted = f"{text}Who?"
    else:
        given = ([SystemMessage("Be brief."), HumanMessage("Who?")], {"contexts": DOCUMENTS})
        wanted = f"Be brief.|{text}Who?"
    assert llm.invoke(given[0], **given[1]).text == wanted
    assert "contexts" not in echo.seen[0]
    assert "fusion" not in echo.seen[0]
    assert echo.seen[0].get("max_tokens") == given[1].get("max_tokens")
    assert "".join(chunk.text for chunk in llm.stream(given[0], **given[1])) == wanted


async def test_any_model_can_be_given_contexts() -> None:
    plain = ContextsAsText(FakeListLLM(responses=["Ada."]))
    assert await plain.ainvoke("Who?", contexts=DOCUMENTS) == "Ada."
    assert [chunk async for chunk in plain.astream("Who?", contexts=[])]
    echo = Echo(seen=[])
    names: dict[str, Any] = {
        "max_new_tokens": 5,
        "stop_sequences": ["."],
        "score_kind": "cosine",
        "timeout": 3.0,
    }
    assert (
        ContextsAsText(echo).invoke([SystemMessage("Who?")], contexts=["Ada."], **names).text
        == "Ada.\n\nWho?"
    )
    assert echo.seen == [{"max_tokens": 5}]
    chain = RunnableLambda(lambda question: question) | ContextsAsText(Echo(seen=[])).with_config(tags=["x"])
    assert chain.invoke("Who?").text == "Who?"


def test_a_fallback_of_ours_keeps_its_contexts(chat: Chat) -> None:
    assert isinstance(chat().with_fallbacks([chat()]).fallbacks[0], ChatNBCE)


def test_a_fallback_is_a_model(chat: Chat) -> None:
    wrongs: list[Any] = [chat(), ["gpt"], [None]]
    for wrong in wrongs:
        with pytest.raises(InputTypeError, match="is no model; give a chat or completion model"):
            chat().with_fallbacks(wrong)


@pytest.mark.parametrize("choice", ["any", "required", True])
def test_a_call_cannot_be_forced_without_tools(chat: Chat, choice: Any) -> None:
    with pytest.raises(InputError, match="forces a call, but there are no tools"):
        chat().bind_tools([], tool_choice=choice).invoke("Stay.")


def test_a_compressor_by_relevance(chat: Chat) -> None:
    llm = chat()
    documents = [*DOCUMENTS, Document("Tea is grown here.", metadata={"year": 1}), Document(" ")]
    best = RelevanceReranker(llm=llm, top_n=2).compress_documents(documents, "Who runs the ferry?")
    texts = [document.page_content for document in documents[:3]]
    passages = llm.engine.rerank("Who runs the ferry?", texts, 2)
    assert [document.page_content for document in best] == [passage.text for passage in passages]
    scores = [document.metadata["relevance_score"] for document in best]
    assert scores == [passage.score for passage in passages]
    assert llm.invoke("Who runs the ferry?", contexts=best).text
    assert RelevanceReranker(llm=llm).compress_documents([], "Who?") == []
    assert RelevanceReranker(llm=llm).compress_documents([Document(" ")], "Who?") == []
    for wrong in (Echo(seen=[]), llm.engine, None):
        with pytest.raises(ValueError, match="llm must be a ChatNBCE or an NBCELLM"):
            RelevanceReranker(llm=wrong)


def test_a_compressor_writes_where_its_model_reads(chat: Chat) -> None:
    llm = chat(score_key="own")
    documents = [Document(document.page_content, metadata={"own": 0.9}) for document in DOCUMENTS]
    best = RelevanceReranker(llm=llm, top_n=2).compress_documents(documents, "Who runs the ferry?")
    scores = [document.metadata["own"] for document in best]
    assert scores == sorted(scores, reverse=True)
    assert 0.9 not in scores
    assert "relevance_score" not in best[0].metadata
    assert best[0] == next(one for one in documents if one.page_content == best[0].page_content)
    contexts = llm.invoke("Who runs the ferry?", contexts=best).response_metadata["nbce"]["contexts"]
    assert [context["score"] for context in contexts] == pytest.approx(scores)
