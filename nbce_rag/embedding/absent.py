"""An embedder that is not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ..errors import EmbedderMismatchError

__all__ = ["AbsentEmbedder"]


class AbsentEmbedder:
    """Stands for the embedder of an index that is not here, as long as nothing has to be embedded.

    Args:
        name: what the index records of it.
        dimension: length of its vectors.
    """

    def __init__(self, name: str, dimension: int) -> None:
        self.name = name
        self.dimension = dimension

    def embed(self, texts: Sequence[str]) -> NoReturn:
        """Raises EmbedderMismatchError."""
        raise EmbedderMismatchError(
            f"{len(texts)} passages have no intact vector, and the index was made with the embedder "
            f"{self.name!r}, which is not here: PassageIndex.open(path, embedder=...).rebuild() makes them."
        )

    def embed_query(self, text: str) -> NoReturn:
        """Raises EmbedderMismatchError."""
        self.embed([text])
