"""Metadata of passages that JSON cannot hold stay here, and stand in what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from ..answers.answer import Answer
from ..answers.comparison import AnswerGroup, Comparison
from ..passages import Passage
from ..request import Request
from ..values import NotPlainError, plain

__all__ = ["sendable", "with_metadata"]

_T = TypeVar("_T")
_HOLDERS = (Answer, AnswerGroup, Comparison, Request)


def sendable(value: _T) -> _T:
    """A request or an answer whose passages have the metadata that JSON can hold; the model reads none."""

    def change(passage: Passage) -> Passage:
        metadata = _plain(passage.metadata)
        return passage if _same(metadata, passage.metadata) else replace(passage, metadata=metadata)

    return cast(_T, _changed(value, change))


def with_metadata(value: _T, requests: Sequence[Request]) -> _T:
    """What a server made of requests, with the metadata that the passages had here.

    Args:
        value: an answer, a comparison, or a list of passages.
        requests: what it was made of.
    """
    known = {(one.id, one.text): one.metadata for request in requests for one in _passages(request)}

    def change(passage: Passage) -> Passage:
        metadata = known.get((passage.id, passage.text), passage.metadata)
        return passage if _same(metadata, passage.metadata) else replace(passage, metadata=metadata)

    return cast(_T, _changed(value, change))


def _passages(request: Request) -> list[Passage]:
    return [*request.passages, *(one for part in request.parts for one in _passages(part))]


def _changed(value: Any, change: Callable[[Passage], Passage]) -> Any:
    """The same with each passage in it changed; itself if none is."""
    if isinstance(value, Passage):
        return change(value)
    if isinstance(value, tuple | list) and value and isinstance(value[0], (Passage, *_HOLDERS)):
        made = [_changed(one, change) for one in value]
        return value if all(one is old for one, old in zip(made, value, strict=True)) else type(value)(made)
    if not isinstance(value, _HOLDERS):
        return value
    pairs = ((field.name, getattr(value, field.name)) for field in fields(value) if field.init)
    changes = {name: new for name, old in pairs if (new := _changed(old, change)) is not old}
    return replace(value, **changes) if changes else value


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in metadata.items():
        try:
            made.update(plain({name: value}))
        except NotPlainError:  # it stays here
            continue
    return made


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays have no one answer to that
        return False
