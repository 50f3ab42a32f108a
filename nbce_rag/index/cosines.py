"""Cosines as an index gives them, however the vectors were found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cosines"]


def cosines(
    query: NDArray[np.float32], keys: NDArray[np.int64], vectors: NDArray[np.float32]
) -> dict[int, float]:
    """Cosines by key.

    Args:
        query: Normalised, [d].
        keys: Of the vectors, [n].
        vectors: Normalised, [n, d].
    """
    # In float64, row by row: one vector has one score, however it was found. Rounding makes some 1.0000001.
    scores = np.einsum("ij,j->i", vectors, query, dtype=np.float64).astype(np.float32)
    return dict(zip(keys.tolist(), np.clip(scores, -1.0, 1.0).tolist(), strict=True))
