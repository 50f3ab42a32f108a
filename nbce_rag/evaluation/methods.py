"""The ways of answering that are compared: same model, wording, stopping and passages.

A method says which passages an engine's requests read and how they are laid out in rows. Names:
`closed-book`, `gold`, `top-1`, `concat`, `concat-reversed`, `map-rerank`, each fusion rule, a rule with
numbers as in `posterior:beta=0,alpha=0.5`, and any rule with `+joint` at the end for a joint row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..answer import Answer
from ..errors import InputError
from ..fusion import RULES, MinEntropy, Posterior, Rule, resolve_rule
from ..passages import Passage

__all__ = ["NAMED", "Method", "mean_log_prob", "parse_method", "parse_methods"]

Passages = Sequence[Passage]
_JOINT = "+joint"


@dataclass(frozen=True)
class Method:
    """One way of answering.

    Attributes:
        name: as it was asked for.
        choose: (retrieved passages, gold passages) -> the passages that are read, in order.
        fusion: how rows become one distribution.
        together: all passages stand in one row.
        joint_row: one more row holds all passages.
        apart: every passage is asked by itself, and the answer that the model is surest of (the highest
            mean log-prob of its tokens) is the method's.
    """

    name: str
    choose: Callable[[Passages, Passages], Passages]
    fusion: Rule
    together: bool = False
    joint_row: bool = False
    apart: bool = False

    def requests(self, question: str, retrieved: Passages, gold: Passages) -> list[dict[str, Any]]:
        """Arguments of `NBCE.request`, one a passage for a method that asks apart, else one in all."""
        passages = list(self.choose(retrieved, gold))
        groups = [[passage] for passage in passages] if self.apart and passages else [passages]
        return [
            {
                "question": question,
                "passages": group,
                "fusion": self.fusion,
                "passages_per_row": max(1, len(group)) if self.together else 1,
                "joint_row": self.joint_row,
            }
            for group in groups
        ]

    def best(self, answers: Sequence[Answer]) -> int:
        """Index of the answer that the model is surest of, the first on a tie."""
        return max(range(len(answers)), key=lambda index: mean_log_prob(answers[index]))


def mean_log_prob(answer: Answer) -> float:
    """Nats a token; -inf for an answer that says nothing."""
    if not answer.tokens:
        return float("-inf")
    return sum(token.logprob for token in answer.tokens) / len(answer.tokens)


@dataclass(frozen=True)
class _Plain:
    choose: Callable[[Passages, Passages], Passages]
    options: Mapping[str, Any] = field(default_factory=dict)


def _retrieved(retrieved: Passages, gold: Passages) -> Passages:
    return retrieved


# One row is the model itself: no contrast with the row without a passage, no truncation.
_ONE_ROW = MinEntropy(beta=0.0, eta=0.0, top_p=1.0)
_ALONE = Posterior(beta=0.0)

NAMED: dict[str, _Plain] = {
    "closed-book": _Plain(lambda retrieved, gold: (), {"fusion": _ALONE}),
    "gold": _Plain(lambda retrieved, gold: gold, {"fusion": _ALONE, "together": True}),
    "top-1": _Plain(lambda retrieved, gold: retrieved[:1], {"fusion": _ALONE}),
    "concat": _Plain(_retrieved, {"fusion": _ONE_ROW, "together": True}),
    "concat-reversed": _Plain(
        lambda retrieved, gold: list(reversed(retrieved)), {"fusion": _ONE_ROW, "together": True}
    ),
    # No cutoff, so that log-probs of different passages compare.
    "map-rerank": _Plain(_retrieved, {"fusion": Posterior(beta=0.0, cutoff=0.0), "apart": True}),
}


def parse_methods(names: str | Sequence[str]) -> list[Method]:
    """Methods by name, each once, in the order given.

    Args:
        names: a list, or one string with commas: `concat,posterior:beta=0,alpha=0.5,mean+joint`. What has
            an equals sign and follows a rule with numbers belongs to that rule.

    Raises:
        InputError: no names, an unknown one, or impossible numbers.
    """
    parts: list[str] = []
    if isinstance(names, str):
        for part in names.split(","):
            if parts and ":" in parts[-1] and "=" in part and ":" not in part:
                parts[-1] += f",{part}"
            elif part.strip():
                parts.append(part)
    else:
        parts = list(names)
    unique = dict.fromkeys(re.sub(r"\s+", "", part) for part in parts)
    if not unique:
        raise InputError(f"No methods are named; choose from {_choices()}.")
    return [parse_method(name) for name in unique]


def parse_method(name: str) -> Method:
    """One method by name; errors as in `parse_methods`."""
    if name in NAMED:
        plain = NAMED[name]
        return Method(name, plain.choose, **plain.options)
    spec, joint = name.removesuffix(_JOINT), name.endswith(_JOINT)
    rule, colon, numbers = spec.partition(":")
    if rule.endswith(_JOINT) and not joint:
        rule, joint = rule.removesuffix(_JOINT), True
    if rule not in RULES:
        raise InputError(f"Unknown method {name!r}; choose from {_choices()}.")
    given: dict[str, float] = {}
    for setting in numbers.split(",") if colon else ():
        key, _, value = setting.partition("=")
        try:
            given[key] = float(value)
        except ValueError:
            raise InputError(
                f"Method {name!r}: {setting!r} is no number; write {rule}:name=number,name=number."
            ) from None
    return Method(name, _retrieved, resolve_rule(rule, **given), joint_row=joint)


def _choices() -> str:
    return f"{', '.join(NAMED)}, {', '.join(RULES)}; a rule may have numbers (posterior:beta=0) and +joint"
