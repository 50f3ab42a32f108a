"""Citations of the arguments of tool calls, whose text nobody gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages.content import Citation

__all__ = ["QUOTE", "argument_citations"]

QUOTE = ("quote_start", "quote_end", "source_start", "source_end", "page")
"""What the `extras` of a citation say of where its words stand in the passage."""

_KEYS = ("arguments", "parameters", "args")


def argument_citations(
    text: str, cited: Sequence[Citation], calls: Sequence[tuple[str | None, Mapping[str, Any]]]
) -> dict[str, dict[str, list[Citation]]]:
    """Citations of a text by the calls that were read out of it, and their arguments.

    Args:
        text: what the model wrote, with the calls as JSON.
        cited: its citations.
        calls: (id, arguments) of the calls, in their order.

    Returns:
        By the call's id and the argument's path, such as "people.0.name": citations whose `start_index` and
        `end_index` count in the value; of one that goes beyond the value `extras` say what is true of the
        part. A value that was written with escapes, or is no text, is cited as a whole. What is not cited is
        left out.
    """
    made: dict[str, dict[str, list[Citation]]] = {}
    place = 0
    for id_, arguments in calls:
        begun = [at for key in _KEYS if (at := _first(text, key, place)) >= 0]
        place = min(begun, default=place)  # the tool's own name is no argument
        for path, value in _leaves(arguments):
            begin, end = _span(text, path, value, place)
            if begin < 0:
                continue
            place = end
            is_literal = isinstance(value, str) and text[begin:end] == value
            size = len(value) if isinstance(value, str) else end - begin
            for one in cited:
                start, stop = max(one["start_index"], begin), min(one["end_index"], end)
                if start < stop:
                    span = (start - begin, stop - begin) if is_literal else (0, size)
                    is_whole = (start, stop) == (one["start_index"], one["end_index"])
                    part = one if is_whole else _part(one, text[start:stop])
                    moved = Citation(**{**part, "start_index": span[0], "end_index": span[1]})
                    made.setdefault(id_ or "", {}).setdefault(".".join(path), []).append(moved)
    return made


def _part(cited: Citation, text: str) -> Citation:
    """A citation of which only `text` is a value's: where that part is quoted is not known."""
    extras = {name: value for name, value in cited.get("extras", {}).items() if name not in QUOTE}
    if absent := [word for word in extras.pop("unsupported", ()) if word in text]:
        extras["unsupported"] = absent
    return Citation(**{**cited, "extras": extras})


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of all that is neither object nor list, as it stands in the text."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _leaves(member, (*path, str(name)))
    elif isinstance(value, (list, tuple)):
        for number, member in enumerate(value):
            yield from _leaves(member, (*path, str(number)))
    else:
        yield path, value


def _span(text: str, path: Sequence[str], value: Any, place: int) -> tuple[int, int]:
    """Where a value stands behind a place, without its quotes; (-1, -1) if it cannot be told."""
    if path and (named := _first(text, path[-1], place)) >= 0:
        place = named + len(path[-1])
    for written in (json.dumps(value, ensure_ascii=False), json.dumps(value)):
        if (begin := text.find(written, place)) >= 0:
            quote = isinstance(value, str)
            return begin + quote, begin + len(written) - quote
    return -1, -1


def _first(text: str, name: str, place: int) -> int:
    return text.find(json.dumps(name, ensure_ascii=False), place)
