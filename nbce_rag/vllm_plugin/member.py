"""One row of a group as vLLM sees it: a request of its own, whose arguments say what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from .. import __version__
from ..fusion import RULES
from ..models.vllm.wire import GROUP, HELLO, ROWS, SPEC, GroupSpec, Hello
from .host import is_off, vllm_version

__all__ = ["ROW", "Member", "check_params", "member_of"]

ROW = "nbce_row"
"""Name of the row's number within `extra_args`, where the scheduler writes it for the worker."""

# Of vLLM's own ways to change logits or draw: at what each leaves them alone.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "temperature": (0, 0.0),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "repetition_penalty": (1, 1.0),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logit_bias": (None, {}),
    "bad_words": (None, []),
    "allowed_token_ids": (None, []),
    "structured_outputs": (None,),
    "prompt_logprobs": (None,),
    "ignore_eos": (True,),
}


@dataclass(frozen=True, slots=True)
class Member:
    """A row of a group.

    Attributes:
        group: id of the group.
        row: which row it is, from 0; None until the scheduler says so.
        spec: what the group is asked, the same in all rows.
    """

    group: str
    row: int | None
    spec: GroupSpec


def member_of(arguments: Mapping[str, Any] | None) -> Member | None:
    """The row that a request is, by its `extra_args`; None for one of nobody's.

    Raises:
        ValueError: the arguments are none of this version.
    """
    if not arguments or GROUP not in arguments:
        return None
    spec = _spec_of(str(arguments.get(SPEC, "")))
    rows, row = arguments.get(ROWS), arguments.get(ROW)
    if rows != spec.rows:
        raise ValueError(f"{ROWS}={rows!r} and the group's {spec.rows} rows differ.")
    if row is not None and not 0 <= int(row) < spec.rows:
        raise ValueError(f"{ROW}={row!r} is not within the group's {spec.rows} rows.")
    return Member(str(arguments[GROUP]), None if row is None else int(row), spec)


def check_params(params: Any) -> None:
    """Look at a request before vLLM takes it; those that are none of ours pass.

    Args:
        params: vLLM's `SamplingParams`.

    Raises:
        ValueError: what a row may not ask for, or the answer to `HELLO`; vLLM refuses the request with it.
    """
    arguments: Mapping[str, Any] = params.extra_args or {}
    if HELLO in arguments:
        raise ValueError(_hello().dumps())
    member = member_of(arguments)
    if member is None:
        return
    if is_off():
        raise ValueError("This server answers no groups: it was started with NBCE_VLLM=off.")
    spec = member.spec
    _ = spec.options  # raises for a rule or a number that there is not
    for name, neutral in _NEUTRAL.items():
        value = getattr(params, name, neutral[0])
        if value not in neutral:
            raise ValueError(
                f"{name}={value!r} is not for rows of a group, which choose their token together; leave it "
                f"at {neutral[0]!r}."
            )
    if missing := {spec.poison, *spec.eos} - set(params.stop_token_ids or ()):
        raise ValueError(f"stop_token_ids lacks {sorted(missing)}, at which the rows of this group end.")
    if (params.logprobs or 0) < spec.shape.logprobs:
        raise ValueError(
            f"logprobs={params.logprobs!r} must be {spec.shape.logprobs} for all of a step to come."
        )
    if (spec.json_schema or spec.regex) and not _has_grammar():
        raise ValueError(
            "json_schema and regex need llguidance in vLLM's environment: pip install llguidance"
        )


@lru_cache(maxsize=256)
def _spec_of(text: str) -> GroupSpec:
    """All rows of a group have the same text."""
    return GroupSpec.loads(text)


def _hello() -> Hello:
    return Hello(
        package=__version__, vllm=vllm_version(), rules=tuple(RULES), grammar=_has_grammar() and not is_off()
    )


def _has_grammar() -> bool:
    return find_spec("llguidance") is not None
