"""Log-probabilities of tokens in OpenAI's forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...evidence.evidence import TokenEvidence
from .reply import finite

__all__ = ["completion_logprobs", "token_logprobs"]


def token_logprobs(tokens: Sequence[TokenEvidence]) -> list[dict[str, Any]]:
    """Of each token its text, bytes and log-prob in nats, and the most probable ones at its place."""
    return [
        {
            **_one(token.text, token.logprob),
            "top_logprobs": [_one(text, value) for text, value in token.top],
        }
        for token in tokens
    ]


def completion_logprobs(tokens: Sequence[TokenEvidence]) -> dict[str, Any]:
    """The same as /v1/completions has it; offsets count code points of the text."""
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [{text: finite(value) for text, value in token.top} for token in tokens],
        "text_offset": [token.start for token in tokens],
    }


def _one(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "bytes": list(text.encode("utf-8", "replace")), "logprob": finite(value)}
