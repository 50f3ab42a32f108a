"""A step whose every tensor stays where it is, so that a GPU can record it once and play it again.

A step of a large model is some thousand small launches. The processor takes longer to ask for them than the
GPU takes to do them; a recording (CUDA graph) is asked for once. It can be made where nothing depends on a
number that is on the device: tokens are written to fixed columns of fixed memory, attention looks at all
columns and masks those that are not written yet, and which column comes next is itself a number there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from .base import LoadedModel, Recorder
from .forward import write_ids
from .layers import Layout
from .memory import RowMemory

__all__ = ["SPARE_COLUMNS", "PlayedStep", "StaticStep", "can_be_static", "is_capturable", "record_cuda_graph"]

_WARM_UP = 2  # passes before a recording, in which libraries allocate what they need
SPARE_COLUMNS = _WARM_UP + 1
"""The last columns of a memory, into which passes write while a recording is made."""


def can_be_static(layout: Layout) -> bool:
    """Whether a model's rows can be stepped this way: all layers keep columns of keys and values alone."""
    names = {name for _, name, _ in layout.parts()}
    return layout.in_step and layout.has_columns and names == {"keys", "values"}


def is_capturable(model: Any) -> bool:
    """Whether a model of transformers says that nothing in its pass depends on numbers on the device."""
    return bool(getattr(model, "_can_compile_fullgraph", False))


class _FixedColumns(CacheLayerMixin):
    """All columns of a layer; new tokens go into the one that a tensor names."""

    is_compileable = True

    def __init__(self, tensors: dict[str, Tensor], column: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.column = tensors["keys"], tensors["values"], column
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the columns are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        assert self.keys is not None
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        return self.column  # type: ignore[return-value]  # as transformers' own static layers do

    def get_max_length(self) -> int:
        assert self.keys is not None
        return self.keys.shape[2]


class StaticStep(nn.Module):
    """One token of every row of a memory, on the device from end to end.

    Args:
        model: whose rows they are.
        memory: of all of them, prompts read.

    Attributes:
        ids: [R, 1] the tokens, to be written before a step.
        column: [1] where they go; a step moves it on by one.
        log_probs: [R, 1, V] what follows them, written by a step.
    """

    def __init__(self, model: LoadedModel, memory: RowMemory) -> None:
        super().__init__()
        device, rows = model.device, len(memory)
        self.window, self.first_position = model.window, model.layout.first_position
        self.begins = memory.begins_on(device)[:, None]
        self.columns = torch.arange(memory.capacity, device=device)
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        self.log_probs = torch.empty(rows, 1, model.vocab_size, device=device)
        layers: list[Any] = [
            _FixedColumns(memory.layers[number], self.column) if kind.attends and kind.parts else DummyLayer()
            for number, kind in enumerate(model.layout.layers)
        ]
        self._model, self._arguments = model.model, {model.layout.argument: Cache(layers=layers)}

    def forward(self) -> None:
        mask = (self.columns >= self.begins) & (self.columns <= self.column)
        positions = (self.column - self.begins).clamp(min=0, max=self.window - 1) + self.first_position
        output = self._model(
            input_ids=self.ids,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=True,
            **self._arguments,
        )
        self.log_probs.copy_(output.logits.float().log_softmax(-1))
        self.column.add_(1)


class PlayedStep:
    """A step of all rows of a memory, recorded and played.

    Args:
        model: the model.
        memory: of the rows.
        record: makes the recording.
        compiled: whether torch compiles the step before, which takes a minute or so and fuses its kernels.
    """

    def __init__(
        self, model: LoadedModel, memory: RowMemory, record: Recorder, *, compiled: bool = False
    ) -> None:
        self._step = StaticStep(model, memory).eval()
        self._lock = model.lock
        run: Callable[[], None] = self._step
        if compiled:
            run = torch.compile(self._step, fullgraph=True)

        def one() -> None:
            with torch.no_grad():
                run()

        # What it writes meanwhile, into the last columns, is written over before it can be looked at.
        self._step.column.fill_(memory.capacity - SPARE_COLUMNS)
        with self._lock:
            self._play = record(one)

    def __call__(self, ids: Tensor, column: int) -> Tensor:
        """Read one token a row [R, 1] into a column.

        Returns:
            [R, 1, V] log-probs, float32; the next call writes over them.
        """
        with self._lock:
            self._step.column.fill_(column)
            write_ids(self._step.ids, ids)
            self._play()
        return self._step.log_probs


def record_cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """A `Recorder` by a CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may copy keys and values to the processor meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay
