"""Documents that come with a request, in the forms that clients send them in, as passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InputError
from ...passages import Passage
from .errors import bad_field

__all__ = ["passage_of", "passages_of"]

_TEXTS = ("text", "snippet", "content", "page_content")
_OWN = ("id", "title", "url", "source", "score", "start", "end", "metadata", "data", *_TEXTS)


def passages_of(documents: Sequence[Any], param: str = "documents") -> tuple[Passage, ...]:
    """Documents as passages, in their order.

    Args:
        documents: texts; `{"id", "text", "title", "url" or "source", "score", "metadata"}`; or Cohere's
            `{"id", "data": {"text" (or "snippet", "content"), "title", ...}}`. Other members are metadata.
        param: the field they came in, for errors.

    Raises:
        ServerError: one of them has no text, or a field of a wrong kind.
    """
    return tuple(passage_of(document, f"{param}.{place}") for place, document in enumerate(documents))


def passage_of(document: Any, param: str) -> Passage:
    """A document as a passage; errors as in `passages_of`."""
    if isinstance(document, str):
        return Passage(document)
    if not isinstance(document, Mapping):
        raise bad_field(param, f"{param} must be a text or an object, got {type(document).__name__}.")
    data = document.get("data")
    if isinstance(data, str):
        data = {"text": data}
    fields = {**data, **document} if isinstance(data, Mapping) else dict(document)
    text = next((fields[name] for name in _TEXTS if isinstance(fields.get(name), str)), None)
    if text is None:
        raise bad_field(
            param,
            f"{param} has no text; put it into 'text', or into 'data': {{'text': ...}} as Cohere does.",
        )
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise bad_field(f"{param}.metadata", f"{param}.metadata must be an object.")
    others = {name: value for name, value in fields.items() if name not in _OWN}
    try:
        return Passage(
            text,
            id=_text(fields.get("id")),
            title=fields.get("title"),
            source=fields.get("url") or fields.get("source"),
            start=fields.get("start"),
            end=fields.get("end"),
            metadata={**others, **metadata},
            score=fields.get("score"),
        )
    except InputError as error:
        raise bad_field(param, f"{param}: {error}") from error


def _text(value: Any) -> Any:
    """An id; a number is taken for one too, as several clients number their documents."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
