"""Reading the citations of a response: the nodes that are cited, and the answer with footnotes."""

from __future__ import annotations

from typing import Any, Protocol

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import CitableBlock, TextBlock
from llama_index.core.schema import NodeWithScore
from llama_index.core.tools import FunctionTool, ToolOutput

from nbce_rag import InputError, citation_marks, format_passages

from .contexts import citable, passages_of
from .report import node_id_of

__all__ = ["citable_retriever_tool", "cited_nodes", "format_citations"]


class ResponseLike(Protocol):
    """A response of a query or chat engine: what came out, and the nodes that went in."""

    @property
    def metadata(self) -> dict[str, Any] | None: ...
    @property
    def source_nodes(self) -> list[NodeWithScore]: ...


def cited_nodes(response: ResponseLike) -> list[NodeWithScore]:
    """The source nodes that the answer cites, each once, in the order of their first citation.

    Args:
        response: of a query or chat engine with `NBCESynthesizer`; a streamed one after its stream.

    Raises:
        InputError: it has no `metadata["nbce"]`, or its stream has not ended.
    """
    nodes: dict[str, NodeWithScore] = {}
    for node in response.source_nodes:
        nodes.setdefault(node.node.node_id, node)
    return [nodes[id_] for id_ in _cited_node_ids(_report(response)) if id_ in nodes]


def format_citations(response: ResponseLike) -> str:
    """The answer with numbers after each cited stretch, and below it what the numbers stand for.

    Between them it says who says what where the contexts give several answers, and which words of the
    citations stand in no passage that is cited for them.

    The numbers for the lines of a code block stand behind it (`nbce_rag.citation_marks`).

    Args:
        response: as in `cited_nodes`.
    """
    report = _report(response)
    text, contexts = report["answer"], report["contexts"]
    numbers = {id_: number for number, id_ in enumerate(_cited_node_ids(report), 1)}
    ends = [
        (cited["end"], [support["context_index"] for support in (cited, *cited["others"])])
        for cited in report["citations"]
    ]
    for mark in reversed(citation_marks(text, ends)):
        named = dict.fromkeys(numbers[node_id_of(contexts[place])] for place in mark.passages)
        label = "".join(f"[{number}]" for number in named)
        text = f"{text[: mark.at]}{chr(10) if mark.own_line else ' '}{label}{text[mark.at :]}"
    names = {node_id_of(context): _name_of(context) for context in contexts}
    notes = [f"[{number}] {names[id_]}" for id_, number in numbers.items()]
    absent = dict.fromkeys(word["text"] for word in report.get("unsupported", ()))
    lines = [str(conflict["line"]) for conflict in report.get("conflicts", ())]
    lines += [f"Not in the passages cited for it: {', '.join(absent)}."] if absent else []
    return "\n".join([text, *lines, *(["", *notes] if notes else [])])


def citable_retriever_tool(
    retriever: BaseRetriever, name: str = "search", description: str = "Searches the documents."
) -> FunctionTool:
    """A tool for agents that gives back what a retriever finds as `CitableBlock`s.

    An `NBCELLM` that gets the tool's message then reads each as a context of its own; LlamaIndex's
    `RetrieverTool` joins them to one text. Agents that hand on the text of a tool, such as `ReActAgent`,
    hand on passage marks (`nbce_rag.prompts.marks`), which `NBCELLM` reads as well.

    Args:
        retriever: finds the nodes.
        name, description: what the agent's model sees.
    """

    def search(query: str) -> list[CitableBlock]:
        return [citable(node) for node in retriever.retrieve(query)]

    async def asearch(query: str) -> list[CitableBlock]:
        return [citable(node) for node in await retriever.aretrieve(query)]

    return _CitableTool.from_defaults(search, async_fn=asearch, name=name, description=description)


class _CitableOutput(ToolOutput):
    """A tool's blocks, whose text is their passage marks: `ToolOutput` leaves blocks out of its text."""

    @property
    def content(self) -> str:
        blocks = [block for block in self.blocks if isinstance(block, CitableBlock)]
        return format_passages(passages_of(blocks)) if blocks else super().content

    @content.setter
    def content(self, content: str) -> None:
        self.blocks = [TextBlock(text=content)]


class _CitableTool(FunctionTool):
    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return _citable_output(super().call(*args, **kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return _citable_output(await super().acall(*args, **kwargs))


def _citable_output(output: ToolOutput) -> ToolOutput:
    return _CitableOutput(
        tool_name=output.tool_name,
        blocks=output.blocks,
        raw_input=output.raw_input,
        raw_output=output.raw_output,
    )


def _name_of(context: dict[str, Any]) -> str:
    name = context["title"] or node_id_of(context)
    page = context["metadata"].get("page_label")
    return f"{name}, page {page}" if page else str(name)


def _cited_node_ids(report: dict[str, Any]) -> list[str]:
    """Ids of the nodes that are cited, in the order of their first citation; blocks may share one."""
    node_ids = {context["id"]: node_id_of(context) for context in report["contexts"]}
    return list(dict.fromkeys(node_ids[id_] for id_ in report["cited_ids"]))


def _report(response: ResponseLike) -> dict[str, Any]:
    report: dict[str, Any] | None = (getattr(response, "metadata", None) or {}).get("nbce")
    if report is None:
        raise InputError("The response has no metadata['nbce']; it did not come from NBCESynthesizer.")
    if "answer" not in report:
        raise InputError("The answer is not complete; read its stream to the end first.")
    return report
