"""What every LLM of LlamaIndex does, asked of NBCELLM and of a class of LlamaIndex's own."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms import LLM, ChatMessage, MessageRole, MockLLM
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate

from llama_index_nbce import NBCELLM

MESSAGES = [ChatMessage(role=MessageRole.USER, content="When does the market open?")]
PROMPT = "When does the market open?"


@pytest.fixture(params=["nbce-chat", "nbce-base", "core-mock"])
def model(request: pytest.FixtureRequest, make_engine: Callable[..., Any]) -> LLM:
    if request.param == "core-mock":
        return MockLLM()  # echoes its prompt
    return NBCELLM(engine=make_engine(chat=request.param == "nbce-chat"))


def test_it_is_an_llm_with_a_name(model: LLM) -> None:
    assert BaseLLM in type(model).__mro__
    assert type(model).class_name() == model.to_dict()["class_name"]


def test_it_dumps_to_json(model: LLM) -> None:
    assert json.loads(model.model_dump_json())["class_name"] == type(model).class_name()


def test_metadata_have_a_window_and_leave_room_to_answer(model: LLM) -> None:
    assert model.metadata.num_output < model.metadata.context_window


def test_chat_answers_as_the_assistant(model: LLM) -> None:
    response = model.chat(MESSAGES)
    assert response.message.role == MessageRole.ASSISTANT
    assert response.message.content


def test_streams_are_generators_whose_deltas_join_to_the_answer(model: LLM) -> None:
    whole = model.chat(MESSAGES).message.content
    stream = model.stream_chat(MESSAGES)
    lazy = inspect.isgenerator(stream)
    assert lazy
    steps = list(stream)
    assert "".join(step.delta or "" for step in steps) == whole
    assert steps[-1].message.content == whole
    for shorter, longer in pairwise(steps):
        assert (longer.message.content or "").startswith(shorter.message.content or "")


def test_completion_streams_likewise(model: LLM) -> None:
    whole = model.complete(PROMPT).text
    steps = list(model.stream_complete(PROMPT))
    assert "".join(step.delta or "" for step in steps) == whole == steps[-1].text
    assert whole


def test_async_members_give_what_sync_ones_do(model: LLM) -> None:
    async def run() -> tuple[Any, ...]:
        chat = (await model.achat(MESSAGES)).message.content
        complete = (await model.acomplete(PROMPT)).text
        generator = await model.astream_chat(MESSAGES)
        lazy = inspect.isasyncgen(generator)
        assert lazy
        chat_stream = [step async for step in generator]
        complete_stream = [step async for step in await model.astream_complete(PROMPT)]
        return chat, complete, chat_stream[-1].message.content, complete_stream[-1].text

    chat, complete = model.chat(MESSAGES).message.content, model.complete(PROMPT).text
    assert asyncio.run(run()) == (chat, complete, chat, complete)


def test_predict_and_stream_take_templates(model: LLM) -> None:
    template = PromptTemplate("Answer briefly: {question}")
    text = model.predict(template, question=PROMPT)
    assert text
    assert "".join(model.stream(template, question=PROMPT)) == text
    messages = ChatPromptTemplate([ChatMessage(role="user", content="Answer briefly: {question}")])
    assert model.predict(messages, question=PROMPT)


def test_each_call_has_as_many_ends_as_starts(model: LLM, events: Any) -> None:
    model.chat(MESSAGES)
    list(model.stream_chat(MESSAGES))
    model.complete(PROMPT)
    for kind in ("Chat", "Completion"):
        assert events.count(f"LLM{kind}StartEvent") == events.count(f"LLM{kind}EndEvent")
    assert events.llm_calls >= 3
