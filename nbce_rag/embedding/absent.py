"""An embedder that is not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import EmbedderMismatchError

__all__ = ["AbsentEmbedder"]


class AbsentEmbedder:
    """Stands for an embedder that was given as an object, and is not here."""

    def __init__(self, name: str, dimension: int) -> None:
        self.name = name
        self.dimension = dimension

    def embed(self, texts: Sequence[str]) -> Any:
        raise EmbedderMismatchError(
            f"{len(texts)} passages have no intact vector, and the index was made with the embedder "
            f"{self.name!r}, which is not here: PassageIndex.open(path, embedder=...).rebuild() makes them."
        )

    def embed_query(self, text: str) -> Any:
        return self.embed([text])
