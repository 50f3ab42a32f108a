"""Rows of MiniMax, which keeps the states of its linear layers in a cache of its own beside the layers."""

from __future__ import annotations

from torch import Tensor
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from .cache import RowCache

__all__ = ["LinearRowCache"]


class LinearRowCache(RowCache, MiniMaxCache):
    """A `RowCache` that the model takes for its own."""

    def __len__(self) -> int:
        return len(self.layers)

    def get_linear_cache(self, layer_idx: int) -> Tensor | None:
        return None if self.fresh else self.memory.states(layer_idx)["linear"][self.rows]

    def set_linear_cache(self, layer_idx: int, linear_cache: Tensor) -> None:
        self.put_state(layer_idx, "linear", linear_cache)
