"""Rows of a memory as the cache that transformers reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer, LinearAttentionLayer

from ...deadline import check_deadline
from .memory import RowMemory, Run, run_of
from .staging import on_device

__all__ = ["RowCache"]


class _Columns(CacheLayerMixin):
    """Some rows of a layer's columns, filled up to column `length`."""

    def __init__(self, memory: RowMemory, layer: int, rows: Run, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bind(memory, layer, rows, length)

    def _bind(self, memory: RowMemory, layer: int, rows: Run, length: int) -> None:
        self.memory, self.layer, self.rows, self.length = memory, layer, rows, length
        self.index_length = length  # the indexer may write before or after keys and values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: columns are allocated when they are written."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        check_deadline()  # at every layer, since a long passage is read in one pass
        keys = self.memory.columns(self.layer, "keys", key_states)
        values = self.memory.columns(self.layer, "values", value_states)
        end = self.length + key_states.shape[-2]
        keys[self.rows, :, self.length : end] = key_states
        values[self.rows, :, self.length : end] = value_states
        self.length = end
        return keys[self.rows, :, :end], values[self.rows, :, :end]

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        index = self.memory.columns(self.layer, "index", indexer_key_states)
        end = self.index_length + indexer_key_states.shape[1]
        index[self.rows, self.index_length : end] = indexer_key_states
        self.index_length = end
        return index[self.rows, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.memory.capacity


class _States(LinearAttentionLayer):
    """A layer's states of some rows, which transformers writes in place."""

    is_compileable = False

    def __init__(self, states: dict[str, Tensor], rows: Run, count: int) -> None:
        super().__init__(number_of_states=count)
        self._attach(states, rows)

    def _attach(self, states: dict[str, Tensor], rows: Run) -> None:
        """See the rows' states; without any, a context is read from its beginning."""
        for number in range(self.number_of_states):
            conv, recurrent = states.get(f"conv.{number}"), states.get(f"rec.{number}")
            if conv is not None:
                self.conv_states[number] = conv[rows]
                self.conv_kernel_size[number] = conv.shape[-1]
                self.is_conv_states_initialized[number] = True
            if recurrent is not None:
                self.recurrent_states[number] = recurrent[rows]
                self.is_recurrent_states_initialized[number] = True
            self.has_previous_state[number] = conv is not None or recurrent is not None

    def tensors(self) -> dict[str, Tensor]:
        """The states as they are now, by name."""
        names = (("conv", self.conv_states), ("rec", self.recurrent_states))
        return {
            f"{kind}.{number}": state
            for kind, states in names
            for number, state in states.items()
            if state is not None
        }


class _ColumnsAndStates(_States, _Columns):  # type: ignore[override]
    """A layer that attends and keeps a state too."""

    def __init__(
        self, memory: RowMemory, layer: int, rows: Run, length: int, states: dict[str, Tensor], count: int
    ) -> None:
        CacheLayerMixin.__init__(self)
        LinearAttentionLayer.__init__(self, number_of_states=count)
        self._bind(memory, layer, rows, length)
        self._attach(states, rows)

    lazy_initialization = LinearAttentionLayer.lazy_initialization  # type: ignore[assignment]
    get_max_length = _Columns.get_max_length


class RowCache(Cache):
    """Rows of a memory that end at one column, as the cache of one or more forward passes.

    Args:
        memory: of all rows.
        rows: which of them; a run of rows is seen in place, others are copied when they are read.
        length: columns filled.
        fresh: nothing was read yet, so that states begin where the model has them begin.
    """

    def __init__(self, memory: RowMemory, rows: Sequence[int], length: int, *, fresh: bool = False) -> None:
        self.rows = run_of(rows)
        self.memory, self.fresh = memory, fresh
        self.length = length
        layers: list[Any] = []
        for number, kind in enumerate(memory.layout.layers):
            states = {} if fresh or not kind.states else memory.states(number)
            if kind.attends and kind.states:
                layers.append(_ColumnsAndStates(memory, number, self.rows, length, states, kind.states))
            elif kind.attends:
                layers.append(_Columns(memory, number, self.rows, length))
            elif kind.states:
                layers.append(_States(states, self.rows, kind.states))
            else:
                layers.append(DummyLayer())
        Cache.__init__(self, layers=layers)

    def advance(self, tokens: int) -> None:
        """After a pass of so many tokens: what was not written in place goes into the memory."""
        self.length += tokens
        self.fresh = False
        for number, layer in enumerate(self.layers):
            if isinstance(layer, _States):
                for name, state in layer.tensors().items():
                    self.put_state(number, name, state)

    def mark(self) -> None:
        """Remember the rows' states as they are now."""
        self.memory.mark(self.rows)

    def restore(self) -> None:
        """The rows' states as they were marked; this cache, and what was seen through it, is spent."""
        self.memory.restore(self.rows)

    def put_state(self, layer: int, name: str, state: Tensor) -> None:
        """Into the memory, unless it is there."""
        tensors = self.memory.layers[layer]
        if name not in tensors:
            if len(state) == len(self.memory):
                tensors[name] = state
                return
            tensors[name] = state.new_zeros(len(self.memory), *state.shape[1:])
        if isinstance(self.rows, Tensor) or tensors[name][self.rows].data_ptr() != state.data_ptr():
            tensors[name][self.rows] = state

    @property
    def is_linear(self) -> list[bool]:
        """Which layers say nothing of the length of the mask."""
        return [isinstance(layer, _States) and not isinstance(layer, _Columns) for layer in self.layers]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        if not self.memory.layout.has_columns:
            return self.length
        length: int = super().get_seq_length(layer_idx)
        return length

    def attention_mask(self, new_tokens: int, device: torch.device) -> Tensor:
        """[R, length + new_tokens] ones where a row has a token, for the next forward pass."""
        columns = torch.arange(self.length + new_tokens, device=device)
        return (columns >= self._begins_on(device)).long()

    def position_ids(self, new_tokens: int, device: torch.device) -> Tensor:
        """[R, new_tokens] positions of the next tokens; 0 where a row has none yet."""
        columns = torch.arange(self.length, self.length + new_tokens, device=device)
        return (columns - self._begins_on(device)).clamp(min=0)

    def _begins_on(self, device: torch.device) -> Tensor:
        """[R, 1] first columns; the rows' indexes are brought to the device where they are no run."""
        begins = self.memory.begins_on(device)
        rows = self.rows if isinstance(self.rows, slice) else on_device(self.rows, device)
        return begins[rows][:, None]
