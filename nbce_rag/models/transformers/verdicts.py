"""Verdicts on models, kept in the user's cache folder, so that each is reached once.

A verdict is about code and a configuration; both are in its key, and so are our own sources.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from ...files import cache_dir, write_json
from .comparison import CONTEXTS

__all__ = ["Verdict", "read_verdict", "verdict_key", "write_verdict"]

_FREE = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model's rows give what whole passes give.

    Attributes:
        right: whether they do.
        at_once, in_step, first_position: how they are read then, as in `Layout`.
        banded: whether they may be kept in bands.
        errors: of each row that was compared (`comparison.row_errors`); empty where nothing came out.
        problem: what the model raised instead, or "".
    """

    right: bool
    at_once: bool = True
    in_step: bool = True
    first_position: int = 0
    banded: bool = False
    errors: Sequence[float] = ()
    problem: str = ""


def verdict_key(model: Any) -> str:
    """Changes with a model's class and configuration, the libraries and this package's sources."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _FREE}
    parts = [
        f"{type(model).__module__}.{type(model).__qualname__}",
        json.dumps(config, sort_keys=True, default=str),
        str(model.dtype),
        transformers.__version__,
        torch.__version__,
        _sources(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_verdict(key: str) -> Verdict | None:
    """The verdict under a key; None where there is none that can be read."""
    try:
        verdict = Verdict(**json.loads(_file(key).read_text("utf-8")))
        flags = (verdict.right, verdict.at_once, verdict.in_step, verdict.banded)
        is_whole = all(isinstance(flag, bool) for flag in flags) and type(verdict.first_position) is int
        return verdict if is_whole and (verdict.right or len(verdict.errors) == len(CONTEXTS)) else None
    except (OSError, ValueError, TypeError):
        return None


def write_verdict(key: str, verdict: Verdict) -> None:
    """Keep a verdict where that can be done; without it, the next one to load checks again."""
    with suppress(OSError, ValueError):
        write_json(_file(key), asdict(verdict), make_folder=True)


def _file(key: str) -> Path:
    return cache_dir() / "checks" / f"{key}.json"


@cache
def _sources() -> str:
    """Of what reads rows: this folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
