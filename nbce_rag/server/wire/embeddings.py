"""/v1/embeddings: vectors of an index's embedder."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...values import mended
from .errors import bad_field

__all__ = ["EmbeddingBody", "embedding_reply", "texts_of"]

_MOST = 2048  # texts, as many as OpenAI takes


class EmbeddingBody(BaseModel):
    """Texts to embed."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        json_schema_extra={"examples": [{"model": "nbce", "input": ["Who runs the ferry?", "Ada runs it."]}]},
    )

    model: str = Field(
        description="`nbce-<index>`, whose embedder is used; `nbce` where all indexes have the same."
    )
    input: str | list[Any] = Field(min_length=1, description="A text, or several.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Nothing but the embedder's own number.")
    input_type: Literal["query", "passage"] = Field(
        "passage", description="Some embedders make other vectors of questions."
    )


def texts_of(body: EmbeddingBody) -> list[str]:
    """The texts, with U+FFFD for halves of surrogate pairs.

    Raises:
        ServerError: an empty text, token ids, or too many.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise bad_field(
                f"input.{place}", "input must be texts; token ids belong to another model's tokenizer."
            )
        if not text.strip():
            raise bad_field(f"input.{place}", f"input.{place} is empty.")
    if len(texts) > _MOST:
        raise bad_field("input", f"input has {len(texts)} texts; {_MOST} are the most.")
    return list(map(mended, texts))  # tokenizers fail at half a surrogate pair


def embedding_reply(vectors: Sequence[Sequence[float]], body: EmbeddingBody, tokens: int) -> dict[str, Any]:
    """The vectors, each of length 1; in base64 they are float32, the lowest byte first.

    Raises:
        ServerError: other `dimensions` than the embedder's.
    """
    width = len(vectors[0])
    if body.dimensions not in (None, width):
        raise bad_field(
            "dimensions", f"dimensions={body.dimensions} is not possible; the embedder has {width}."
        )
    is_text = body.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": place,
            "embedding": _base64(vector) if is_text else [float(value) for value in vector],
        }
        for place, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
