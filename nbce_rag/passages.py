"""The passage: the unit that is indexed, retrieved, read by one row of the model, and cited."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import PurePath
from typing import Any

from .errors import InputError
from .values import mended, plain_text, shown

__all__ = ["Passage", "whole_text"]

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
        source: Path or URL that the text comes from; a `Path` becomes text with forward slashes.
        start: First character of the passage in the source's text, as the reader gave that text.
        end: One past the last character there: `source_text[start:end] == text`, but for the head of a table
            that goes before it (see `nbce_rag.documents.splitting.split_document`).
        metadata: Anything else. An index takes what `nbce_rag.values.plain` makes types of JSON of.
        score: Retrieval score, cosine in [-1, 1]; None when it was not retrieved, or was not finite.
        relevance: log p(question | passage) - log p(question | no passage), nats; set by the engine.
        rank: Place in the retrieval that found it, the best is 1; None when that is not known. It counts
            where there is no score.

    Raises:
        InputError: `text`, `id`, `title` or `source` is not a string, `start` or `end` no whole number,
            `metadata` no mapping, or `score` no number.

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
        if type(self.text) is not str or type(self.id) is not str:
            self._set("text", _text("text", self.text))
            self._set("id", _text("id", self.id))
        if self.title is not None and type(self.title) is not str:
            self._set("title", self._optional("title", self.title))
        if self.source is not None and type(self.source) is not str:
            self._set("source", self._source(self.source))
        if self.start is not None and type(self.start) is not int:
            self._set("start", self._place("start", self.start))
        if self.end is not None and type(self.end) is not int:
            self._set("end", self._place("end", self.end))
        if type(self.metadata) is not dict and not isinstance(self.metadata, Mapping):
            raise InputError(f"Passage metadata must be a mapping, got {shown(self.metadata)}: use a dict.")
        if self.score is not None and not (type(self.score) is float and math.isfinite(self.score)):
            self._set("score", _score(self.score))
        if not self.id:
            start = "" if self.start is None else str(self.start)
            digest = _digest(self.title or "", self.text, self.source or "", start)
            self._set("id", digest[:_ID_HEX_DIGITS])

    @property
    def content_hash(self) -> str:
        """SHA-256 over title and text, 64 hex digits. A missing title counts as an empty one."""
        return _digest(self.title or "", self.text)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _optional(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise InputError(f"Passage {shown(self.id)}: {name} must be str or None, got {shown(value)}.")
        return plain_text(value)

    def _source(self, value: object) -> str:
        return mended(value.as_posix()) if isinstance(value, PurePath) else self._optional("source", value)

    def _place(self, name: str, value: object) -> int:
        try:
            if not isinstance(value, bool):
                return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
        raise InputError(f"Passage {shown(self.id)}: {name} must be int or None, got {shown(value)}.")


def whole_text(passage: Passage) -> str:
    """A passage's title and, below it, its text: all of it in which words are looked for."""
    return f"{passage.title or ''}\n{passage.text}"


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(
            f"Passage {name} must be a string, got {type(value).__name__}: convert it with str()."
        )
    return plain_text(value)


def _score(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(
            f"Passage score must be a number or None, got {shown(value)}: leave it out where it is unknown."
        )
    return float(value) if math.isfinite(value) else None
