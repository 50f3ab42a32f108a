"""Rules by name. A rule that joins the package is named here, and wherever rules are named that follows.

Importing this loads no rule and no torch, so that the command line can name rules while it loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError
from .numbers import changed, ranges_of

if TYPE_CHECKING:
    from .base import FusionRule, Rule

__all__ = ["RULES", "RuleRegistry", "resolve_rule", "rule_fields"]


_R = TypeVar("_R", bound="FusionRule")


class RuleRegistry(Mapping[str, type[_R]]):
    """The classes of rules by the name of the rule, each loaded when it is first asked for.

    Args:
        package: where the modules are.
        homes: of each rule the module and the class, as "module.Class".
    """

    def __init__(self, package: str, homes: Mapping[str, str]) -> None:
        self._package = package
        self._homes = dict(homes)

    def __getitem__(self, name: str) -> type[_R]:
        module, _, kind = self._homes[name].rpartition(".")
        rule: type[_R] = getattr(import_module(f"{self._package}.{module}"), kind)
        return rule

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    @property
    def classes(self) -> dict[str, str]:
        """The module of each class, by the name of the class; nothing is loaded for it."""
        return {kind: module for module, _, kind in (home.rpartition(".") for home in self._homes.values())}

    def make(self, name: str, **numbers: float) -> _R:
        """A rule with its numbers; those that are left out are at their defaults.

        Raises:
            InputError: an unknown name, or an unknown or impossible number.
        """
        if name not in self:
            raise InputError(f"Unknown fusion rule {name!r}; choose one of {', '.join(self)}.")
        kind = self[name]
        if unknown := sorted(set(numbers) - set(ranges_of(kind))):
            raise InputError(
                f"Rule {name!r} has no {', '.join(unknown)}; it has {', '.join(sorted(ranges_of(kind)))}."
            )
        return kind(**numbers)


RULES: RuleRegistry[FusionRule] = RuleRegistry(
    "nbce_rag.fusion",
    {
        "min-entropy": "min_entropy.MinEntropy",
        "mean": "pooling.Mean",
        "max": "pooling.Max",
        "experts": "experts.Experts",
        "posterior": "posterior.Posterior",
        "berag": "berag.Berag",
        "dvd": "dvd.Dvd",
        "adacad": "adacad.AdaCad",
        "acd": "acd.Acd",
        "ck-plug": "ck_plug.CkPlug",
    },
)


def resolve_rule(rule: str | Rule, **numbers: float) -> Rule:
    """A rule by name with its numbers, or the instance given.

    Args:
        rule: one of `RULES`, or any object with a `fuse` method.
        **numbers: fields of the named rule, for instance beta=0.5.

    Raises:
        InputError: unknown name, unknown or impossible number, or an object that cannot fuse.
    """
    from .base import Rule

    if isinstance(rule, str):
        return RULES.make(rule, **numbers)
    if isinstance(rule, type) or not isinstance(rule, Rule):
        raise InputError(
            f"fusion={rule!r} is neither a rule's name ({', '.join(RULES)}) nor an object with a fuse method."
        )
    if numbers:
        raise InputError(
            f"fusion={rule!r} is a rule already; set {', '.join(sorted(numbers))} on it instead."
        )
    return rule


def rule_fields(rule: Rule) -> dict[str, Any] | None:
    """A rule in plain types, `resolve_rule(**rule_fields(rule))` being the same; None for one of the user's.

    Its name stands under "rule", beside the numbers that are not at their defaults.
    """
    name = getattr(rule, "name", None)
    if not isinstance(name, str) or name not in RULES or type(rule) is not RULES[name]:
        return None
    return {"rule": name, **changed(rule)}
