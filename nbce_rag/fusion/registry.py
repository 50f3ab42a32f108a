"""Rules by name."""

from __future__ import annotations

from dataclasses import fields

from ..errors import InputError
from .base import FusionRule, Rule
from .experts import Experts
from .min_entropy import MinEntropy
from .pooling import Max, Mean
from .posterior import Posterior

__all__ = ["RULES", "resolve_rule"]

RULES: dict[str, type[FusionRule]] = {rule.name: rule for rule in (MinEntropy, Mean, Max, Experts, Posterior)}


def resolve_rule(rule: str | Rule, **numbers: float) -> Rule:
    """A rule by name with its numbers, or the instance given.

    Args:
        rule: one of `RULES`, or any object with a `fuse` method.
        **numbers: fields of the named rule, for instance beta=0.5.

    Raises:
        InputError: unknown name, unknown or impossible number, or an object that cannot fuse.
    """
    if isinstance(rule, str):
        if rule not in RULES:
            raise InputError(f"Unknown fusion rule {rule!r}; choose one of {', '.join(RULES)}.")
        known = {f.name for f in fields(RULES[rule])}  # type: ignore[arg-type]
        if unknown := sorted(set(numbers) - known):
            raise InputError(f"Rule {rule!r} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return RULES[rule](**numbers)
    if isinstance(rule, type) or not isinstance(rule, Rule):
        raise InputError(
            f"fusion={rule!r} is neither a rule's name ({', '.join(RULES)}) nor an object with a fuse method."
        )
    if numbers:
        raise InputError(
            f"fusion={rule!r} is a rule already; set {', '.join(sorted(numbers))} on it instead."
        )
    return rule
