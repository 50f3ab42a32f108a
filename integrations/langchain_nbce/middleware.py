"""Agent middleware that retrieves for each question and hands the documents to the model as contexts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NotRequired

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever

from nbce_rag import MissingDependencyError

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import ModelRequest, ModelResponse
except ImportError as error:
    raise MissingDependencyError(
        "NBCERetrievalMiddleware needs the package langchain: pip install langchain"
    ) from error

__all__ = ["NBCERetrievalMiddleware"]


class RetrievalState(AgentState[Any]):
    """The agent's state with the documents of the current question."""

    context: NotRequired[list[Document]]


class NBCERetrievalMiddleware(AgentMiddleware[RetrievalState, Any]):
    """Retrieves once for each question of the user; `ChatNBCE` reads the documents as contexts.

    `create_agent(ChatNBCE(), tools=[], middleware=[NBCERetrievalMiddleware(retriever)])`. The messages stay
    as they are; the documents are in the state as `context`. They take the place of documents that the
    agent's tools return.

    Args:
        retriever: any retriever of LangChain.
    """

    state_schema = RetrievalState

    def __init__(self, retriever: BaseRetriever) -> None:
        super().__init__()
        self.retriever = retriever

    def before_agent(self, state: RetrievalState, runtime: Any) -> dict[str, Any] | None:
        """Retrieves for the last message of the user."""
        question = _question(state["messages"])
        return {"context": self.retriever.invoke(question) if question else []}

    async def abefore_agent(self, state: RetrievalState, runtime: Any) -> dict[str, Any] | None:
        """As `before_agent`."""
        question = _question(state["messages"])
        return {"context": await self.retriever.ainvoke(question) if question else []}

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> Any:
        """Hands the documents over."""
        return handler(_with_contexts(request))

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> Any:
        """As `wrap_model_call`."""
        return await handler(_with_contexts(request))


def _with_contexts(request: ModelRequest) -> ModelRequest:
    documents = request.state.get("context") or []
    if not documents and request.tools:
        return request  # a tool may find what the retriever did not
    return request.override(model_settings={**request.model_settings, "contexts": documents})


def _question(messages: list[AnyMessage]) -> str:
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return str(message.text).strip()
    return ""
