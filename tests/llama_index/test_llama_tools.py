"""Tools of LlamaIndex: told to the model, forced, and read out of what it says; agents around it."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import CitableBlock, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from tiny_models import TOOL_TEMPLATE

from llama_index_nbce import NBCELLM
from llama_index_nbce.calls import Call, ChatSteps
from nbce_rag.answers.answer import Piece
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError
from nbce_rag.models.transformers.loading import wrap_model
from nbce_rag.prompts.binding import bind

pytest.importorskip("llguidance")

QUESTION = "Who runs the ferry?"
FERRY = CitableBlock(title="", source="ferry", content=[TextBlock(text="The ferry is run by Ada.")])
CALL = '{"name": "find", "arguments": {"old": true}}'


def find(old: bool) -> str:
    """Finds what is old."""
    return f"found old={old}"


def stay() -> str:
    """Does nothing."""
    return "stayed"


TOOLS = [FunctionTool.from_defaults(find), FunctionTool.from_defaults(stay)]


@pytest.fixture
def knowing(make_engine: Callable[..., NBCE]) -> NBCELLM:
    """Of a model whose chat template knows tools."""
    loaded: Any = make_engine().model
    native = copy.deepcopy(loaded.tokenizer.native)
    native.chat_template = TOOL_TEMPLATE
    return NBCELLM(engine=NBCE(wrap_model(loaded.model, native), max_tokens=40))


def user(*blocks: Any) -> ChatMessage:
    return ChatMessage(role="user", blocks=[TextBlock(text=b) if isinstance(b, str) else b for b in blocks])


def prompt(llm: NBCELLM, call: Call) -> str:
    """What the row without a passage reads."""
    assert isinstance(llm.engine, NBCE)
    tokenizer = llm.engine.model.tokenizer
    assert call.request.prompt is not None
    encoder = bind(call.request.prompt, llm.engine.prompt, tokenizer)
    return tokenizer.decode([*encoder.prefix, *encoder.suffix(call.request.question).ids])


def calls(response: Any) -> list[tuple[str, Any]]:
    blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    return [(block.tool_name, block.tool_kwargs) for block in blocks]


class TestForced:
    @pytest.mark.parametrize(
        ("choice", "names"),
        [
            ({"tool_required": True}, {"find", "stay"}),
            ({"tool_choice": "find"}, {"find"}),
            ({"tool_choice": {"type": "function", "function": {"name": "stay"}}}, {"stay"}),
            ({"tool_choice": "any"}, {"find", "stay"}),
            ({"tool_choice": "stay", "tool_required": True}, {"stay"}),
        ],
    )
    def test_a_call_is_made(self, knowing: NBCELLM, choice: dict[str, Any], names: set[str]) -> None:
        response: Any = knowing.chat_with_tools(TOOLS, user(FERRY, QUESTION), **choice)
        ((name, arguments),) = calls(response)
        assert name in names
        assert set(arguments) == ({"old"} if name == "find" else set())
        assert not response.message.content
        assert response.raw["nbce"]["rows"] == 2
        (selection,) = knowing.get_tool_calls_from_response(response)
        assert (selection.tool_name, selection.tool_kwargs) == (name, arguments)
        assert selection.tool_id.startswith("call_")
        (plain,) = response.message.additional_kwargs["tool_calls"]
        assert plain["function"]["name"] == name
        assert json.loads(plain["function"]["arguments"]) == arguments
        assert ChatMessage.model_validate_json(response.message.model_dump_json()) == response.message

        async def later() -> Any:
            return await knowing.achat_with_tools(TOOLS, user(FERRY, QUESTION), **choice)

        assert calls(asyncio.run(later())) == [(name, arguments)]
        steps = list(knowing.stream_chat_with_tools(TOOLS, user(FERRY, QUESTION), **choice))
        assert "".join(step.delta or "" for step in steps) == ""
        assert calls(steps[-1]) == [(name, arguments)]
        assert not any(calls(step) for step in steps[:-1])

    def test_a_base_model_can_be_made_to_call_too(self, base_llm: NBCELLM) -> None:
        response = base_llm.chat_with_tools(TOOLS, QUESTION, tool_choice="stay", max_tokens=40)
        assert calls(response) == [("stay", {})]

    def test_it_takes_the_place_of_a_constraint_of_the_object(self, make_engine: Callable[..., NBCE]) -> None:
        llm = NBCELLM(engine=make_engine(), max_tokens=40, regex="yes|no")
        assert calls(llm.chat_with_tools(TOOLS, QUESTION, tool_choice="stay")) == [("stay", {})]
        assert llm.chat([user(QUESTION)]).message.content in ("yes", "no")
        seven = {"type": "json_schema", "schema": {"const": 7}}
        json_text = llm.chat([user(QUESTION)], response_format=seven)
        assert json_text.message.content == "7"

    def test_what_names_no_tool_is_refused(self, knowing: NBCELLM) -> None:
        with pytest.raises(InputError, match="'fnd' names no tool"):
            knowing.chat_with_tools(TOOLS, QUESTION, tool_choice="fnd")
        with pytest.raises(InputError, match="A tool is a int"):
            knowing.chat([user(QUESTION)], tools=[3])
        with pytest.raises(InputError, match="tools are for chat"):
            knowing.complete(QUESTION, tools=TOOLS)
        with pytest.raises(InputError, match="response_format="):
            knowing.chat([user(QUESTION)], response_format="json")


class TestTold:
    def test_a_template_that_knows_tools_gets_them(self, knowing: NBCELLM) -> None:
        call = knowing._chat_call([user(QUESTION)], {"tools": TOOLS})
        assert prompt(knowing, call).startswith("<s><|tools|>\nfind\nstay\n<|user|>\n")
        none = knowing._chat_call([user(QUESTION)], {"tools": TOOLS, "tool_choice": "none"})
        assert prompt(knowing, none).startswith(f"<s><|user|>\n{QUESTION}")

    def test_others_read_of_them_in_the_system_message(self, llm: NBCELLM) -> None:
        call = llm._chat_call([user(QUESTION)], {"tools": TOOLS})
        text = prompt(llm, call)
        assert text.startswith("<s><|system|>\nYou may call one of these functions:\n")
        assert "Finds what is old." in text

    def test_a_prompt_function_reads_of_them_too(self, make_engine: Callable[..., NBCE]) -> None:
        def render(messages: Any) -> str:
            return "".join(f"[{m.role.value}] {m.content}\n" for m in messages)

        llm = NBCELLM(engine=make_engine(), messages_to_prompt=render)
        text = prompt(llm, llm._chat_call([user(FERRY, QUESTION)], {"tools": TOOLS}))
        assert text.startswith("<s>[system] You may call one of these functions:\n")
        assert text.endswith(f"[user] {QUESTION}\n")

    def test_calls_and_results_of_earlier_are_in_the_conversation(self, knowing: NBCELLM) -> None:
        block = ToolCallBlock(tool_call_id="c1", tool_name="find", tool_kwargs={"old": True})
        openai = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"old": true}'}}
        result = ChatMessage(role="tool", content="An old harbour.", additional_kwargs={"tool_call_id": "c1"})
        texts = []
        for asked in (
            ChatMessage(role="assistant", blocks=[block]),
            ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [openai]}),
        ):
            call = knowing._chat_call([user(QUESTION), asked, result], {"tools": TOOLS})
            texts.append(prompt(knowing, call))
            assert call.request.prompt is not None
            assert call.request.prompt.messages is not None
            assert [m["role"] for m in call.request.prompt.messages] == ["user", "assistant", "tool"]
        assert texts[0] == texts[1]
        assert '<tool_call>{"name": "find", "arguments": {"old": true}}</tool_call>' in texts[0]
        assert texts[0].endswith("<|tool|>\nAn old harbour.</s>\n<|assistant|>\n")


class TestRead:
    """Calls out of the text of a model that is free to make them."""

    def said(self, llm: NBCELLM, text: str, pieces: list[str] | None = None, **kwargs: Any) -> list[Any]:
        """The steps of a stream in which the model says a text."""
        call = llm._chat_call([user(FERRY, QUESTION)], {"tools": TOOLS, **kwargs})
        answer = llm.engine.batch([call.request])[0]
        steps = ChatSteps(call)
        made = [steps.step(Piece(piece, (), None)) for piece in pieces or list(text)]
        return [*made, steps.step(Piece("", (), answer))]

    def test_a_bare_call(self, knowing: NBCELLM) -> None:
        steps = self.said(knowing, CALL)
        assert calls(steps[-1]) == [("find", {"old": True})]
        assert not steps[-1].message.content
        assert "".join(step.delta for step in steps) == ""

    def test_a_text_before_a_call_is_shown_at_once(self, knowing: NBCELLM) -> None:
        steps = self.said(knowing, f"I look. <tool_call>{CALL}</tool_call>")
        assert "".join(step.delta for step in steps) == steps[-1].message.content == "I look. "
        assert steps[6].delta
        assert calls(steps[-1]) == [("find", {"old": True})]

    def test_what_is_no_call_stays_text(self, knowing: NBCELLM) -> None:
        for text in ('{"a": 1}', "I say [x].", '<tool_call>{"name": "fi'):
            steps = self.said(knowing, text)
            assert "".join(step.delta for step in steps) == steps[-1].message.content == text
            assert calls(steps[-1]) == []
            with pytest.raises(InputError, match="called no tool"):
                knowing.get_tool_calls_from_response(steps[-1])
            assert knowing.get_tool_calls_from_response(steps[-1], error_on_no_tool_call=False) == []

    def test_without_tools_all_is_text(self, knowing: NBCELLM) -> None:
        steps = self.said(knowing, CALL, tools=[])
        assert steps[-1].message.content == CALL

    def test_several_calls(self, knowing: NBCELLM) -> None:
        both = f'[TOOL_CALLS][{CALL}, {{"name": "stay", "arguments": {{}}}}]'
        assert len(calls(self.said(knowing, both)[-1])) == 2
        assert len(calls(self.said(knowing, both, allow_parallel_tool_calls=False)[-1])) == 1


class Old(BaseModel):
    """Whether it is old."""

    old: bool


class TestAround:
    @pytest.mark.parametrize("streaming", [True, False])
    def test_a_function_agent(self, knowing: NBCELLM, streaming: bool) -> None:
        """The first call is forced; then the model reads the result and says what it likes."""
        assert knowing.metadata.is_function_calling_model
        tools: list[Any] = [TOOLS[0]]
        agent = FunctionAgent(tools=tools, llm=knowing, initial_tool_choice="find", streaming=streaming)

        async def run() -> Any:
            return await agent.run(QUESTION)

        output = asyncio.run(run())
        (called,) = output.tool_calls
        assert called.tool_name == "find"
        assert str(called.tool_output) == f"found old={called.tool_kwargs['old']}"
        assert str(output)

    def test_a_program_that_calls_functions(self, knowing: NBCELLM) -> None:
        program = FunctionCallingProgram.from_defaults(
            output_cls=Old, prompt_template_str="Is {thing} old?", llm=knowing
        )
        made = program(thing="the harbour")
        assert isinstance(made, Old)

        async def later() -> Any:
            return await program.acall(thing="the harbour")

        assert asyncio.run(later()) == made
        # A stream asks for a call only where the program names its tool.
        naming = FunctionCallingProgram.from_defaults(
            output_cls=Old, prompt_template_str="Is {thing} old?", llm=knowing, tool_choice="Old"
        )
        *_, last = naming.stream_call(thing="the harbour")
        if "tool_choice=self" in inspect.getsource(FunctionCallingProgram.stream_call):  # 0.14.5 forgets it
            assert last == made

    def test_predict_and_call(self, knowing: NBCELLM) -> None:
        response = knowing.predict_and_call(TOOLS[:1], QUESTION, tool_required=True)
        assert str(response).startswith("found old=")
