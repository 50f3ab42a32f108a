"""The passage: the unit that is indexed, retrieved, read by one row of the model, and cited."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError

__all__ = ["Passage"]

# 80 bits: among a million passages the chance of one accidental clash is below 1e-12.
_ID_HEX_DIGITS = 20


def _digest(*fields: str) -> str:
    """SHA-256 hex over fields with their lengths, so that no two lists of fields look alike."""
    sha = hashlib.sha256()
    for value in fields:
        # surrogatepass: a lone surrogate must not make a passage that cannot be hashed.
        data = value.encode("utf-8", "surrogatepass")
        sha.update(b"%d:" % len(data))
        sha.update(data)
    return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text with what is known about it. Immutable; `dataclasses.replace` makes changed copies.

    Attributes:
        text: What the model reads.
        id: Unique name in an index. Left empty it becomes a short hash of title, text, source and start:
            the same content from the same place gets the same id again, and the same text in two
            files gets two. `dataclasses.replace` keeps the id; pass `id=""` to have it made anew.
        title: Title of the document, if it has one.
        source: Path or URL that the text comes from.
        start: First character of the passage in the source's text, as the reader gave that text.
        end: One past the last character there: `source_text[start:end] == text`.
        metadata: Anything else, in JSON types only.
        score: Retrieval score, cosine in [-1, 1]; None when it was not retrieved.
        relevance: log p(question | passage) - log p(question | no passage), nats; set by the engine.
        rank: Place in the retrieval that found it, the best is 1; None when that is not known. It counts
            where there is no score.

    Raises:
        InputError: `text` or `id` is not a string.

    Example:
        >>> Passage("Water boils at 100 °C at sea level.", id="water").id
        'water'
    """

    text: str
    id: str = ""
    title: str | None = None
    source: str | None = None
    start: int | None = None
    end: int | None = None
    # Left out of the hash, because mappings have none: passages can be put into sets.
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    score: float | None = None
    relevance: float | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("text", self.text), ("id", self.id)):
            if not isinstance(value, str):
                raise InputError(
                    f"Passage {name} must be a string, got {type(value).__name__}: convert it with str()."
                )
        if not self.id:
            start = "" if self.start is None else str(self.start)
            digest = _digest(self.title or "", self.text, self.source or "", start)
            object.__setattr__(self, "id", digest[:_ID_HEX_DIGITS])

    @property
    def content_hash(self) -> str:
        """SHA-256 over title and text, 64 hex digits. A missing title counts as an empty one."""
        return _digest(self.title or "", self.text)
