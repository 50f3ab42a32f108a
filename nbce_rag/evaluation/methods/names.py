"""Methods by name, with numbers and layout: `concat`, `posterior(epsilon=0.1)`, `mean+joint`, `max+order`.

Importing this loads nothing heavy; parsing a name loads its rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...fusion.numbers import values_of
from ...fusion.registry import RULES
from .method import Layout, Method
from .peers import PEERS
from .plain import PLAIN, all_passages

if TYPE_CHECKING:
    from ...fusion import FusionRule

__all__ = ["GROUPS", "method_choices", "parse_method", "parse_methods"]

_JOINT = "+joint"
_ORDER = "+order"
_ONE_ROW = "+one-row"
_JOINED = re.compile(r"(.+)\+(parts|whole)=(\d{1,9})")
_SPEC = re.compile(r"([^()+]+)(?:\(([^()]*)\))?(\+joint|\+one-row)?(\+order)?")

# Rules of published papers as these have them: over one prompt of all passages, or with a row of it besides.
_AS_PUBLISHED = ("berag", "dvd+joint", "adacad+one-row", "acd+one-row", "ck-plug+one-row")

GROUPS: dict[str, tuple[str, ...]] = {
    "rules": tuple(RULES),
    "rules+joint": tuple(f"{name}{_JOINT}" for name in RULES),
    "peers": (*PEERS, *_AS_PUBLISHED),
    "all": tuple(
        dict.fromkeys((*PLAIN, *RULES, *(f"{name}{_JOINT}" for name in RULES), *PEERS, *_AS_PUBLISHED))
    ),
}
"""Names that stand for several methods."""


def method_choices() -> str:
    """What the names of methods can be, for messages and help."""
    return (
        f"{', '.join(PLAIN)}; a fusion rule ({', '.join(RULES)}) or a published peer's ({', '.join(PEERS)}), "
        f"which may have numbers, posterior(beta=0,alpha=0.5), and at the end {_JOINT} for a row of all "
        f"passages besides or {_ONE_ROW} for that row alone, and {_ORDER} for labels of their order; "
        f"+parts=4 after any joins four questions to one, which rules answer part by part, and with +whole=4 "
        f"at once; {', '.join(GROUPS)} stand for several"
    )


def parse_methods(names: str | Sequence[str]) -> list[Method]:
    """Methods by name, each once, in the order given.

    Args:
        names: a list, or one string with commas: `concat,posterior(beta=0,alpha=0.5),mean+joint`. With
            `+joint` one more row holds all passages, with `+one-row` the only one does, with `+order` "Part
            i of n" stands over each, which comes last. `+parts=4` behind it joins four questions to one with
            four parts, each of which is scored; a rule answers them part by part, and with `+whole=4` all at
            once, as the methods that are no rule do. `rules`, `rules+joint`, `peers` and `all` stand for
            several; of `peers`, rules that users may choose too stand in the layout of their papers.

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
    base, joint, one_row, order = spec[1], spec[3] == _JOINT, spec[3] == _ONE_ROW, spec[4] is not None
    numbers = _numbers(name, base, spec[2])
    if base in PLAIN:
        if joint or one_row or order:
            raise InputError(
                f"Method {name!r}: only a fusion rule can have {_JOINT} or {_ORDER} or {_ONE_ROW}; drop it."
            )
        return PLAIN[base].method(name, numbers)
    layout: Layout = "rows"
    options: dict[str, Any] = {}
    rule: FusionRule
    if base in PEERS:
        rule = peer = PEERS.make(base, **numbers)
        layout, options = peer.layout, dict(peer.options())
    else:
        rule = RULES.make(base, **numbers)
    parameters: dict[str, Any] = {"fusion": base, **values_of(rule), "joint_row": joint}
    if layout == "together" and (joint or one_row or order):
        raise InputError(
            f"Method {name!r}: {base} reads all passages in one row already; drop {_JOINT}, {_ONE_ROW} and "
            f"{_ORDER}."
        )
    if one_row:
        layout = parameters["layout"] = "together"
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
