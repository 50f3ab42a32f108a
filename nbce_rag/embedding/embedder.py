"""What an embedder is, and vectors that are checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

__all__ = ["Embedder", "VectorError", "Vectors", "check_vectors"]

Vectors: TypeAlias = NDArray[np.float32]


@runtime_checkable
class Embedder(Protocol):
    """What an index needs of an embedder. Vectors need not be normalised; the index does that.

    An embedder may also have `max_tokens: int | None`, the most tokens of a text that it reads, and
    `count_tokens(text) -> int`, in the same tokens; files are then split to fit it.
    """

    @property
    def name(self) -> str:
        """Recorded in the index, which refuses embedders of another name."""
        ...

    @property
    def dimension(self) -> int:
        """Length of each vector. May load the model."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, float32 of shape [len(texts), dimension]."""
        ...

    def embed_query(self, text: str) -> Vectors:
        """Vector of a question, float32 of shape [dimension]."""
        ...


class VectorError(InputError):
    """An embedder gave a vector that cannot be used. `row` is its place among the texts."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def check_vectors(values: ArrayLike, texts: list[str], name: str) -> Vectors:
    """`values` as float32 of shape [len(texts), dimension], each finite."""
    try:
        vectors = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Embedder {name!r} did not give an array of numbers ({error}): it must return one vector of the "
            "same length for each text, on the CPU."
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(texts) or vectors.shape[1] == 0:
        raise InputError(
            f"Embedder {name!r} gave an array of shape {list(vectors.shape)} for {len(texts)} texts: "
            f"it must be [{len(texts)}, dimension]."
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise VectorError(
            f"Embedder {name!r} gave a vector with NaN or infinity for the text {texts[row][:60]!r}: "
            "change that text, or use float32 and another batch size.",
            row,
        )
    return vectors
