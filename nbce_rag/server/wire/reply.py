"""What a reply says beside its answer, and the one `nbce` object that all wires carry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...answers.answer import Answer
from ...evidence.evidence import Citation, TokenEvidence
from ...evidence.quote import page_of
from ...evidence.unsupported import UnsupportedWords
from ...passages import Passage
from ..ask import Outcome, Retrieved
from ..links import Links

__all__ = [
    "ReplyInfo",
    "citation_item",
    "finish_reason",
    "finite",
    "nbce_object",
    "passage_item",
    "token_item",
    "unsupported_item",
    "usage",
]

_EXCLUDED = -9999.0  # a log-prob of minus infinity, which JSON has no word for


@dataclass(frozen=True, slots=True)
class ReplyInfo:
    """Of one reply: its id, the time of it in seconds since 1970, names of model and request, and links."""

    id: str
    created: int
    model: str
    request_id: str
    links: Links


def nbce_object(outcome: Outcome, info: ReplyInfo, *, tokens: bool = False) -> dict[str, Any]:
    """The report of an answer (`nbce_rag.answers.report`) with what only a server knows.

    Beside the report's own keys: `request_id`, `query` (what was searched for), `abstained`, `passages` (of
    each of `contexts`, in their order: `id`, `index`, the name of the index it was found in or null, and
    `url`, under which a browser shows it), and, if they are wanted, `tokens`.
    """
    answer, retrieved = outcome.answer, outcome.retrieved
    report: dict[str, Any] = {**answer.to_dict()}
    report["warnings"] = [*report["warnings"], *(n for n in outcome.notes if n not in report["warnings"])]
    report |= {
        "request_id": info.request_id,
        "query": retrieved.query,
        "abstained": answer.finish_reason == "no_evidence",
        "passages": [
            {
                "id": passage.id,
                "index": retrieved.home(passage).index,
                "url": info.links.source(passage, retrieved.home(passage)),
            }
            for passage in answer.passages
        ],
    }
    if tokens:
        report["tokens"] = [token_item(token) for token in answer.tokens]
    return report


def passage_item(passage: Passage, retrieved: Retrieved, info: ReplyInfo) -> dict[str, Any]:
    """A passage as it was retrieved."""
    home = retrieved.home(passage)
    return {
        "id": passage.id,
        "index": home.index,
        "title": passage.title,
        "source": passage.source,
        "url": info.links.source(passage, home),
        "start": passage.start,
        "end": passage.end,
        "page": page_of(passage),
        "score": passage.score,
        "text": passage.text,
        "metadata": {name: value for name, value in passage.metadata.items() if not name.startswith("_")},
    }


def token_item(token: TokenEvidence) -> dict[str, Any]:
    """A token with its evidence; `weights` are in the order of the passages that were retrieved."""
    return {
        "text": token.text,
        "start": token.start,
        "end": token.end,
        "weights": list(token.weights),
        "gain": finite(token.gain, 0.0),
        "logprob": finite(token.logprob),
    }


def citation_item(citation: Citation) -> dict[str, Any]:
    """A citation as it becomes certain; the report says more of it at the end."""
    return {
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "supports": [
            {
                "context_index": support.passage,
                "passage_id": support.passage_id,
                "share": finite(support.share, 0.0),
                "verbatim": support.verbatim,
                "quote_start": support.quote_start,
                "quote_end": support.quote_end,
            }
            for support in citation.supports
        ],
    }


def unsupported_item(word: UnsupportedWords) -> dict[str, Any]:
    """A word of a citation that stands in no passage cited there, as the report has it."""
    return {"start": word.start, "end": word.end, "text": word.text, "context_index": word.passage}


def finite(value: float, otherwise: float = _EXCLUDED) -> float:
    """A number that JSON has."""
    return float(value) if math.isfinite(value) else otherwise


def finish_reason(answer: Answer, *, calls: bool = False) -> str:
    """Why it ended, in OpenAI's words: an abstention is a `stop`."""
    if calls:
        return "tool_calls"
    return "length" if answer.finish_reason == "length" else "stop"


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens in OpenAI's form; prompt tokens are those of all rows, cached ones were not computed anew."""
    counts = answer.usage
    return {
        "prompt_tokens": int(counts.prompt_tokens),
        "completion_tokens": int(counts.generated_tokens),
        "total_tokens": int(counts.prompt_tokens + counts.generated_tokens),
        "prompt_tokens_details": {"cached_tokens": int(counts.cached_tokens), "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": int(counts.thought_tokens), "audio_tokens": 0},
    }
