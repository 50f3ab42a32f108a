"""The exceptions that nbce-rag raises: one tree, so that `except NbceError` catches them all.

Every message names the value that was wrong and the way out. Each kind also derives from the
built-in exception that a Python user would expect, so that generic handlers keep working. Warnings are
of one kind, and point at the line of the user's that they are about.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

__all__ = [
    "AnswerTimeoutError",
    "ContextLengthError",
    "EmbedderMismatchError",
    "IndexDamagedError",
    "IndexLockedError",
    "IndexNotFoundError",
    "InputError",
    "InputTypeError",
    "MissingDependencyError",
    "ModelError",
    "NbceError",
    "NbceWarning",
    "NumericalError",
    "PassageIndexError",
    "ReadError",
    "RemoteError",
    "StreamError",
    "UnsupportedError",
    "remembered_caller",
    "warn",
]

# contextlib, because a block of ours is entered and left from there.
_PACKAGES = ("nbce_rag", "langchain_nbce", "llama_index_nbce", "contextlib")


class NbceError(Exception):
    """Base of everything that nbce-rag raises on purpose."""


class InputError(NbceError, ValueError):
    """An argument has a value that cannot be used: an empty question, an unknown option, k = 0."""


class InputTypeError(InputError, TypeError):
    """An argument is of a kind that cannot be used: a number where texts are compared, a model
    that cannot hold passages."""


class UnsupportedError(InputError, NotImplementedError):
    """Something that a framework can be asked for and nbce-rag does not do: another mode of search."""


class ContextLengthError(InputError):
    """The question, the choices or the answer asked for do not fit into the model's window."""


class AnswerTimeoutError(NbceError, TimeoutError):
    """An answer took longer than its caller wants to wait."""


class ReadError(NbceError, OSError):
    """A file cannot be read or holds no text. Names the file."""


class ModelError(NbceError, RuntimeError):
    """A model cannot be found, loaded, or used for lock-step decoding."""


class NumericalError(ModelError, ArithmeticError):
    """The model produced NaN instead of probabilities."""


class StreamError(NbceError, RuntimeError):
    """A stream of pieces ended without an answer: it was broken off, or not handed on whole."""


class RemoteError(NbceError, ConnectionError):
    """A server of nbce-rag, or of vLLM, cannot be reached, refuses, or answers something else.

    Attributes:
        is_passing: whether the same may work a little later.
    """

    is_passing = False


class MissingDependencyError(NbceError, ImportError):
    """An optional package is needed. Names the extra that installs it."""


class PassageIndexError(NbceError, RuntimeError):
    """A passage index cannot do what was asked. Base of the kinds below."""


class IndexNotFoundError(PassageIndexError, FileNotFoundError):
    """There is no passage index at the given path."""


class IndexLockedError(PassageIndexError):
    """Another process is writing to the passage index."""


class IndexDamagedError(PassageIndexError):
    """The passage index holds data that cannot be trusted and cannot be rebuilt."""


class EmbedderMismatchError(PassageIndexError, ValueError):
    """The index was made with another embedder than the one given."""


class NbceWarning(UserWarning):
    """Something was done that the caller may not expect: no passages, a passage split into windows."""


def warn(message: str) -> None:
    """Issues an `NbceWarning` that points at the line outside these packages that led to it.

    However deep in here it comes from, the user sees a line that they can change, and Python, which shows
    each warning once a line, shows it for every such line. In a worker thread that is the line of
    `remembered_caller`.
    """
    frame = _caller(sys._getframe(1))
    place = (frame.f_code.co_filename, frame.f_lineno, frame.f_globals)
    if frame.f_globals.get("__name__", "").startswith(_THREADS):
        place = _remembered.get() or place
    filename, line, names = place
    warnings.warn_explicit(
        message,
        NbceWarning,
        filename=filename,
        lineno=line,
        module=names.get("__name__", ""),
        registry=names.setdefault("__warningregistry__", {}),
    )


@contextmanager
def remembered_caller() -> Iterator[None]:
    """Work that is handed to a thread within this warns as if it were done here."""
    frame = _caller(sys._getframe(2))
    token = _remembered.set((frame.f_code.co_filename, frame.f_lineno, frame.f_globals))
    try:
        yield
    finally:
        _remembered.reset(token)


_THREADS = ("concurrent.futures", "threading")
_remembered: ContextVar[tuple[str, int, dict[str, Any]] | None] = ContextVar("remembered", default=None)


def _caller(frame: FrameType) -> FrameType:
    """The nearest frame outside these packages."""
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return frame


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _PACKAGES
