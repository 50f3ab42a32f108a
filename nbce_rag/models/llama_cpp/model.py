"""A GGUF file read by llama.cpp behind the seam: `nbce_rag.models.model.Model`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...errors import InputError
from ...kv.store import ContextStore
from ..model import Reading, RowPrompt, TokenIds
from .base import LoadedGguf
from .context import MOST_SEQUENCES
from .contexts import read_contexts
from .library import free_bytes
from .reading import open_rows
from .rows import SequenceRows
from .session import SPARE

__all__ = ["LlamaCppModel"]

_AT_ONCE = 32


class LlamaCppModel(LoadedGguf):
    """A causal language model of llama.cpp; make one with `nbce_rag.models.loading.load_model`."""

    staging = None  # llama.cpp brings its bytes where they belong itself

    def cost(self, rows: int, tokens: int) -> int:
        """Cells and some to spare, a state a row of recurrent layers, and a few sets of log-probs."""
        cells = round(SPARE * tokens * self.token_bytes)
        return rows * (cells + self.row_bytes + 4 * 4 * self.vocab_size)

    def context_bytes(self, tokens: int) -> int:
        """What a state of so many tokens takes; layers with a sliding window keep their window."""
        if not tokens:
            return 0
        seen = min(tokens, self.sliding_window) if self.sliding_window else tokens
        whole = self.token_bytes - self.window_bytes
        return self.row_bytes + tokens * whole + seen * self.window_bytes

    def free(self) -> int:
        """Bytes that can be allocated where cells are, now, and those of cells that nothing is in."""
        return free_bytes(on_gpu=self.on_gpu) + self.free_cells * self.token_bytes

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
