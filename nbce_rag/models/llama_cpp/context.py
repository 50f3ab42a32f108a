"""llama.cpp's context: cells for keys and values, a pass of tokens through it, states out and in."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ModelError
from .library import complaint, forget_complaints, library
from .weights import Weights

__all__ = ["KV_TYPES", "MOST_SEQUENCES", "PASS_TOKENS", "Context", "ContextSettings"]

PASS_TOKENS = 512
"""The most tokens of one pass."""

MOST_SEQUENCES = 256
"""Sequences that llama.cpp has room for in one context."""

_LOGITS_BYTES = 128 * 2**20  # of one pass; llama.cpp keeps room for them twice
_CELLS_TOGETHER = 256  # llama.cpp's cells come in multiples of this

KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}
"""ggml's numbers of the types that keys and values may have."""

_INT32 = ctypes.POINTER(ctypes.c_int32)


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """How contexts of a model are made.

    Attributes:
        threads: that compute.
        flash: flash attention; without it values lie otherwise, and states take longer.
        kv_type: one of `KV_TYPES`.
    """

    threads: int
    flash: bool
    kv_type: str


class Context:
    """One context: cells that any sequence may fill, and sequences with numbers from 0.

    All sequences share the cells and see their own only. Its memory is given back by `close`, or with it.

    Args:
        weights: the model; it must not be closed before.
        settings: threads and kinds.
        cells: at least so many.
        sequences: so many, at most `MOST_SEQUENCES`.

    Attributes:
        cells: tokens that fit.
        sequences: how many.
        outputs: the most tokens of a pass whose logits can be asked for.

    Raises:
        ModelError: no memory for it, or the model refuses these settings.
    """

    def __init__(self, weights: Weights, settings: ContextSettings, cells: int, sequences: int) -> None:
        bound = library()
        self.weights = weights
        self.cells = -(-cells // _CELLS_TOGETHER) * _CELLS_TOGETHER
        fitting = _LOGITS_BYTES // (4 * weights.vocab_size)
        self.outputs = max(sequences, min(PASS_TOKENS, fitting))
        self.sequences = sequences
        self._vocab_size = weights.vocab_size
        made = bound.llama_context_default_params()
        made.n_ctx, made.n_seq_max = self.cells, sequences
        made.n_batch = made.n_ubatch = PASS_TOKENS
        made.n_outputs_max = self.outputs
        made.n_threads = made.n_threads_batch = settings.threads
        made.flash_attn_type = int(settings.flash)
        made.type_k = made.type_v = KV_TYPES[settings.kv_type]
        made.kv_unified = True  # a state fits any context then, and copies of a sequence cost nothing
        made.swa_full = True  # else tokens cannot be taken back
        made.no_perf = True
        forget_complaints()
        native = bound.llama_init_from_model(weights.pointer, made)
        if not native:
            raise ModelError(
                f"No context of {self.cells} tokens for {weights.name!r}: {complaint() or 'no memory'}. Use "
                "fewer or shorter passages, or another kv_type."
            )
        self._native = native
        self._finalizer = weakref.finalize(self, bound.llama_free, native)
        self._memory = bound.llama_get_memory(native)
        self._batch = _Batch()

    @property
    def closed(self) -> bool:
        """Whether the memory was given back."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Give the memory back."""
        self._finalizer()

    def decode(self, pieces: Sequence[tuple[int, int, Sequence[int], Sequence[int]]]) -> Tensor | None:
        """One pass.

        Args:
            pieces: of each sequence, at most once: its number, its length so far, the tokens to append, and
                at which of these logits are asked for, in order.

        Returns:
            [N, V] logits in the order of the pieces, float32, in llama.cpp's own memory: the next pass writes
            over them. None if nothing was asked.

        Raises:
            ModelError: llama.cpp fails. Some of the tokens may stand in the cells.
        """
        asked = self._batch.fill(pieces)
        forget_complaints()
        code = library().llama_decode(self._native, self._batch.native)
        if code:
            raise ModelError(
                f"llama.cpp cannot compute with {self.weights.name!r} (code {code}): "
                f"{complaint() or 'it does not say why'}."
            )
        if not asked:
            library().llama_synchronize(self._native)
            return None
        pointer = library().llama_get_logits(self._native)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(asked * self._vocab_size,))
        return torch.from_numpy(logits).view(asked, self._vocab_size)

    def cut(self, sequence: int, length: int) -> bool:
        """Forget what stands behind the first tokens; whether just these are left.

        Recurrent models cannot, and layers with a sliding window may have given up cells that the shorter
        sequence looks at.
        """
        bound = library()
        if not bound.llama_memory_seq_rm(self._memory, sequence, length, -1):
            return False
        if bound.llama_memory_seq_pos_max(self._memory, sequence) != length - 1:
            return False
        window = self.weights.sliding_window
        if not window or not length or self.weights.is_recurrent:
            return True
        first = bound.llama_memory_seq_pos_min(self._memory, sequence)
        return bool(0 <= first <= max(0, length - window + 1))

    def clear(self, sequence: int) -> None:
        """Forget a sequence."""
        library().llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int) -> None:
        """Make an empty sequence equal to another; cells are shared."""
        library().llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def state_bytes(self, sequence: int, *, partial: bool = False) -> int:
        """Size of a sequence's state; `partial` is what layers of other kinds than full attention keep."""
        flags = library().LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial else 0
        return int(library().llama_state_seq_get_size_ext(self._native, sequence, flags))

    def save(self, sequence: int) -> Tensor:
        """A sequence's state, [bytes] uint8.

        Raises:
            ModelError: it cannot be had.
        """
        state = np.empty(self.state_bytes(sequence), np.uint8)
        written = library().llama_state_seq_get_data(self._native, _bytes_at(state), len(state), sequence)
        if written != len(state):
            raise ModelError(f"llama.cpp gives no state of {self.weights.name!r}: {complaint()}.")
        return torch.from_numpy(state)

    def restore(self, sequence: int, state: Tensor, length: int) -> bool:
        """Fill an empty sequence with a state; whether it is one of so many tokens. It is empty if not."""
        data: NDArray[np.uint8] = state.contiguous().numpy()
        bound = library()
        read = bound.llama_state_seq_set_data(self._native, _bytes_at(data), len(data), sequence)
        if read == len(data) and bound.llama_memory_seq_pos_max(self._memory, sequence) == length - 1:
            return True
        self.clear(sequence)
        return False

    def take_over(self, other: Context) -> None:
        """Fill this context, which is empty, with all that stands in a smaller one.

        Raises:
            ModelError: llama.cpp fails.
        """
        bound = library()
        size = bound.llama_state_get_size(other._native)
        state = np.empty(size, np.uint8)
        written = bound.llama_state_get_data(other._native, _bytes_at(state), size)
        if not bound.llama_state_set_data(self._native, _bytes_at(state), written):
            raise ModelError(f"llama.cpp cannot enlarge a context of {self.weights.name!r}: {complaint()}.")


class _Batch:
    """llama.cpp's batch: arrays that are filled anew for each pass, and pointers that never change."""

    def __init__(self) -> None:
        self._tokens = np.zeros(PASS_TOKENS, np.int32)
        self._positions = np.zeros(PASS_TOKENS, np.int32)
        self._counts = np.ones(PASS_TOKENS, np.int32)
        self._sequences = np.zeros(PASS_TOKENS, np.int32)
        self._outputs = np.zeros(PASS_TOKENS, np.int8)
        first = self._sequences.ctypes.data
        places = [ctypes.cast(first + 4 * place, _INT32) for place in range(PASS_TOKENS)]
        self._places = (_INT32 * (PASS_TOKENS + 1))(*places)
        self.native = library().llama_batch(
            0,
            self._tokens.ctypes.data_as(_INT32),
            None,
            self._positions.ctypes.data_as(_INT32),
            self._counts.ctypes.data_as(_INT32),
            ctypes.cast(self._places, ctypes.POINTER(_INT32)),
            self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, pieces: Sequence[tuple[int, int, Sequence[int], Sequence[int]]]) -> int:
        """See `Context.decode`; how many logits are asked for."""
        at = asked = 0
        for sequence, length, ids, outputs in pieces:
            end = at + len(ids)
            self._tokens[at:end] = ids
            self._positions[at:end] = np.arange(length, length + len(ids))
            self._sequences[at:end] = sequence
            self._outputs[at:end] = 0
            self._outputs[[at + output for output in outputs]] = 1
            asked += len(outputs)
            at = end
        self.native.n_tokens = at
        return asked


def _bytes_at(array: NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
