"""A model of transformers behind the seam: `nbce_rag.models.model.Model`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, partial

from ...kv.store import ContextStore
from ..model import Can, Reading, RowPrompt, TokenIds
from .base import LoadedModel
from .contexts import read_contexts
from .layers import Layout
from .reading import open_rows
from .rows import CachedRows
from .staging import with_room

__all__ = ["TransformersModel", "rows_cost"]

_AT_ONCE = 64


class TransformersModel(LoadedModel):
    """A causal language model of transformers; make one with `nbce_rag.models.loading.load_model`."""

    @property
    def can(self) -> Can:
        """What a backend by transformers can do."""
        return Can(pads=not self.is_banded)

    @cached_property
    def batch_tokens(self) -> int:
        """Rows times length of one forward pass that suit this machine."""
        # An eighth of the free memory; past a few thousand tokens a batch is no faster on any machine.
        return int(min(8192, max(256, self.free() // 8 // self.activation_bytes)))

    def cost(self, rows: int, tokens: int) -> int:
        """See `rows_cost`."""
        return rows_cost(self.layout, self.vocab_size, rows, tokens)

    def context_bytes(self, tokens: int) -> int:
        """What is kept of a context of so many tokens; of none, what its states take."""
        return self.layout.context_bytes(tokens)

    def open(
        self,
        prompts: Sequence[RowPrompt],
        room: int,
        store: ContextStore | None = None,
        batch_tokens: int | None = None,
    ) -> tuple[CachedRows, list[Reading]]:
        """See `nbce_rag.models.model.Model.open`."""
        most = batch_tokens or self.batch_tokens

        def needed() -> int:
            contexts = [ids for prompt in prompts for ids in prompt.contexts]
            tokens = max(prompt.longest for prompt in prompts) + room
            # Rows are copied where some join or leave.
            return 2 * self.cost(len(contexts), tokens) + self._reading_cost(contexts, most)

        return with_room(self.layout.device, lambda: open_rows(self, prompts, room, store, most), needed)

    def read(
        self, contexts: Iterable[TokenIds], store: ContextStore, batch_tokens: int | None = None
    ) -> None:
        """See `nbce_rag.models.model.Model.read`."""
        most = batch_tokens or self.batch_tokens
        unread = [ids for ids in contexts if ids and ids not in store]
        for first in range(0, len(unread), _AT_ONCE):  # what was read is let go of before more is
            some = unread[first : first + _AT_ONCE]
            needed = partial(self._reading_cost, some, most)
            with_room(self.layout.device, partial(read_contexts, self, some, store, most), needed)

    def _reading_cost(self, contexts: Sequence[TokenIds], batch_tokens: int) -> int:
        """About the bytes that contexts take, and the passes that read them."""
        return batch_tokens * self.activation_bytes + sum(self.context_bytes(len(ids)) for ids in contexts)


def rows_cost(layout: Layout, vocab_size: int, rows: int, tokens: int) -> int:
    """Bytes of columns as long as the longest row, states and their marks, and a few sets of log-probs."""
    return rows * (tokens * layout.token_bytes + 2 * layout.state_bytes + 4 * 4 * vocab_size)
