"""A GGUF file read by llama.cpp behind the seam: `nbce_rag.models.model.Model`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import torch

from ...errors import InputError
from ...kv.store import ContextStore
from ..model import Can, Reading, RowPrompt, TokenIds
from .context import MOST_SEQUENCES, PASS_TOKENS, ContextSettings
from .contexts import read_contexts
from .library import build_name, free_bytes
from .reading import open_rows
from .rows import SequenceRows
from .session import SPARE, Part, Session
from .tokenizer import GgufTokenizer
from .weights import Weights

__all__ = ["LlamaCppModel"]

_DTYPES = {"f32": "float32", "bf16": "bfloat16"}
_AT_ONCE = 32


class LlamaCppModel:
    """A causal language model of llama.cpp; make one with `nbce_rag.models.loading.load_model`.

    Its native memory is given back by `close`, or with the object and its rows.

    Args:
        weights: the file, loaded.
        digest: hash of what the file holds.
        settings: threads, attention, type of keys and values.
        on_gpu: whether layers, and with them keys and values, are on a GPU.

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
        self.can = Can(rewind=not weights.is_recurrent)
        self.dtype = _DTYPES.get(settings.kv_type, "float16")
        parts = ("llama.cpp", build_name(), digest, settings.kv_type, f"flash={settings.flash}")
        self.fingerprint = " ".join(parts)
        self.lock = threading.RLock()
        self._weights, self._settings, self._on_gpu = weights, settings, on_gpu
        self._sessions: list[Session] = []
        self._window = weights.sliding_window
        self._measure()

    def close(self) -> None:
        """Give llama.cpp's memory back now. Rows and the model itself can be used no more."""
        with self.lock:
            for session in self._sessions:
                session.close()
            self._weights.close()

    def cost(self, rows: int, tokens: int) -> int:
        """Cells and some to spare, a state a row of recurrent layers, and a few sets of log-probs."""
        cells = round(SPARE * tokens * self._token_bytes)
        return rows * (cells + self._row_bytes + 4 * 4 * self.vocab_size)

    def context_bytes(self, tokens: int) -> int:
        """What a state of so many tokens takes; layers with a sliding window keep their window."""
        if not tokens:
            return 0
        seen = min(tokens, self._window) if self._window else tokens
        whole = self._token_bytes - self._window_bytes
        return self._row_bytes + tokens * whole + seen * self._window_bytes

    def free(self) -> int:
        """Bytes that can be allocated where cells are, now, and those of cells that nothing is in."""
        with self.lock:
            idle = sum(session.free_cells for session in self._sessions)
        return free_bytes(on_gpu=self._on_gpu) + idle * self._token_bytes

    def open(
        self,
        prompts: Sequence[RowPrompt],
        room: int,
        store: ContextStore | None = None,
        batch_tokens: int | None = None,
    ) -> tuple[SequenceRows, list[Reading]]:
        """See `nbce_rag.models.model.Model.open`."""
        for prompt in prompts:
            if len(prompt.contexts) >= MOST_SEQUENCES:
                raise InputError(
                    f"One question has {len(prompt.contexts)} rows and llama.cpp has room for "
                    f"{MOST_SEQUENCES - 1}; read fewer passages, or several in one row (passages_per_row)."
                )
        with self.lock:
            return open_rows(self, prompts, room, store, batch_tokens or self.batch_tokens)

    def read(
        self, contexts: Iterable[TokenIds], store: ContextStore, batch_tokens: int | None = None
    ) -> None:
        """See `nbce_rag.models.model.Model.read`."""
        unread = [ids for ids in contexts if ids and ids not in store]
        for first in range(0, len(unread), _AT_ONCE):  # what was read is let go of before more is
            some = unread[first : first + _AT_ONCE]
            with self.lock:
                session = self.session(sum(map(len, some)), len(some))
                read_contexts(session, some, store, batch_tokens or self.batch_tokens)

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
        self._token_bytes = sizes[1] - sizes[0]
        self._row_bytes = sizes[0] - self._token_bytes
        self._window_bytes = partial[1] - partial[0] if self._window else 0
