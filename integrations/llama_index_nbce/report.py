"""What an answer rests on, as plain JSON: the dict in `metadata["nbce"]`, and `CitationBlock`s."""

from __future__ import annotations

import math
from typing import Any

from llama_index.core.base.llms.types import CitationBlock, TextBlock

from nbce_rag.answers.answer import Answer

__all__ = ["VERSION", "citation_blocks", "describe", "plain"]

VERSION = 1
"""Changes when a key of the dict changes its meaning or goes."""


def describe(answer: Answer, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """An answer in plain JSON types.

    Returns:
        A dict of `version`, `text` (the answer), `fusion`, `rows` (passage rows and the one without),
        `contexts` (for each context that was read: `index` among those given,
        `node_id`, `title`, `score`, `relevance` in nats,
        `weight`, its mean evidence over the answer's tokens, and `tokens_won`, the tokens for which it
        led), `spans` (cited stretches of the answer: `start`, `end`, `node_id`, `context_index`,
        `weight`), `cited_node_ids` in order of first citation, `usage` in tokens, `timings` in seconds,
        `grounding` in nats a token, `finish_reason` and `warnings`.
    """
    n = max(1, len(answer.tokens))
    contexts = [
        {
            "index": int(passage.metadata.get("index", place)),
            "node_id": str(passage.metadata.get("source", passage.id)),
            "title": passage.title or "",
            "score": _finite(passage.score),
            "relevance": _finite(passage.relevance),
            "weight": sum(token.weights[place] for token in answer.tokens) / n,
            "tokens_won": sum(token.passage == place for token in answer.tokens),
        }
        for place, passage in enumerate(answer.passages)
    ]
    places = {passage.id: place for place, passage in enumerate(answer.passages)}
    spans = [
        {
            "start": citation.start,
            "end": citation.end,
            "node_id": contexts[places[citation.passage_id]]["node_id"],
            "context_index": contexts[places[citation.passage_id]]["index"],
            "weight": float(citation.share),
        }
        for citation in answer.citations
    ]
    told = answer.to_dict()
    return {
        "version": VERSION,
        "text": answer.text,
        "fusion": answer.fusion,
        "rows": len(answer.usage.row_tokens) - answer.usage.sentence_rows,
        "sentence_rows": answer.usage.sentence_rows,
        "contexts": contexts,
        "spans": spans,
        "cited_node_ids": list(dict.fromkeys(span["node_id"] for span in spans)),
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.generated_tokens,
            "total_tokens": answer.usage.prompt_tokens + answer.usage.generated_tokens,
            "cached_tokens": answer.usage.cached_tokens,
            "row_tokens": list(answer.usage.row_tokens),
        },
        "timings": told["timings"],
        "grounding": told["grounding"],
        "finish_reason": answer.finish_reason,
        "warnings": [*notes, *answer.warnings],
    }


def citation_blocks(answer: Answer) -> list[CitationBlock]:
    """One block for each cited stretch; `additional_location_info` says where it stands.

    LlamaIndex allows only whole numbers there: `context_index`, `response_start`, `response_end` in
    characters, and `weight_ppm`, the evidence in millionths.
    """
    passages = {passage.id: passage for passage in answer.passages}
    return [
        CitationBlock(
            cited_content=TextBlock(text=passages[citation.passage_id].text),
            source=str(passages[citation.passage_id].metadata.get("source", citation.passage_id)),
            title=passages[citation.passage_id].title or "",
            additional_location_info={
                "context_index": int(passages[citation.passage_id].metadata.get("index", 0)),
                "response_start": citation.start,
                "response_end": citation.end,
                "weight_ppm": round(citation.share * 1e6),
            },
        )
        for citation in answer.citations
    ]


def plain(value: Any) -> Any:
    """A value that JSON can hold; of a fusion rule its name."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return getattr(value, "name", None) or type(value).__name__


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
