"""Opening an index to look after it, with whatever embedder it was made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EmbedderMismatchError
from .database import not_found
from .passage_index import DATABASE, PassageIndex
from .storage import Storage

__all__ = ["open_for_maintenance"]


class _Absent:
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


def open_for_maintenance(path: str | os.PathLike[str]) -> PassageIndex:
    """Opens an index without its embedder, where that is not found by its name.

    Raises:
        IndexNotFoundError, IndexDamagedError: As in `PassageIndex.open`.
    """
    if not Path(path).is_dir():
        raise not_found(Path(path))
    storage = Storage.open(Path(path) / DATABASE, 5.0)
    try:
        with storage.read():
            meta = storage.meta()
    finally:
        storage.close()
    if meta["embedder_kind"] == "object":
        return PassageIndex.open(path, _Absent(meta["embedder"], int(meta["dimension"])))
    return PassageIndex.open(path)
