"""Methods by name, with numbers and layout: `concat`, `posterior(epsilon=0.1)`, `mean+joint`, `max+order`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, cast

from ...errors import InputError
from ...fusion import RULES, MinEntropy, Posterior, Rule, resolve_rule
from .method import Method, Passages
from .peers import PEERS, Cad, RobustRag, peer

__all__ = ["GROUPS", "NAMED", "parse_method", "parse_methods"]

_JOINT = "+joint"
_ORDER = "+order"
_SPEC = re.compile(r"([^()+]+)(?:\(([^()]*)\))?(\+joint)?(\+order)?")


def _retrieved(retrieved: Passages, gold: Passages) -> Passages:
    return retrieved


def _reversed(retrieved: Passages, gold: Passages) -> Passages:
    return list(reversed(retrieved))


def _first(retrieved: Passages, gold: Passages) -> Passages:
    return retrieved[:1]


def _gold(retrieved: Passages, gold: Passages) -> Passages:
    return gold


def _none(retrieved: Passages, gold: Passages) -> Passages:
    return ()


# One row is the model itself: no contrast with the row without a passage, no truncation.
_ONE_ROW = MinEntropy(beta=0.0, eta=0.0, top_p=1.0)
_ALONE = Posterior(beta=0.0, focus=0.0)

NAMED: dict[str, Method] = {
    method.name: method
    for method in (
        Method("closed-book", _none, _ALONE),
        Method("gold", _gold, _ALONE, "together"),
        Method("top-1", _first, _ALONE),
        Method("concat", _retrieved, _ONE_ROW, "together"),
        Method("concat-reversed", _reversed, _ONE_ROW, "together"),
        Method("concat-ntk", _retrieved, _ONE_ROW, "together", rope="dynamic"),
        Method("concat-yarn", _retrieved, _ONE_ROW, "together", rope="yarn"),
        # No cutoff, so that log-probs of different passages compare.
        Method("map-rerank", _retrieved, Posterior(beta=0.0, cutoff=0.0, focus=0.0), "apart"),
        Method("refine", _retrieved, _ALONE, "refine"),
    )
}

GROUPS: dict[str, tuple[str, ...]] = {
    "rules": tuple(RULES),
    "rules+joint": tuple(f"{name}{_JOINT}" for name in RULES),
    "peers": tuple(PEERS),
    "all": (*NAMED, *RULES, *(f"{name}{_JOINT}" for name in RULES), *PEERS),
}


def parse_methods(names: str | Sequence[str]) -> list[Method]:
    """Methods by name, each once, in the order given.

    Args:
        names: a list, or one string with commas: `concat,posterior(beta=0,alpha=0.5),mean+joint`. With
            `+joint` one more row holds all passages, with `+order` "Part i of n" stands over each; a rule
            may have both, in this order. `rules`, `rules+joint`, `peers` and `all` stand for several.

    Raises:
        InputError: no names, an unknown one, or impossible numbers.
    """
    parts = re.split(r",(?![^(]*\))", names) if isinstance(names, str) else list(names)
    found: dict[str, Method] = {}
    for part in parts:
        name = re.sub(r"\s+", "", part)
        if name:
            methods = [parse_method(each) for each in GROUPS.get(name, (name,))]
            found |= {method.name: method for method in methods}
    if not found:
        raise InputError(f"No methods are named; choose from {_choices()}.")
    return list(found.values())


def parse_method(name: str) -> Method:
    """One method by name; errors as in `parse_methods`."""
    spec = _SPEC.fullmatch(name)
    known = spec is not None and (spec[1] in NAMED or spec[1] in RULES or spec[1] in PEERS)
    if spec is None or not known:
        raise InputError(f"Unknown method {name!r}; choose from {_choices()}.")
    base, joint, order = spec[1], spec[3] is not None, spec[4] is not None
    numbers = _numbers(name, base, spec[2])
    if base in NAMED:
        if joint or order:
            raise InputError(f"Method {name!r}: only a fusion rule can have {_JOINT} or {_ORDER}; drop it.")
        return _named(name, NAMED[base], numbers)
    rule = resolve_rule(base, **numbers) if base in RULES else peer(base, **numbers)
    labels = {"order_labels": True} if order else {}
    parameters = {"fusion": base, **_fields(rule), "joint_row": joint, **labels}
    if isinstance(rule, Cad):
        if joint or order:
            raise InputError(
                f"Method {name!r}: cad reads all passages in one row already; drop {_JOINT} and {_ORDER}."
            )
        return Method(name, _retrieved, rule, "together", parameters=parameters)
    # All rows that are dropped refuse, and then so does the answer.
    threshold = {"refusal_threshold": rule.gamma} if isinstance(rule, RobustRag) else {}
    options = {**threshold, **labels}
    return Method(name, _retrieved, rule, joint_row=joint, options=options, parameters=parameters)


def _named(name: str, plain: Method, numbers: Mapping[str, float]) -> Method:
    settable = ("factor",) if plain.rope else ()
    if unknown := sorted(set(numbers) - set(settable)):
        has = f"it has {', '.join(settable)}" if settable else "it has no numbers"
        raise InputError(f"Method {name!r} has no {', '.join(unknown)}; {has}.")
    factor = numbers.get("factor", 0.0)
    if factor != 0 and not 1 <= factor <= 1024:
        raise InputError(
            f"Method {name!r}: factor={factor:g} is out of range; give 1 to 1024, or leave it out to stretch "
            "as far as each question needs."
        )
    parameters: dict[str, Any] = {"layout": plain.layout}
    if plain.rope:
        parameters |= {"rope": plain.rope, "factor": factor or None}
    fields = {"layout": plain.layout, "rope": plain.rope, "factor": factor, "parameters": parameters}
    return Method(name, plain.choose, plain.fusion, **cast(dict[str, Any], fields))


def _numbers(name: str, base: str, text: str | None) -> dict[str, float]:
    """What stands in the parentheses."""
    found: dict[str, float] = {}
    if text is None:
        return found
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
        if key in found:
            raise InputError(f"Method {name!r}: {key} is given twice.")
        found[key] = number
    return found


def _fields(rule: Rule) -> dict[str, Any]:
    fields: Callable[[Any], dict[str, Any]] = asdict
    return fields(rule) if is_dataclass(rule) else {}


def _choices() -> str:
    return (
        f"{', '.join((*NAMED, *RULES, *PEERS))}; a rule may have numbers, posterior(beta=0), and {_JOINT} "
        f"or {_ORDER} at the end; {', '.join(GROUPS)} stand for several"
    )
