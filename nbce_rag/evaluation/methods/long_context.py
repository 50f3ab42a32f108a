"""The concatenated prompt in longer rows: a model's rotary positions stretched without training.

How they are stretched is the backend's (`nbce_rag.models.transformers.rope`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...answers.answer import Answer
from ...engine.nbce import NBCE
from ...models.transformers.rope import Stretched
from ...request import Request

__all__ = ["LongContext"]


class LongContext:
    """Answers requests whose rows are longer than a model's window, one at a time.

    Args:
        nbce: the engine whose model and wording are used.
        kind: see `Stretched`.
        factor: stretches positions by this and the window with them; 0 as far as each request needs, and
            not at all where it fits.
    """

    def __init__(self, nbce: NBCE, kind: str, factor: float = 0.0) -> None:
        self._nbce = nbce
        self._stretched = Stretched(nbce.model, kind)
        self._factor = factor

    def batch(self, requests: Sequence[Request]) -> list[Answer]:
        """As `NBCE.batch`; errors too."""
        return [self._engine(request).batch([request])[0] for request in requests]

    def _engine(self, request: Request) -> NBCE:
        window = self._nbce.model.window
        factor = self._factor or max(1.0, self._nbce.window_needed(request) / window)
        if factor == 1.0:
            return self._nbce
        length = round(factor * window)
        # Keys and values of one stretch are of no use to another.
        return self._nbce.updated(model=self._stretched.to(length, factor), kv_store=False)
