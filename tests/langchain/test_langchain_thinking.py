"""Models that think, behind ChatNBCE: the thought is core's reasoning, and no part of the text."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, ValidationError
from thinking_tools import make_thinker

from langchain_nbce import NBCELLM, ChatNBCE
from nbce_rag.errors import InputError

QUESTION, THOUGHT = "Who runs the ferry?", "Who? Ada does."
CONTEXTS = ["Ada runs the ferry.", "Bo bakes bread."]


def chat(template: str = "qwen3", answer: str = "Ada.", **fields: Any) -> ChatNBCE:
    return ChatNBCE(engine=make_thinker(template, THOUGHT, answer)[0], **fields)


def joined(chunks: Any) -> AIMessageChunk:
    whole: Any = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    made: AIMessageChunk = whole
    return made


@pytest.mark.parametrize("template", ["qwen3", "deepseek_r1", "gpt_oss", "magistral"])
@pytest.mark.parametrize("output_version", [None, "v1"])
def test_a_thought_is_reasoning(template: str, output_version: str | None) -> None:
    llm = chat(template, thinking=True, **({"output_version": output_version} if output_version else {}))
    message = llm.invoke(QUESTION, contexts=CONTEXTS)
    whole = joined(llm.stream(QUESTION, contexts=CONTEXTS))
    for one in (message, whole):
        assert one.text == "Ada."
        assert one.additional_kwargs == {"reasoning_content": THOUGHT}
        reasoning, text = one.content_blocks
        assert (reasoning["type"], reasoning["reasoning"]) == ("reasoning", THOUGHT)  # type: ignore[typeddict-item]
        assert (text["type"], text["text"]) == ("text", "Ada.")  # type: ignore[typeddict-item]
        report = one.response_metadata["nbce"]
        assert report["thought"] == THOUGHT
        usage: Any = one.usage_metadata
        reasoned = usage["output_token_details"]["reasoning"]
        assert len(THOUGHT) < reasoned == report["usage"]["thought_tokens"] < usage["output_tokens"]
        if output_version == "v1":
            assert [block["type"] for block in one.content] == ["reasoning", "text"]  # type: ignore[index]
        else:
            assert one.content == "Ada."


def test_pieces_say_what_is_thought() -> None:
    chunks = list(chat(thinking=True).stream(QUESTION, contexts=CONTEXTS))
    thoughts = [chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks]
    assert sum(map(bool, thoughts)) > 3
    assert "".join(thoughts) == THOUGHT
    assert not any(chunk.text for chunk, thought in zip(chunks, thoughts, strict=True) if thought)


def test_it_is_off_until_it_is_asked_for() -> None:
    llm = chat()
    message = llm.invoke(QUESTION, contexts=CONTEXTS)
    assert (message.text, message.additional_kwargs) == ("Ada.", {})
    assert "output_token_details" not in (message.usage_metadata or {})
    assert llm.invoke(QUESTION, contexts=CONTEXTS, thinking=True).additional_kwargs
    assert llm.bind(thinking=True, max_thought_tokens=4).invoke(QUESTION).additional_kwargs == {
        "reasoning_content": "Who"
    }
    on = llm.invoke(QUESTION, contexts=CONTEXTS, chat_template_kwargs={"enable_thinking": True})
    assert on.additional_kwargs == {"reasoning_content": THOUGHT}
    assert not chat("deepseek_r1", thinking=False).invoke(QUESTION, contexts=CONTEXTS).additional_kwargs


def test_async_batches_and_chains() -> None:
    llm = chat(thinking=True)
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | llm
    message = asyncio.run(chain.ainvoke({"question": QUESTION}))
    assert message.additional_kwargs == {"reasoning_content": THOUGHT}

    async def stream() -> list[AIMessageChunk]:
        return [chunk async for chunk in llm.astream(QUESTION, contexts=CONTEXTS)]

    assert joined(asyncio.run(stream())).additional_kwargs == {"reasoning_content": THOUGHT}
    for one in llm.batch([QUESTION, "Who bakes?"]):
        assert one.additional_kwargs == {"reasoning_content": THOUGHT}


def test_structured_output_begins_behind_the_thought() -> None:
    pytest.importorskip("llguidance")

    class Person(BaseModel):
        name: str

    llm = chat(answer='{"name":"Ada"}', thinking=True)
    raw = llm.with_structured_output(Person, include_raw=True).invoke(QUESTION)
    assert raw["parsed"] == Person(name="Ada")
    assert raw["raw"].additional_kwargs == {"reasoning_content": THOUGHT}
    for method in ("json_schema", "json_mode"):
        found = llm.with_structured_output(Person, method=method).invoke(QUESTION)
        assert found == Person(name="Ada")


def test_a_forced_call_of_a_tool_comes_behind_the_thought() -> None:
    pytest.importorskip("llguidance")
    tool = {
        "type": "function",
        "function": {
            "name": "find",
            "parameters": {"type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"]},
        },
    }
    answer = json.dumps({"name": "find", "arguments": {"who": "Ada"}}, separators=(",", ":"))
    llm = chat(answer=answer, thinking=True)
    message = llm.bind_tools([tool], tool_choice="find").invoke(QUESTION)
    assert message.tool_calls[0]["args"] == {"who": "Ada"}
    assert message.additional_kwargs == {"reasoning_content": THOUGHT}


@pytest.mark.parametrize(
    "thinker",
    [
        AIMessage("Ada.", additional_kwargs={"reasoning_content": THOUGHT}),
        AIMessage([{"type": "reasoning", "reasoning": THOUGHT}, {"type": "text", "text": "Ada."}]),
        AIMessage([{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": "Ada."}]),
    ],
)
def test_thoughts_of_earlier_turns_are_the_templates_affair(thinker: AIMessage) -> None:
    talk = [HumanMessage(QUESTION), thinker, HumanMessage("Since when?")]
    for template, is_kept in (("qwen3", False), ("unheard", True)):
        llm = chat(template)
        prompts: Any = llm.nbce().model
        llm.invoke(talk)
        prompt = prompts.opened[-1][0]
        read = prompts.tokenizer.decode([*prompt.contexts[0], *prompt.suffix])
        assert "Ada." in read
        assert (THOUGHT in read) is is_kept


def test_gpt_oss_reads_the_thought_before_a_call_of_its_own() -> None:
    call = {"name": "find", "args": {"who": "Ada"}, "id": "1"}
    talk = [
        HumanMessage(QUESTION),
        AIMessage("", tool_calls=[call], additional_kwargs={"reasoning_content": THOUGHT}),
        ToolMessage("Ada runs it.", tool_call_id="1"),
    ]
    llm = chat("gpt_oss")
    model: Any = llm.nbce().model
    llm.invoke(talk)
    read = model.tokenizer.decode(model.opened[-1][0].suffix)
    assert f"<|channel|>analysis<|message|>{THOUGHT}<|end|>" in read


def test_a_completion_has_the_thought_in_its_report_alone() -> None:
    engine = make_thinker("qwen3", THOUGHT)[0]
    llm = NBCELLM(engine=engine, thinking=True)
    assert THOUGHT not in llm.invoke(QUESTION)
    assert "" not in list(llm.stream(QUESTION))[:-1]


def test_wrong_inputs() -> None:
    with pytest.raises(InputError, match="no switch and no marks"):
        chat("plain", thinking=True).invoke(QUESTION)
    with pytest.raises(InputError, match="max_thought_tokens=-1"):
        chat().invoke(QUESTION, max_thought_tokens=-1)
    with pytest.raises(ValidationError):
        chat(thinking="perhaps")
