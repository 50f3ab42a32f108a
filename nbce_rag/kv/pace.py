"""What is sooner here: to bring contexts from afar, or to read them? Measured, never guessed.

Reading is measured where contexts are put into the store: the time since the same thread last asked it for
one is what reading took, whatever backend it was, with waiting for the model. Transfers are measured as they
come, several at once as they are made.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Pace"]

_READINGS = 256  # of the last contexts
_TRANSFERS = 32  # of the last questions


class Pace:
    """Speeds over the last events. Safe to use from several threads.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._readings: deque[tuple[int, float]] = deque(maxlen=_READINGS)
        self._transfers: deque[tuple[int, int, float, float]] = deque(maxlen=_TRANSFERS)
        self._last_transfer: float | None = None
        self._thread = threading.local()

    def mark(self) -> None:
        """This thread asked for a context; what it does from now on may be reading."""
        self._thread.mark = self._clock()

    def add_reading(self, tokens: int) -> None:
        """This thread has read a context of so many tokens since it last marked or added."""
        mark: float | None = getattr(self._thread, "mark", None)
        if mark is not None:
            self._readings.append((tokens, self._clock() - mark))
            self.mark()

    def add_transfer(self, tokens: int, size: int, latency: float, seconds: float) -> None:
        """Contexts came, together.

        Args:
            tokens: in all of them.
            size: bytes of all of them.
            latency: seconds until the first answer.
            seconds: from the first to the last byte.
        """
        self._transfers.append((tokens, size, latency, seconds))
        self._last_transfer = self._clock()

    @property
    def age(self) -> float | None:
        """Seconds since the last transfer; None where there was none."""
        return None if self._last_transfer is None else self._clock() - self._last_transfer

    @property
    def tokens_per_second(self) -> float | None:
        """How fast contexts are read; None where none was read."""
        readings = list(self._readings)
        seconds = sum(seconds for _, seconds in readings)
        return sum(tokens for tokens, _ in readings) / seconds if seconds > 0 else None

    @property
    def bytes_per_second(self) -> float | None:
        """How fast they come, once they do; None where none came."""
        transfers = list(self._transfers)
        size = sum(size for _, size, _, _ in transfers)
        # An instant, where a clock is too coarse to see it.
        return size / max(sum(seconds for *_, seconds in transfers), 1e-6) if transfers else None

    @property
    def latency(self) -> float | None:
        """Seconds until the first answer, on average; None where none came."""
        transfers = list(self._transfers)
        return sum(latency for _, _, latency, _ in transfers) / len(transfers) if transfers else None

    @property
    def token_bytes(self) -> float | None:
        """Bytes of a token of what came; None where none came."""
        transfers = list(self._transfers)
        tokens = sum(tokens for tokens, *_ in transfers)
        return sum(size for _, size, _, _ in transfers) / tokens if tokens else None

    def reading_seconds(self, tokens: int) -> float | None:
        """How long reading so many tokens would take; None where that is not known."""
        speed = self.tokens_per_second
        return None if speed is None else tokens / speed

    def transfer_seconds(self, tokens: int) -> float | None:
        """How long bringing so many tokens would take; None where that is not known."""
        speed, latency, token_bytes = self.bytes_per_second, self.latency, self.token_bytes
        if speed is None or latency is None or token_bytes is None:
            return None
        return latency + tokens * token_bytes / speed if speed > 0 else float("inf")
