"""How far the codes of an index are from the vectors that they stand for."""

from __future__ import annotations

from typing import Any, TypedDict

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["CodeErrors", "CodeNote", "is_scannable", "joined_errors"]

faiss: Any = _faiss  # where it has type stubs, they lack what is used here

_ROUNDING = 1e-5  # what float32 may add to an error
_LOOSE = 0.001  # of all vectors; those whose codes are furthest off are compared by themselves


class CodeNote(TypedDict, total=False):
    """What is kept about the codes of an index that can be scanned.

    Attributes:
        error: No cosine by a code is further off than this, for any query.
        loose: Keys of vectors of which that is not so, ascending.
    """

    error: float
    loose: list[int]


def is_scannable(index: Any) -> bool:
    """Whether a search can compare all places that it is given, by codes that stand for the vectors."""
    kind = faiss.downcast_index(index)
    if type(kind) in (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ):
        # Of which a graph over its lists need not find all.
        return isinstance(faiss.downcast_index(kind.quantizer), faiss.IndexFlat)
    return type(kind) in (faiss.IndexScalarQuantizer, faiss.IndexPQ)


class CodeErrors:
    """Measures an index, while vectors are added to it."""

    def __init__(self, index: Any) -> None:
        self._index = index if is_scannable(index) else None
        self._keys: list[NDArray[np.int64]] = []
        self._errors: list[NDArray[np.float32]] = []

    def look_at(self, place: int, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Takes in vectors [n, d] that are in the index; the first of them has this place."""
        if self._index is not None and len(keys):
            codes = self._index.reconstruct_n(place, len(keys))
            self._keys.append(keys)
            self._errors.append(np.linalg.norm(vectors - codes, axis=1))

    def note(self) -> CodeNote:
        """Of all vectors; empty where nothing could be measured."""
        if not self._errors:
            return {}
        keys, errors = np.concatenate(self._keys), np.concatenate(self._errors)
        place = len(errors) - 1 - int(_LOOSE * len(errors))
        error = float(np.partition(errors, place)[place])
        return {"error": error + _ROUNDING, "loose": keys[errors > error].tolist()}


def joined_errors(first: CodeNote, second: CodeNote) -> CodeNote:
    """Of an index with the vectors of two; empty where one of them is not known."""
    if "error" not in first or "error" not in second:
        return {}
    return {
        "error": max(first["error"], second["error"]),
        "loose": sorted({*first["loose"], *second["loose"]}),
    }
