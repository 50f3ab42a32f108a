"""How long the passages of a file are, so that an embedder reads all of each."""

from __future__ import annotations

from typing import NamedTuple

from ..documents.splitting import TokenCounter, check_window
from ..embedding.embedder import Embedder

__all__ = ["OVERLAP", "Window", "window_of"]

MAX_TOKENS = 200
OVERLAP = 32


class Window(NamedTuple):
    """How files are split; its fields are arguments of `nbce_rag.documents.folders.read_files`.

    Attributes:
        max_tokens: The most tokens of a passage.
        overlap: The most tokens that a passage repeats from the one before.
        count_tokens: Counts the tokens of a string; None approximates.
    """

    max_tokens: int
    overlap: int
    count_tokens: TokenCounter | None


def window_of(embedder: Embedder, max_tokens: int | None = None, overlap: int = OVERLAP) -> Window:
    """How files are split for an embedder. May load its model.

    Args:
        embedder: Whose tokens are counted, if it can.
        max_tokens: The most tokens of a passage. Default: what the embedder reads, at most 200, and then
            an overlap of half of that at most.
        overlap: The most tokens that a passage repeats from the one before.

    Raises:
        InputError: `max_tokens` or `overlap` is out of range.
    """
    if max_tokens is None:
        limit: int | None = getattr(embedder, "max_tokens", None)
        max_tokens = min(limit or MAX_TOKENS, MAX_TOKENS)
        overlap = min(overlap, max_tokens // 2)
    check_window(max_tokens, overlap)
    return Window(max_tokens, overlap, getattr(embedder, "count_tokens", None))
