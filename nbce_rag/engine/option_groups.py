"""Which option is for what: one call of `Rag` takes options of its search and of its answer, told by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal

from ..errors import InputError

__all__ = ["Group", "by_group", "option_names"]

Group = Literal["search", "answer", "opening"]

_TAKERS: dict[Group, str] = {
    "search": "Rag.open, search, or any way of asking",
    "answer": "Rag.open or any way of asking",
    "opening": "Rag.open",
}


def by_group(options: Mapping[str, Any], *allowed: Group) -> dict[Group, dict[str, Any]]:
    """Options by what they are for.

    Args:
        options: Options by name.
        allowed: What they may be for.

    Raises:
        InputError: One of them is for something else, or unknown.
    """
    names = option_names()
    groups: dict[Group, dict[str, Any]] = {group: {} for group in allowed}
    for name, value in options.items():
        home = next((group for group, members in names.items() if name in members), None)
        if home is None:
            takers = "; ".join(f"{group}: {', '.join(names[group])}" for group in allowed)
            raise InputError(f"Unknown option {name}. There are, for the {takers}.")
        if home not in groups:
            raise InputError(f"{name} is an option of the {home}; give it to {_TAKERS[home]}.")
        groups[home][name] = value
    return groups


def option_names() -> dict[Group, list[str]]:
    """Names of all options: of a search, of an answer, and those that only opening takes. None is in two."""
    from ..index import PassageIndex
    from ..options import Options
    from .nbce import NBCE

    # `text` is the words of a query that is a vector, and a question is a text.
    search = _parameters([PassageIndex.search], without=("self", "query", "text"))
    answer = [field.name for field in fields(Options)]
    opening = _parameters(
        [NBCE.from_pretrained, PassageIndex.open], without=("path", "maintenance", *search, *answer)
    )
    return {"search": search, "answer": answer, "opening": opening}


def _parameters(functions: Iterable[Callable[..., Any]], without: Iterable[str]) -> list[str]:
    """Names of the functions' parameters, each once."""
    every = [p for function in functions for p in inspect.signature(function).parameters.values()]
    names = dict.fromkeys(p.name for p in every if p.kind is not p.VAR_KEYWORD)
    return [name for name in names if name not in set(without)]
