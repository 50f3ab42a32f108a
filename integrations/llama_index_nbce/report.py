"""An answer as LlamaIndex has it: its report in `metadata["nbce"]`, its usage, `CitationBlock`s."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llama_index.core.base.llms import types
from llama_index.core.base.llms.types import CitationBlock, LogProb, TextBlock

from nbce_rag import Answer, Passage, Report

__all__ = [
    "citation_blocks",
    "describe",
    "node_id_of",
    "place_of",
    "plain",
    "thinking_blocks",
    "token_logprobs",
    "usage_of",
]

_Thinking: Any = getattr(types, "ThinkingBlock", None)  # not every version of LlamaIndex has it


def describe(answer: Answer, notes: tuple[str, ...] = ()) -> Report:
    """An answer's report (`nbce_rag.Report`), with notes in front of its warnings.

    The metadata of its contexts have `source`, the id of the context's node or block, and `index`, its place
    among those that were given; of passages from marks in a prompt they have neither. `NBCESynthesizer` adds
    `ref_doc_id`.
    """
    return replace(answer, warnings=(*notes, *answer.warnings)).to_dict()


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


def citation_blocks(answer: Answer) -> list[CitationBlock]:
    """A block for each passage of each cited stretch; `additional_location_info` says where that stands.

    LlamaIndex allows only whole numbers there: `context_index`, `response_start`, `response_end` in
    characters, and `weight_ppm`, the evidence in millionths.
    """
    blocks = []
    supports = [(citation, support) for citation in answer.citations for support in citation.supports]
    for citation, support in supports:
        passage: Passage = answer.passages[support.passage]
        blocks.append(
            CitationBlock(
                cited_content=TextBlock(text=passage.text),
                source=str(passage.metadata.get("source", passage.id)),
                title=passage.title or "",
                additional_location_info={
                    "context_index": int(passage.metadata.get("index", 0)),
                    "response_start": citation.start,
                    "response_end": citation.end,
                    "weight_ppm": round(support.share * 1e6),
                },
            )
        )
    return blocks


def thinking_blocks(thought: str, answer: Answer | None) -> list[Any]:
    """A thought as a block; none where there is no thought, or this version of LlamaIndex has no such block.

    Args:
        thought: as far as it has come.
        answer: the whole answer, once it is there; it knows how many tokens the thought took.
    """
    if _Thinking is None or not thought:
        return []
    return [_Thinking(content=thought, num_tokens=None if answer is None else answer.usage.thought_tokens)]


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
