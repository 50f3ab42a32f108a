"""Does it help? Questions with known answers, put to every method over the same passages.

Importing this package loads nothing heavy; each name below loads what it needs when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Dataset": "data.dataset",
    "Question": "data.questions",
    "load_dataset": "data.dataset",
    "Method": "methods.method",
    "paired_differences": "metrics",
    "parse_methods": "methods.names",
    "evaluate": "runner",
    "rescore": "report",
}
__all__ = [
    "Dataset",
    "Method",
    "Question",
    "evaluate",
    "load_dataset",
    "paired_differences",
    "parse_methods",
    "rescore",
]

if TYPE_CHECKING:
    from .data.dataset import Dataset, load_dataset
    from .data.questions import Question
    from .methods.method import Method
    from .methods.names import parse_methods
    from .metrics import paired_differences
    from .report import rescore
    from .runner import evaluate


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
