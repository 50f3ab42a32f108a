"""How long an answer may take: long work looks at the time between its parts, however deep they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from .errors import AnswerTimeoutError

__all__ = ["Checked", "Deadline", "check_deadline", "kept_deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an answer has to be there.

    Attributes:
        seconds: that it may take; None for as long as it needs.
        begun: when it was begun, by `time.monotonic`; now.
    """

    seconds: float | None
    begun: float = field(default_factory=lambda: monotonic())

    def check(self) -> None:
        """Ends the work when the time is over.

        Raises:
            AnswerTimeoutError: it is.
        """
        if self.seconds is not None and monotonic() - self.begun > self.seconds:
            raise AnswerTimeoutError(
                f"The answer took longer than it may (max_seconds={self.seconds:g}; in LangChain "
                f"timeout={self.seconds:g}). Raise it, lower max_tokens, or give fewer or shorter passages; "
                "what was read of them is in the KV store."
            )


class Checked(Protocol):
    """What says whether work is to go on."""

    def check(self) -> None:
        """Ends the work where it is not, by an error."""
        ...


_now: ContextVar[Checked | None] = ContextVar("deadline", default=None)


@contextmanager
def kept_deadline(deadline: Checked) -> Iterator[None]:
    """Work within this, in this thread, ends when the time is over, at the next `check_deadline`.

    Not around what yields to a caller, whose work would end too.
    """
    token = _now.set(deadline)
    try:
        yield
    finally:
        _now.reset(token)


def check_deadline() -> None:
    """Between two parts of long work, where nothing is left half done.

    Raises:
        AnswerTimeoutError: the time of the answer that it is done for is over.
    """
    if (deadline := _now.get()) is not None:
        deadline.check()
