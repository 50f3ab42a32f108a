"""Answers as LangChain has them: messages and generations with citations, usage and evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import Citation, ContentBlock

from nbce_rag import Answer, Passage, Piece, Report, citation_report

from .argument_citations import QUOTE, argument_citations
from .block_citations import cited_blocks, uncited_blocks

__all__ = [
    "ANNOTATIONS",
    "ARGUMENT_CITATIONS",
    "PROVIDER",
    "TEXT_PROVIDER",
    "citations",
    "cited_arguments",
    "llm_output",
    "piece_citations",
    "reasoning_kwargs",
    "response_metadata",
    "shown_citations",
    "text_content",
    "usage_metadata",
]

PROVIDER = "nbce"
TEXT_PROVIDER = "text_model_provider"
"""Of a message that another model wrote and this one cites: the `model_provider` that it had."""
ARGUMENT_CITATIONS = "argument_citations"
ANNOTATIONS = "annotations"
"""Of a message with plain text: its citations, as `content_blocks` have them."""
_EXCERPT = 300


def citations(report: Report | Mapping[str, Any]) -> list[Citation]:
    """A report's citations in core's own type; `extras` has `passage_id`, `share` and `verbatim`.

    Where it is word for word, `extras` also has `quote_start` and `quote_end` in the passage, and as far as
    they are known `source_start`, `source_end` and `page`. `page_label` is that of the document's metadata,
    and `unsupported` has the words of it that stand in none of the passages cited for it. `cited_text` is the
    passage; of a long one its beginning, or what stands around the quote.

    Core has one source to a citation. So a stretch that rests on several passages has one for each, over
    the same characters, the passage with the largest share first.

    Args:
        report: what `response_metadata["nbce"]` holds.
    """
    made = []
    supports = [(cited, support) for cited in report["citations"] for support in (cited, *cited["others"])]
    for cited, support in supports:
        context = report["contexts"][support["context_index"]]
        extras: dict[str, Any] = {name: support[name] for name in ("passage_id", "share", "verbatim")}
        quoted: Mapping[str, Any] = support
        extras |= {name: quoted[name] for name in QUOTE if quoted.get(name) is not None}
        if (label := context["metadata"].get("page_label")) is not None:
            extras["page_label"] = str(label)
        if absent := [w["text"] for w in report.get("unsupported", ()) if _is_inside(w, cited)]:
            extras["unsupported"] = absent
        citation = Citation(
            type="citation",
            start_index=cited["start"],
            end_index=cited["end"],
            cited_text=_excerpt(context["text"], support["quote_start"], support["quote_end"]),
            extras=extras,
        )
        if context["source"]:
            citation["url"] = context["source"]
        if context["title"]:
            citation["title"] = context["title"]
        made.append(citation)
    return made


def piece_citations(piece: Piece, passages: Sequence[Passage]) -> list[Citation]:
    """`citations` of those that are certain with a piece of a stream.

    Args:
        piece: the piece.
        passages: what was read.
    """
    if not piece.citations:
        return []
    contexts = [
        {"text": one.text, "title": one.title, "source": one.source, "metadata": one.metadata}
        for one in passages
    ]
    return citations({**citation_report(piece.citations, piece.unsupported, passages), "contexts": contexts})


def shown_citations(text: str, answer: Answer) -> list[Citation]:
    """`citations` of as much of an answer as is shown; the calls of tools behind it are not."""
    return [one for one in citations(answer.to_dict()) if one["end_index"] <= len(text)]


def _excerpt(text: str, start: int | None, end: int | None) -> str:
    """A passage, or `_EXCERPT` characters of it, its quote among them, with marks where it goes on."""
    if len(text) <= _EXCERPT:
        return text
    begin = 0
    if start is not None and end is not None and end > _EXCERPT:
        begin = min(max(0, start - max(0, _EXCERPT - (end - start)) // 2), len(text) - _EXCERPT)
    stop = begin + _EXCERPT
    return f"{'…' if begin else ''}{text[begin:stop]}{'…' if stop < len(text) else ''}"


def _is_inside(word: Mapping[str, Any], cited: Mapping[str, Any]) -> bool:
    return bool(cited["start"] <= word["start"] and word["end"] <= cited["end"])


def usage_metadata(answer: Answer) -> UsageMetadata:
    """Tokens of all rows; the reused ones among them are `cache_read`. Thought and answer count once."""
    usage = answer.usage
    metadata = UsageMetadata(
        input_tokens=int(usage.prompt_tokens),
        output_tokens=int(usage.generated_tokens),
        total_tokens=int(usage.prompt_tokens + usage.generated_tokens),
        input_token_details={"cache_read": int(usage.cached_tokens)},
    )
    if usage.thought_tokens:
        metadata["output_token_details"] = {"reasoning": int(usage.thought_tokens)}
    return metadata


def reasoning_kwargs(thought: str) -> dict[str, Any]:
    """A thought, or a piece of one, as `additional_kwargs`, where core finds it for a "reasoning" block."""
    return {"reasoning_content": thought} if thought else {}


def response_metadata(answer: Answer, model: str, *, logprobs: bool = False) -> dict[str, Any]:
    """Plain types only; under "nbce" the answer's report, which is what `nbce-rag ask --json` prints.

    Args:
        answer: the answer.
        model: name of the model.
        logprobs: whether "logprobs" has each token's, in the form of OpenAI's integration; with
            `top_logprobs` it has them in any case.
    """
    metadata = {
        "model_name": model,
        "model_provider": PROVIDER,
        "finish_reason": answer.finish_reason,
        "nbce": answer.to_dict(),
    }
    if logprobs or any(token.top for token in answer.tokens):
        content = [
            {
                "token": token.text,
                "bytes": list(token.text.encode()),
                "logprob": float(token.logprob),
                "top_logprobs": [
                    {"token": text, "bytes": list(text.encode()), "logprob": value}
                    for text, value in token.top
                ],
            }
            for token in answer.tokens
        ]
        metadata["logprobs"] = {"content": content}
    return metadata


def llm_output(answers: Sequence[Answer], model: str) -> dict[str, Any]:
    """What is said of several answers together; `finish_reason` is a list where they ended differently."""
    usage = [usage_metadata(answer) for answer in answers]
    reasons = [answer.finish_reason for answer in answers]
    return {
        "model_name": model,
        "token_usage": {
            name: sum(one[name] for one in usage)
            for name in ("input_tokens", "output_tokens", "total_tokens")
        },
        "finish_reason": reasons[0] if len(set(reasons)) == 1 else reasons,
    }


def cited_arguments(answer: Answer, calls: Sequence[tuple[str | None, Mapping[str, Any]]]) -> dict[str, Any]:
    """`argument_citations` of calls, given as (id, arguments), for a message's `response_metadata`."""
    if not calls:
        return {}
    report = answer.to_dict()
    cited = argument_citations(answer.text, citations(report), calls)
    return {ARGUMENT_CITATIONS: cited} if cited else {}


def text_content(text: str, cited: Sequence[Citation]) -> list[str | dict[str, Any]]:
    """Content of a v1 message: one text block with its annotations."""
    return [{"type": "text", "text": text, "annotations": [*cited]}]


def _translate_blocks(message: AIMessage) -> list[ContentBlock]:
    provider, report = (message.response_metadata.get(name) for name in (TEXT_PROVIDER, PROVIDER))
    if not provider or provider == PROVIDER or not report:
        raise NotImplementedError  # core reads lists of blocks itself
    metadata = {**message.response_metadata, "model_provider": provider}
    content = uncited_blocks(message.content)
    blocks = message.model_copy(update={"content": content, "response_metadata": metadata}).content_blocks
    return cast(list[ContentBlock], cited_blocks(blocks, citations(report)))


def _translate(message: AIMessage) -> list[ContentBlock]:
    """Blocks of a message with plain text, so that `content_blocks` has the citations there too.

    Those of a list that another model wrote are read by its provider's translator, and cited anew behind it,
    since most translators drop annotations that are not their provider's.
    """
    if not isinstance(message.content, str):
        return _translate_blocks(message)
    blocks: list[Any] = []
    if thought := message.additional_kwargs.get("reasoning_content"):
        blocks.append({"type": "reasoning", "reasoning": thought})
    if message.content:
        cited = _annotations(message.content, message)
        block: dict[str, Any] = {"type": "text", "text": message.content}
        blocks.append({**block, "annotations": cited} if cited else block)
    cited_calls = message.response_metadata.get(ARGUMENT_CITATIONS, {})
    for call in message.tool_calls:
        of_call = cited_calls.get(call["id"])
        extras = {"extras": {"citations": of_call}} if of_call else {}
        blocks.append({**call, "type": "tool_call", **extras})
    blocks += [{**call, "type": "invalid_tool_call"} for call in message.invalid_tool_calls]
    return blocks


def _translate_chunk(message: AIMessageChunk) -> list[ContentBlock]:
    if message.tool_call_chunks and message.chunk_position != "last":
        raise NotImplementedError
    blocks = _translate(message)
    if not blocks and (cited := message.response_metadata.get(ANNOTATIONS)):
        # Their text came before.
        block: dict[str, Any] = {"type": "text", "text": "", "annotations": cited}
        blocks.append(cast(ContentBlock, block))
    return blocks


def _annotations(text: str, message: AIMessage) -> list[Citation]:
    """What is cited of a message with plain text, or of as much of it as has come."""
    cited: list[Citation] | None = message.response_metadata.get(ANNOTATIONS)
    report = message.response_metadata.get("nbce")
    if cited is None and report:  # of another model's text
        return [one for one in citations(report) if one["end_index"] <= len(text)]
    return cited or []


register_translator(PROVIDER, _translate, _translate_chunk)
