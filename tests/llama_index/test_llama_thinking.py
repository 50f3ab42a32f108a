"""Models that think, behind NBCELLM: the thought is a ThinkingBlock, and no part of the text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import LLM
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from thinking_tools import make_thinker

from llama_index_nbce import NBCELLM, NBCESynthesizer
from nbce_rag.errors import InputError

QUESTION, THOUGHT = "Who runs the ferry?", "Who? Ada does."
CONTEXTS = ["Ada runs the ferry.", "Bo bakes bread."]
ASKED = [ChatMessage(role="user", content=QUESTION)]


def make_llm(template: str = "qwen3", answer: str = "Ada.", **options: Any) -> NBCELLM:
    return NBCELLM(engine=make_thinker(template, THOUGHT, answer)[0], **options)


def thoughts(message: ChatMessage) -> list[str | None]:
    return [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]


@pytest.mark.parametrize("template", ["qwen3", "deepseek_r1", "gpt_oss", "magistral"])
def test_a_thought_is_a_block(template: str) -> None:
    llm = make_llm(template, thinking=True)
    response = llm.chat(ASKED, contexts=CONTEXTS)
    message = response.message
    assert message.content == "Ada."
    assert isinstance(message.blocks[0], ThinkingBlock)
    assert thoughts(message) == [THOUGHT]
    assert message.additional_kwargs == {"reasoning_content": THOUGHT}
    report = response.additional_kwargs["nbce"]
    assert report["thought"] == THOUGHT
    assert message.blocks[0].num_tokens == report["usage"]["thought_tokens"] > len(THOUGHT)
    usage = response.raw["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": report["usage"]["thought_tokens"]}
    assert "thinking_delta" not in response.additional_kwargs
    assert ChatMessage.model_validate_json(message.model_dump_json()).blocks[0] == message.blocks[0]


def test_steps_say_what_is_thought() -> None:
    llm = make_llm(thinking=True)

    async def collect() -> list[Any]:
        return [step async for step in await llm.astream_chat(ASKED, contexts=CONTEXTS)]

    for steps in (list(llm.stream_chat(ASKED, contexts=CONTEXTS)), asyncio.run(collect())):
        deltas = [step.additional_kwargs.get("thinking_delta", "") for step in steps]
        assert "".join(deltas) == THOUGHT
        assert "".join(step.delta or "" for step in steps) == "Ada."
        assert not any(step.delta for step, delta in zip(steps, deltas, strict=True) if delta)
        so_far = ""
        for step, delta in zip(steps, deltas, strict=True):
            so_far += delta
            assert thoughts(step.message) == [so_far]
        assert steps[-1].message.content == "Ada."
        assert steps[-1].additional_kwargs["nbce"]["thought"] == THOUGHT


def test_it_is_off_until_it_is_asked_for() -> None:
    llm = make_llm()
    message = llm.chat(ASKED, contexts=CONTEXTS).message
    assert (message.content, thoughts(message), message.additional_kwargs) == ("Ada.", [], {})
    assert thoughts(llm.chat(ASKED, thinking=True).message) == [THOUGHT]
    assert thoughts(llm.chat(ASKED, thinking=True, max_thought_tokens=4).message) == ["Who"]
    on = llm.chat(ASKED, chat_template_kwargs={"enable_thinking": True})
    assert thoughts(on.message) == [THOUGHT]
    assert thoughts(make_llm("deepseek_r1", thinking=False).chat(ASKED).message) == []


def test_completions_are_the_answer() -> None:
    llm: LLM = make_llm(thinking=True)
    response = llm.complete(QUESTION)
    assert response.text == "Ada."
    assert response.additional_kwargs["nbce"]["thought"] == THOUGHT
    steps = list(llm.stream_complete(QUESTION))
    assert "".join(step.delta or "" for step in steps) == steps[-1].text == "Ada."


def test_a_forced_call_comes_behind_the_thought() -> None:
    pytest.importorskip("llguidance")

    def find(who: str) -> str:
        """Finds somebody."""
        return who

    llm = make_llm(answer='{"name":"find","arguments":{"who":"Ada"}}', thinking=True)
    tool = FunctionTool.from_defaults(find)
    response = llm.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(response)
    assert call.tool_kwargs == {"who": "Ada"}
    assert thoughts(response.message) == [THOUGHT]
    assert response.message.additional_kwargs["reasoning_content"] == THOUGHT


def test_structured_output_begins_behind_the_thought() -> None:
    pytest.importorskip("llguidance")

    class Person(BaseModel):
        name: str

    llm = make_llm(answer='{"name":"Ada"}', thinking=True)
    assert llm.as_structured_llm(Person).chat(ASKED).raw == Person(name="Ada")


@pytest.mark.parametrize(
    "thinker",
    [
        ChatMessage(role="assistant", content="Ada.", additional_kwargs={"reasoning_content": THOUGHT}),
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content=THOUGHT), TextBlock(text="Ada.")]),
    ],
)
def test_thoughts_of_earlier_turns_are_the_templates_affair(thinker: ChatMessage) -> None:
    talk = [*ASKED, thinker, ChatMessage(role="user", content="Since when?")]
    for template, is_kept in (("qwen3", False), ("unheard", True)):
        llm = make_llm(template)
        model: Any = llm.engine.model
        llm.chat(talk)
        prompt = model.opened[-1][0]
        read = model.tokenizer.decode([*prompt.contexts[0], *prompt.suffix])
        assert "Ada." in read
        assert (THOUGHT in read) is is_kept


def test_gpt_oss_reads_the_thought_before_a_call_of_its_own() -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="find", tool_kwargs={"who": "Ada"})
    talk = [
        *ASKED,
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content=THOUGHT), call]),
        ChatMessage(role="tool", content="Ada runs it.", additional_kwargs={"tool_call_id": "1"}),
    ]
    llm = make_llm("gpt_oss")
    model: Any = llm.engine.model
    llm.chat(talk)
    read = model.tokenizer.decode(model.opened[-1][0].suffix)
    assert f"<|channel|>analysis<|message|>{THOUGHT}<|end|>" in read


def test_agents_hand_thoughts_on() -> None:
    def find(who: str) -> str:
        """Finds somebody."""
        return who

    agent = FunctionAgent(llm=make_llm(thinking=True), tools=[FunctionTool.from_defaults(find)])

    async def run() -> tuple[str, str]:
        handler = agent.run(QUESTION)
        deltas = [
            event.thinking_delta or ""
            async for event in handler.stream_events()
            if isinstance(event, AgentStream)
        ]
        return "".join(deltas), str(await handler)

    assert asyncio.run(run()) == (THOUGHT, "Ada.")


def test_an_engine_streams_the_answer_alone() -> None:
    synthesizer = NBCESynthesizer(make_llm(thinking=True), streaming=True)
    nodes = [NodeWithScore(node=TextNode(id_=str(n), text=text)) for n, text in enumerate(CONTEXTS)]
    response: Any = synthesizer.synthesize(QUESTION, nodes)
    assert "".join(response.response_gen) == "Ada."
    assert response.metadata["nbce"]["thought"] == THOUGHT


def test_wrong_inputs() -> None:
    with pytest.raises(InputError, match="no switch and no marks"):
        make_llm("plain", thinking=True)
    with pytest.raises(InputError, match="thinking='on'"):
        make_llm().chat(ASKED, thinking="on")
