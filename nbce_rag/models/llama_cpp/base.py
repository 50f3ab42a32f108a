"""A GGUF file in llama.cpp's hands with what has to be known of it."""

from __future__ import annotations

import threading

import torch

from ..model import Can
from .context import PASS_TOKENS, ContextSettings
from .library import build_name
from .session import Part, Session
from .tokenizer import GgufTokenizer
from .weights import Weights

__all__ = ["LoadedGguf"]

_DTYPES = {"f32": "float32", "bf16": "bfloat16"}


class LoadedGguf:
    """Weights, the sessions that compute with them, and their numbers.

    Native memory is given back by `close`, or with the object and its rows.

    Args:
        weights: the file, loaded.
        digest: hash of what the file holds.
        settings: threads, attention, type of keys and values.
        on_gpu: whether layers, and with them keys and values, are on a GPU.

    Attributes:
        lock: held while llama.cpp is used.
        token_bytes: bytes of one token's cell.
        row_bytes: bytes of a row beside its cells: the state of recurrent layers.
        window_bytes: of `token_bytes`, those of layers with a sliding window.

    Raises:
        ModelError: no context can be made, or nothing computed in it.
    """

    device = torch.device("cpu")
    batch_tokens = PASS_TOKENS

    def __init__(self, weights: Weights, digest: str, settings: ContextSettings, *, on_gpu: bool) -> None:
        self.name = weights.name
        self.window = weights.window
        self.vocab_size = weights.vocab_size
        self.tokenizer = GgufTokenizer(weights)
        self.eos_ids = self.tokenizer.eos_ids
        self.can = Can(rewind=not weights.is_recurrent, round=False, pads=False)
        self.dtype = _DTYPES.get(settings.kv_type, "float16")
        parts = ("llama.cpp", build_name(), digest, settings.kv_type, f"flash={settings.flash}")
        self.fingerprint = " ".join(parts)
        self.lock = threading.RLock()
        self.on_gpu = on_gpu
        self.sliding_window = weights.sliding_window
        self._weights, self._settings = weights, settings
        self._sessions: list[Session] = []
        self._measure()

    def close(self) -> None:
        """Give llama.cpp's memory back now. Rows and the model itself can be used no more."""
        with self.lock:
            for session in self._sessions:
                session.close()
            self._weights.close()

    def session(self, cells: int, sequences: int) -> Session:
        """One with room for tokens and sequences; there is another only where one cannot have so many.

        Raises:
            ModelError: no memory for it, or the model was closed.
        """
        for session in self._sessions:
            if session.free_sequences >= sequences:
                break
        else:
            session = Session(self._weights, self._settings)
            self._sessions.append(session)
        session.shrink(cells)
        session.prepare(cells, sequences)
        return session

    @property
    def free_cells(self) -> int:
        """Cells that were made and that nothing is in."""
        with self.lock:
            return sum(session.free_cells for session in self._sessions)

    def _measure(self) -> None:
        """Sizes of states, by states of one token and of two."""
        session = self.session(2, 1)
        sequence = session.empty()
        sizes, partial = [], []
        for _ in range(2):
            for _ in session.read([Part(sequence, (0,))], 1):
                pass
            sizes.append(session.state_bytes(sequence))
            partial.append(session.state_bytes(sequence, partial=True))
        self.token_bytes = sizes[1] - sizes[0]
        self.row_bytes = sizes[0] - self.token_bytes
        self.window_bytes = partial[1] - partial[0] if self.sliding_window else 0
