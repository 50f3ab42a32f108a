"""Answers as LangChain has them: messages and generations with citations, usage and evidence."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import Citation, ContentBlock, create_citation

from nbce_rag.answers.answer import Answer

__all__ = ["PROVIDER", "citations", "response_metadata", "text_content", "usage_metadata"]

PROVIDER = "nbce"
_EXCERPT = 300


def citations(answer: Answer) -> list[Citation]:
    """The answer's citations in core's own type; `extras` has `passage_id` and `share`."""
    passages = {passage.id: passage for passage in reversed(answer.passages)}
    made = []
    for cited in answer.citations:
        passage = passages[cited.passage_id]
        text = passage.text if len(passage.text) <= _EXCERPT else f"{passage.text[:_EXCERPT]}…"
        optional = {"url": passage.source, "title": passage.title}
        made.append(
            create_citation(
                start_index=cited.start,
                end_index=cited.end,
                cited_text=text,
                **{name: value for name, value in optional.items() if value},
                passage_id=cited.passage_id,
                share=float(cited.share),
            )
        )
    return made


def usage_metadata(answer: Answer) -> UsageMetadata:
    """Tokens of all rows; the reused ones among them are `cache_read`. The answer counts once."""
    usage = answer.usage
    return UsageMetadata(
        input_tokens=int(usage.prompt_tokens),
        output_tokens=int(usage.generated_tokens),
        total_tokens=int(usage.prompt_tokens + usage.generated_tokens),
        input_token_details={"cache_read": int(usage.cached_tokens)},
    )


def response_metadata(answer: Answer, model: str) -> dict[str, Any]:
    """Plain types only; evidence and timings under "nbce"."""
    plain = answer.to_dict()
    contexts = []
    for index, (passage, given) in enumerate(zip(answer.passages, plain["passages"], strict=True)):
        weights = [token.weights[index] for token in answer.tokens if token.weights]
        contexts.append(
            {
                "index": index,
                "id": passage.id,
                "title": passage.title,
                "source": passage.source,
                "score": given["score"],
                "relevance": None if passage.relevance is None else float(passage.relevance),
                "weight": float(sum(weights) / len(weights)) if weights else None,
                "tokens_won": sum(token.passage == index for token in answer.tokens),
            }
        )
    return {
        "model_name": model,
        "model_provider": PROVIDER,
        "finish_reason": answer.finish_reason,
        "nbce": {
            "schema": 1,
            "fusion": answer.fusion,
            "contexts": contexts,
            "citations": [dict(citation) for citation in citations(answer)],
            "grounding": plain["grounding"],
            "finish_reason": answer.finish_reason,
            "row_tokens": plain["usage"]["row_tokens"],
            "timings": plain["timings"],
            "warnings": list(answer.warnings),
        },
    }


def text_content(text: str, answer: Answer) -> list[str | dict[str, Any]]:
    """Content of a v1 message: one text block with its annotations."""
    return [{"type": "text", "text": text, "annotations": [dict(citation) for citation in citations(answer)]}]


def _translate(message: AIMessage) -> list[ContentBlock]:
    """Blocks of a message with plain text, so that `content_blocks` has the citations there too."""
    if not isinstance(message.content, str):
        raise NotImplementedError  # core reads lists of blocks itself
    blocks: list[Any] = []
    if message.content:
        cited = message.response_metadata.get("nbce", {}).get("citations") or []
        block: dict[str, Any] = {"type": "text", "text": message.content}
        blocks.append({**block, "annotations": cited} if cited else block)
    blocks += [{**call, "type": "tool_call"} for call in message.tool_calls]
    blocks += [{**call, "type": "invalid_tool_call"} for call in message.invalid_tool_calls]
    return blocks


def _translate_chunk(message: AIMessageChunk) -> list[ContentBlock]:
    if message.tool_call_chunks and message.chunk_position != "last":
        raise NotImplementedError
    return _translate(message)


register_translator(PROVIDER, _translate, _translate_chunk)
