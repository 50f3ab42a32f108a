"""The methods that are no fusion rule: which passages they read, in which layout. Another one is a line here.

Importing this loads nothing heavy, so that the command line can name the methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...checks import Range
from ...errors import InputError
from ...fusion.registry import RULES
from .method import Choice, Layout, Method, Passages

__all__ = ["PLAIN", "Plain", "all_passages"]

_FACTOR = Range(1, 1024, note="or leave it out to stretch as far as each question needs")


@dataclass(frozen=True)
class Plain:
    """A method that is no fusion rule.

    Attributes:
        choose, layout, rope: as in `Method`.
        rule: the name of the fusion rule, which has little to fuse.
        numbers: those of the rule.
    """

    choose: Choice
    rule: str
    numbers: Mapping[str, float]
    layout: Layout = "rows"
    rope: Literal["", "dynamic", "yarn"] = ""

    def method(self, name: str, numbers: Mapping[str, float]) -> Method:
        """The method with numbers of the user's, which only one that stretches positions has.

        Raises:
            InputError: unknown or impossible numbers.
        """
        names = ("factor",) if self.rope else ()
        if unknown := sorted(set(numbers) - set(names)):
            has = f"it has {', '.join(names)}" if names else "it has no numbers"
            raise InputError(f"Method {name!r} has no {', '.join(unknown)}; {has}.")
        factor = numbers.get("factor", 0.0)
        if factor != 0:
            _FACTOR.check("factor", factor, f"Method {name!r}")
        parameters: dict[str, Any] = {"layout": self.layout}
        if self.rope:
            parameters |= {"rope": self.rope, "factor": factor or None}
        return Method(
            name,
            self.choose,
            RULES.make(self.rule, **self.numbers),
            layout=self.layout,
            rope=self.rope,
            factor=factor,
            parameters=parameters,
        )


def all_passages(passages: Passages, gold: Passages) -> Passages:
    """All that were retrieved, the best first."""
    return passages


def _worst_first(passages: Passages, gold: Passages) -> Passages:
    return list(reversed(passages))


def _best(passages: Passages, gold: Passages) -> Passages:
    return passages[:1]


def _gold(passages: Passages, gold: Passages) -> Passages:
    return gold


def _none(passages: Passages, gold: Passages) -> Passages:
    return ()


# One row is the model itself: no contrast with the row without a passage, no truncation.
_ONE_ROW = ("min-entropy", {"beta": 0.0, "eta": 0.0, "top_p": 1.0})
_ALONE = ("posterior", {"beta": 0.0, "focus": 0.0})
# No cutoff, so that log-probs of different passages compare.
_APART = ("posterior", {"beta": 0.0, "cutoff": 0.0, "focus": 0.0})

PLAIN: dict[str, Plain] = {
    "closed-book": Plain(_none, *_ALONE),
    "gold": Plain(_gold, *_ALONE, "together"),
    "top-1": Plain(_best, *_ALONE),
    "concat": Plain(all_passages, *_ONE_ROW, "together"),
    "concat-reversed": Plain(_worst_first, *_ONE_ROW, "together"),
    "concat-ntk": Plain(all_passages, *_ONE_ROW, "together", rope="dynamic"),
    "concat-yarn": Plain(all_passages, *_ONE_ROW, "together", rope="yarn"),
    "map-rerank": Plain(all_passages, *_APART, "apart"),
    "refine": Plain(all_passages, *_ALONE, "refine"),
}
