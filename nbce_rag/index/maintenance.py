"""Opening an index to look after it, with whatever embedder it was made."""

from __future__ import annotations

import os
from pathlib import Path

from ..embedding.absent import AbsentEmbedder
from .passage_index import DATABASE, PassageIndex
from .sqlite.database import not_found
from .sqlite.storage import Storage

__all__ = ["open_for_maintenance"]


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
        return PassageIndex.open(path, AbsentEmbedder(meta["embedder"], int(meta["dimension"])))
    return PassageIndex.open(path)
