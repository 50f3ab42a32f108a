"""A function-calling model that follows a script, for agents around NBCE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool


class ScriptedLLM(FunctionCallingLLM):
    """Calls one tool with one query, then repeats the tool's answer or lets `reader` write it."""

    tool: str = "town"
    argument: str = "input"
    query: str = "Who runs the ferry?"
    reader: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True)

    def _reads(self, messages: Sequence[ChatMessage]) -> bool:
        return self.reader is not None and messages[-1].role == MessageRole.TOOL

    def _answer(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        last = messages[-1]
        if last.role == MessageRole.TOOL:
            message = ChatMessage(role="assistant", content=f"The tool says: {last.content}")
        else:
            message = ChatMessage(role="assistant", content="", additional_kwargs={"call": True})
        return ChatResponse(message=message, delta=message.content)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        history = list(chat_history or [])
        if user_msg is not None:
            history.append(
                ChatMessage(role="user", content=user_msg) if isinstance(user_msg, str) else user_msg
            )
        return {"messages": history}

    def get_tool_calls_from_response(self, response: ChatResponse, *args: Any, **kwargs: Any) -> Any:
        if not response.message.additional_kwargs.get("call"):
            return []
        return [ToolSelection(tool_id="1", tool_name=self.tool, tool_kwargs={self.argument: self.query})]

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return self._answer(messages)

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        if self._reads(messages):
            return await self.reader.achat(messages)  # type: ignore[no-any-return]
        return self._answer(messages)

    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        yield self._answer(messages)

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        async def responses() -> Any:
            if self._reads(messages):
                async for response in await self.reader.astream_chat(messages):
                    yield response
            else:
                yield self._answer(messages)

        return responses()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError
