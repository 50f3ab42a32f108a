"""A backend under another one: it does what that one does, counts it, takes its time and fails on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from nbce_rag.models.model import Model, RowPrompt, Rows

__all__ = ["WatchedModel", "watched"]


class WatchedModel:
    """A `nbce_rag.models.model.Model` around another.

    Attributes:
        steps: (rows, tokens) of each step.
        kept: how many rows each `keep` kept.
        opened: the prompts of each `open`.
        threads: those that steps were taken in.
        pause: seconds that each step takes at least.
        before_step: called before each step; what it raises comes through.
        free_bytes: what `free` answers in place of the model's own; or a function that answers.
    """

    def __init__(self, model: Model) -> None:
        self._model: Any = model
        self.steps: list[tuple[int, int]] = []
        self.kept: list[int] = []
        self.opened: list[list[RowPrompt]] = []
        self.threads: set[int] = set()
        self.pause = 0.0
        self.before_step: Callable[[], object] | None = None
        self.free_bytes: int | Callable[[], int] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def batches(self) -> list[int]:
        """How many prompts each `open` read, but for those that read sentences of the one before."""
        sizes: list[int] = []
        before: set[tuple[int, ...]] = set()
        for prompts in self.opened:
            suffixes = {prompt.suffix for prompt in prompts}
            if not (before and suffixes <= before):
                sizes.append(len(prompts))
            before = suffixes if not suffixes <= before else set()
        return sizes

    def free(self) -> int:
        if callable(self.free_bytes):
            return self.free_bytes()
        own: int = self._model.free()
        return own if self.free_bytes is None else self.free_bytes

    def open(self, prompts: Sequence[RowPrompt], *args: Any, **options: Any) -> Any:
        self.opened.append(list(prompts))
        rows, readings = self._model.open(prompts, *args, **options)
        return _WatchedRows(self, rows), readings


class _WatchedRows:
    def __init__(self, model: WatchedModel, rows: Rows) -> None:
        self._watch, self._rows = model, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def room(self) -> int:
        return self._rows.room

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        watch = self._watch
        watch.steps.append((len(ids), ids.shape[1]))
        watch.threads.add(threading.get_ident())
        if watch.before_step is not None:
            watch.before_step()
        time.sleep(watch.pause)
        return self._rows.step(ids, rows)

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        self._rows.rewind(tokens, rows)

    def keep(self, rows: Sequence[int]) -> _WatchedRows:
        self._watch.kept.append(len(rows))
        return _WatchedRows(self._watch, self._rows.keep(rows))

    def joined(self, other: Rows) -> _WatchedRows:
        return _WatchedRows(
            self._watch, self._rows.joined(other._rows if isinstance(other, _WatchedRows) else other)
        )


def watched(nbce: Any) -> tuple[Any, WatchedModel]:
    """The same engine on a watched model, and that model."""
    model = WatchedModel(nbce.model)
    return nbce.updated(model=model), model
