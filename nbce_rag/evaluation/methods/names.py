"""Methods by name, with numbers and layout: `concat`, `posterior(epsilon=0.1)`, `mean+joint`, `max+order`.

Importing this loads nothing heavy; parsing a name loads its rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ...fusion.numbers import values_of
from ...fusion.registry import RULES
from .method import Layout, Method
from .peers import PEERS
from .plain import PLAIN, all_passages

__all__ = ["GROUPS", "method_choices", "parse_method", "parse_methods"]

_JOINT = "+joint"
_ORDER = "+order"
_JOINED = re.compile(r"(.+)\+(parts|whole)=(\d{1,9})")
_SPEC = re.compile(r"([^()+]+)(?:\(([^()]*)\))?(\+joint)?(\+order)?")

GROUPS: dict[str, tuple[str, ...]] = {
    "rules": tuple(RULES),
    "rules+joint": tuple(f"{name}{_JOINT}" for name in RULES),
    "peers": tuple(PEERS),
    "all": (*PLAIN, *RULES, *(f"{name}{_JOINT}" for name in RULES), *PEERS),
}
"""Names that stand for several methods."""


def method_choices() -> str:
    """What the names of methods can be, for messages and help."""
    return (
        f"{', '.join(PLAIN)}; a fusion rule ({', '.join(RULES)}) or a published peer's ({', '.join(PEERS)}), "
        f"which may have numbers, posterior(beta=0,alpha=0.5), and at the end {_JOINT} for a row of all "
        f"passages and {_ORDER} for labels of their order; +parts=4 after any joins four questions to one, "
        f"which rules answer part by part, and with +whole=4 at once; {', '.join(GROUPS)} stand for several"
    )


def parse_methods(names: str | Sequence[str]) -> list[Method]:
    """Methods by name, each once, in the order given.

    Args:
        names: a list, or one string with commas: `concat,posterior(beta=0,alpha=0.5),mean+joint`. With
            `+joint` one more row holds all passages, with `+order` "Part i of n" stands over each; a rule
            may have both, in this order. `+parts=4` behind it joins four questions to one with four parts,
            each of which is scored; a rule answers them part by part, and with `+whole=4` all at once, as
            the methods that are no rule do. `rules`, `rules+joint`, `peers` and `all` stand for several.

    Raises:
        InputError: no names, an unknown one, or impossible numbers.
    """
    parts = re.split(r",(?![^(]*\))", names) if isinstance(names, str) else list(names)
    methods: dict[str, Method] = {}
    for part in parts:
        name = re.sub(r"\s+", "", part)
        if name:
            methods |= {member: parse_method(member) for member in GROUPS.get(name, (name,))}
    if not methods:
        raise InputError(f"No methods are named; choose from {method_choices()}.")
    return list(methods.values())


def parse_method(name: str) -> Method:
    """One method by name; errors as in `parse_methods`."""
    if joined := _JOINED.fullmatch(name):
        return _joined(name, parse_method(joined[1]), joined[2] == "whole", int(joined[3]))
    spec = _SPEC.fullmatch(name)
    if spec is None or not any(spec[1] in kind for kind in (PLAIN, RULES, PEERS)):
        raise InputError(f"Unknown method {name!r}; choose from {method_choices()}.")
    base, joint, order = spec[1], spec[3] is not None, spec[4] is not None
    numbers = _numbers(name, base, spec[2])
    if base in PLAIN:
        if joint or order:
            raise InputError(f"Method {name!r}: only a fusion rule can have {_JOINT} or {_ORDER}; drop it.")
        return PLAIN[base].method(name, numbers)
    layout: Layout = "rows"
    options: dict[str, Any] = {}
    if base in PEERS:
        peer = PEERS.make(base, **numbers)
        layout, options = peer.layout, dict(peer.options())
    rule = peer if base in PEERS else RULES.make(base, **numbers)
    parameters: dict[str, Any] = {"fusion": base, **values_of(rule), "joint_row": joint}
    if layout == "together" and (joint or order):
        raise InputError(
            f"Method {name!r}: {base} reads all passages in one row already; drop {_JOINT} and {_ORDER}."
        )
    if order:
        options["order_labels"] = parameters["order_labels"] = True
    return Method(
        name,
        all_passages,
        rule,
        layout=layout,
        joint_row=joint,
        options=options,
        parameters=parameters,
    )


def _joined(name: str, method: Method, is_whole: bool, count: int) -> Method:
    if not 2 <= count <= 32:
        raise InputError(f"Method {name!r}: {count} questions cannot be joined; give a number from 2 to 32.")
    parts = method.layout == "rows" and not is_whole and method.name not in PLAIN
    return replace(
        method,
        name=name,
        joined=count,
        options={**method.options, "parts": parts},
        parameters={**method.parameters, "joined": count, "parts": parts},
    )


def _numbers(name: str, base: str, text: str | None) -> dict[str, float]:
    """What stands in the parentheses."""
    numbers: dict[str, float] = {}
    if text is None:
        return numbers
    for setting in text.split(","):
        key, equals, value = setting.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise InputError(
                f"Method {name!r}: {setting!r} is no number; write {base}(name=number,name=number)."
            )
        if key in numbers:
            raise InputError(f"Method {name!r}: {key} is given twice.")
        numbers[key] = number
    return numbers
