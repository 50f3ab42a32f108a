"""Citations on what other chat models answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    FakeMessagesListChatModel,
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from pydantic import ValidationError

from langchain_nbce import ChatNBCE, PassageAttribution
from langchain_nbce.output import citations
from nbce_rag import report_schema
from nbce_rag.errors import InputError

DOCS = [
    Document("The ferry is run by Ada.", id="d1", metadata={"title": "Ferry", "source": "ferry.md"}),
    Document("The market opens at eight.", id="d2"),
]
QUESTION = "Who runs the ferry?"
TEXT = "Ada runs the ferry, and the market opens at eight."
PROMPT = ChatPromptTemplate.from_template("{context} {input}")
Chat = Callable[..., ChatNBCE]


@pytest.fixture
def attribution(chat: Chat) -> Callable[..., PassageAttribution]:
    """`attribution(ablate=True)`: cites whatever passage leads, since the model is a random one."""

    def make(**fields: Any) -> PassageAttribution:
        return PassageAttribution(llm=chat(citation_threshold=0.01), **fields)

    return make


def annotated(message: AIMessage) -> list[Any]:
    """The annotations of a message of one text, which the report agrees with."""
    report = message.response_metadata["nbce"]
    jsonschema.validate(json.loads(json.dumps(report, allow_nan=False)), report_schema())
    assert report["answer"] == str(message.text)
    assert report["finish_reason"] == "given"
    [block] = message.content_blocks
    assert block["type"] == "text"
    assert block["text"] == str(message.text)
    made = list(block["annotations"])
    assert made == citations(report)
    return made


async def test_behind_any_chat_model(attribution: Any) -> None:
    one = attribution()
    chain = RunnablePassthrough.assign(answer=PROMPT | FakeListChatModel(responses=[TEXT])) | one
    inputs = {"input": QUESTION, "context": DOCS}
    message = chain.invoke(inputs)
    assert isinstance(message, AIMessage)
    assert message.content == TEXT
    cited = annotated(message)
    assert cited
    assert {c["extras"]["passage_id"] for c in cited} <= {"d1", "d2"}
    assert {c.get("url") for c in cited} <= {"ferry.md", None}
    for other in (
        await chain.ainvoke(inputs),
        *chain.batch([inputs, inputs]),
        *await chain.abatch([inputs]),
        *chain.stream(inputs),
        *[part async for part in chain.astream(inputs)],
        one.invoke((QUESTION, DOCS, TEXT)),
        one.invoke((HumanMessage(QUESTION), DOCS, AIMessageChunk(content=TEXT))),
        one.invoke(
            ([SystemMessage("Hm."), HumanMessage(QUESTION), AIMessage("Well.")], DOCS, AIMessage(TEXT))
        ),
    ):
        assert isinstance(other, AIMessage)
        assert not isinstance(other, AIMessageChunk)
        assert annotated(other) == cited
    assert (chain | StrOutputParser()).invoke(inputs) == TEXT


def test_as_the_engine_attributes(attribution: Any, chat: Chat) -> None:
    one = attribution()
    report = one.invoke((QUESTION, DOCS, TEXT)).response_metadata["nbce"]
    engine = one.llm.nbce()
    other = PassageAttribution(llm=engine.updated(citation_threshold=0.01)).invoke((QUESTION, DOCS, TEXT))
    assert other.response_metadata["nbce"]["citations"] == report["citations"]
    assert other.response_metadata["nbce"]["words"] == report["words"]
    assert [context["id"] for context in report["contexts"]] == ["d1", "d2"]
    # What ChatNBCE says of its own answers is in the same place, in the same form.
    own = chat().invoke(QUESTION, contexts=DOCS).response_metadata
    assert own["model_provider"] == other.response_metadata["model_provider"]
    assert own["nbce"].keys() == report.keys()


def test_everything_else_of_a_message_stays(attribution: Any) -> None:
    message = AIMessage(
        TEXT,
        id="m1",
        usage_metadata={"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
        response_metadata={"model_name": "gpt", "model_provider": "openai", "finish_reason": "stop"},
        additional_kwargs={"refusal": None},
    )
    chain = RunnablePassthrough.assign(answer=PROMPT | FakeMessagesListChatModel(responses=[message]))
    got = (chain | attribution()).invoke({"input": QUESTION, "context": DOCS})
    assert got.id == "m1"
    assert got.usage_metadata == message.usage_metadata
    assert got.additional_kwargs == message.additional_kwargs
    assert {name: got.response_metadata[name] for name in ("model_name", "finish_reason")} == {
        "model_name": "gpt",
        "finish_reason": "stop",
    }
    assert got.response_metadata["text_model_provider"] == "openai"
    assert annotated(got)
    assert "nbce" not in message.response_metadata


def test_tool_calls_and_blocks(attribution: Any) -> None:
    call = {"name": "search", "args": {"q": "ferry"}, "id": "c1", "type": "tool_call"}
    silent = AIMessage("", tool_calls=[call])
    assert attribution().invoke((QUESTION, DOCS, silent)) == silent
    half = len("Ada runs the ferry,")
    parts: list[Any] = [
        {"type": "reasoning", "reasoning": "Hm."},
        {
            "type": "text",
            "text": TEXT[:half],
            "annotations": [{"type": "non_standard_annotation", "value": {}}],
        },
        TEXT[half:],
    ]
    got = attribution().invoke((QUESTION, DOCS, AIMessage(parts)))
    assert got.content[0] == parts[0]
    assert "".join(block["text"] for block in got.content[1:]) == TEXT
    assert got.content[1]["annotations"][0]["type"] == "non_standard_annotation"
    for block in got.content[1:]:
        for one in block["annotations"]:
            if one["type"] == "citation":
                assert 0 <= one["start_index"] < one["end_index"] <= len(block["text"])
    assert len(parts[1]["annotations"]) == 1


@pytest.mark.parametrize("provider", [None, "anthropic", "openai", "google_genai", "ollama", "unheard-of"])
def test_blocks_of_any_provider(provider: str | None, attribution: Any) -> None:
    half = len("Ada runs the ferry,")
    content: list[Any] = [{"type": "text", "text": TEXT[:half]}, {"type": "text", "text": TEXT[half:]}]
    if provider == "anthropic":
        content.insert(0, {"type": "thinking", "thinking": "Hm.", "signature": "s"})
        content.append({"type": "tool_use", "id": "c1", "name": "search", "input": {}})
    metadata = {} if provider is None else {"model_provider": provider}
    calls = [{"name": "search", "args": {}, "id": "c1"}] if provider == "anthropic" else []
    message = AIMessage(content, response_metadata=metadata, tool_calls=calls)
    one = attribution()
    got = one.invoke((QUESTION, DOCS, message))
    blocks = got.content_blocks
    types = ["reasoning", "text", "text", "tool_call"] if provider == "anthropic" else ["text", "text"]
    assert [block["type"] for block in blocks] == types
    texts = [block for block in blocks if block["type"] == "text"]
    assert "".join(block["text"] for block in texts) == TEXT
    assert {one["type"] for block in texts for one in block.get("annotations", ())} == {"citation"}
    again = one.invoke((QUESTION, DOCS, got))  # what it said before makes room
    assert again.content == got.content
    assert again.content_blocks == blocks
    assert again.response_metadata.get("text_model_provider") == provider


def test_a_block_without_annotations_of_its_own(attribution: Any) -> None:
    blocks: list[Any] = [{"type": "text", "text": TEXT, "annotations": None}, {"type": "image", "url": "x"}]
    got = attribution().invoke((QUESTION, DOCS, AIMessage(blocks)))
    assert got.content[0]["annotations"] == citations(got.response_metadata["nbce"])
    assert got.content[1] == blocks[1]


def test_leaving_documents_out(attribution: Any) -> None:
    plain = attribution().invoke((QUESTION, DOCS, TEXT)).response_metadata["nbce"]
    assert plain["ablation"] is None
    report = attribution(ablate=True).invoke((QUESTION, DOCS, TEXT)).response_metadata["nbce"]
    assert len(report["ablation"]["necessity"]) == 2


def test_options_of_a_call_and_names_of_the_input(attribution: Any) -> None:
    one = attribution(question_key="q", documents_key="docs", answer_key="reply")
    inputs = {"q": QUESTION, "docs": ["Ada runs the ferry.", DOCS[1]], "reply": TEXT}
    assert one.invoke(inputs, fusion="mean").response_metadata["nbce"]["fusion"] == "mean"
    with pytest.raises(InputError, match="lacks input, context, answer; it has q, docs, reply"):
        attribution().invoke(inputs)


def test_nothing_to_read(attribution: Any) -> None:
    for documents in ([], [Document(" ")]):
        message = AIMessage(TEXT, id="m")
        assert attribution().invoke((QUESTION, documents, message)) == message


def test_wrong_inputs(attribution: Any) -> None:
    one = attribution()
    for wrong, why in (
        (QUESTION, "not a str"),
        ((QUESTION, DOCS), "not a tuple"),
        ((QUESTION, DOCS, 3), "an AIMessage or a text"),
        ((QUESTION, DOCS, HumanMessage("Ada")), "HumanMessage"),
        ((" ", DOCS, TEXT), "question"),
        (([], DOCS, TEXT), "question"),
        ((QUESTION, "The ferry.", TEXT), "must be a list"),
    ):
        with pytest.raises(InputError, match=why):
            one.invoke(wrong)
    with pytest.raises(ValidationError, match="stands before this one"):
        PassageAttribution(llm=GenericFakeChatModel(messages=iter(())))
