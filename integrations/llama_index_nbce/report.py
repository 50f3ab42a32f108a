"""An answer as LlamaIndex has it: its report in `metadata["nbce"]`, its usage, `CitationBlock`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.base.llms.types import CitationBlock, LogProb, TextBlock, ThinkingBlock
from llama_index.core.schema import NodeWithScore

from nbce_rag import Answer, CitationsReport, Passage, Report

__all__ = [
    "citation_blocks",
    "complete",
    "describe",
    "node_id_of",
    "place_of",
    "plain",
    "thinking_blocks",
    "token_logprobs",
    "usage_of",
]


def describe(answer: Answer, notes: tuple[str, ...] = ()) -> Report:
    """An answer's report (`nbce_rag.Report`), with notes in front of its warnings.

    The metadata of its contexts have `source`, the id of the context's node or block, and `index`, its place
    among those that were given; of passages from marks in a prompt they have neither. `NBCESynthesizer` adds
    `ref_doc_id`.
    """
    return replace(answer, warnings=(*notes, *answer.warnings)).to_dict()


def complete(report: Mapping[str, Any], nodes: Sequence[NodeWithScore]) -> None:
    """Says of each context of a report which document it is from, and which page.

    Args:
        report: is changed; {} has no contexts.
        nodes: what the contexts were made of, in the order in which they were given.
    """
    for context in report.get("contexts", ()):
        node = nodes[place_of(context)].node
        context["metadata"]["ref_doc_id"] = node.ref_doc_id
        name = node.metadata.get("title") or node.metadata.get("file_name")
        context["title"] = str(name) if name else context["title"]
        if (page := node.metadata.get("page_label")) is not None:
            context["metadata"]["page_label"] = str(page)


def node_id_of(context: dict[str, Any]) -> str:
    """Id of the node or block that a context of a report was made of."""
    return str(context["metadata"].get("source", context["id"]))


def place_of(context: dict[str, Any]) -> int:
    """Place of a context of a report among those that were given."""
    return int(context["metadata"].get("index", context["index"]))


def usage_of(report: Report) -> dict[str, Any]:
    """A report's usage by the names that LlamaIndex's token counter reads."""
    usage = report["usage"]
    names: dict[str, Any] = {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["generated_tokens"],
        "total_tokens": usage["total_tokens"],
        "cached_tokens": usage["cached_tokens"],
        "row_tokens": usage["row_tokens"],
    }
    if usage["thought_tokens"]:
        names["completion_tokens_details"] = {"reasoning_tokens": usage["thought_tokens"]}
    return names


def citation_blocks(cited: CitationsReport, passages: Sequence[Passage]) -> list[CitationBlock]:
    """A block for each passage of each cited stretch; `additional_location_info` says where that stands.

    LlamaIndex allows only whole numbers there: `context_index`, `response_start`, `response_end` in
    characters, `weight_ppm`, the evidence in millionths, `verbatim`, 1 where the passage holds the stretch
    word for word, with `quote_start` and `quote_end` in the passage, and where they are known `source_start`,
    `source_end` and `page`; and `unsupported`, how many of `metadata["nbce"]["unsupported"]` are in it.

    Args:
        cited: an answer's report, or what is certain with a piece of a stream.
        passages: what was read.
    """
    blocks = []
    supports = [(one, support) for one in cited["citations"] for support in (one, *one["others"])]
    for citation, support in supports:
        passage = passages[support["context_index"]]
        start, end = citation["start"], citation["end"]
        absent = [w for w in cited["unsupported"] if start <= w["start"] and w["end"] <= end]
        blocks.append(
            CitationBlock(
                cited_content=TextBlock(text=passage.text),
                source=str(passage.metadata.get("source", passage.id)),
                title=passage.title or "",
                additional_location_info={
                    "context_index": int(passage.metadata.get("index", 0)),
                    "response_start": start,
                    "response_end": end,
                    "weight_ppm": round((support["share"] or 0.0) * 1e6),
                    "verbatim": int(support["verbatim"]),
                    "unsupported": len(absent),
                    **_quoted(support),
                },
            )
        )
    return blocks


def _quoted(support: Mapping[str, Any]) -> dict[str, int]:
    names = ("quote_start", "quote_end", "source_start", "source_end", "page")
    return {name: place for name in names if isinstance(place := support[name], int)}


def thinking_blocks(thought: str, answer: Answer | None) -> list[ThinkingBlock]:
    """A thought as a block; none where there is no thought.

    Args:
        thought: as far as it has come.
        answer: the whole answer, once it is there; it knows how many tokens the thought took.
    """
    if not thought:
        return []
    return [
        ThinkingBlock(content=thought, num_tokens=None if answer is None else answer.usage.thought_tokens)
    ]


def token_logprobs(answer: Answer) -> list[list[LogProb]]:
    """Of each token itself first, then the other most probable ones at its place (option `top_logprobs`)."""
    made = []
    for token in answer.tokens:
        others = [(text, value) for text, value in token.top if text.strip() != token.text.strip()]
        pairs = [(token.text, token.logprob), *others]
        made.append([LogProb(token=text, logprob=value, bytes=list(text.encode())) for text, value in pairs])
    return made


def plain(value: object) -> object:
    """A value that JSON can hold; of a fusion rule its name."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return getattr(value, "name", None) or type(value).__name__
