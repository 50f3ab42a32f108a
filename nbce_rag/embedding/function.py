"""Any function from texts to vectors as an embedder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .embedder import Vectors, check_vectors

__all__ = ["CallableEmbedder"]


class CallableEmbedder:
    """Any function from texts to vectors: an embedding service, a model of another library.

    Args:
        fn: Takes a list of n texts, returns n vectors of one length: an array, lists, or a CPU tensor.
        name: Recorded in indexes, which have to be opened with an embedder of the same name; default:
            the name of the function.
        query_fn: Takes one question, returns its vector, where questions are embedded otherwise than
            passages; default: `fn`.

    Raises:
        InputError: `fn` is not callable; on use: what it returns is not n finite vectors of one length.
    """

    def __init__(
        self,
        fn: Callable[[list[str]], ArrayLike],
        name: str | None = None,
        *,
        query_fn: Callable[[str], ArrayLike] | None = None,
    ) -> None:
        if not callable(fn):
            raise InputError(f"An embedder must be callable, got {fn!r}: give a function list[str] -> array.")
        self._fn = fn
        self._query_fn = query_fn
        self._name = name or _function_name(fn)
        self._dimension: int | None = None

    @property
    def name(self) -> str:
        """The given name, or that of the function."""
        return self._name

    @property
    def dimension(self) -> int:
        """Length of each vector; embeds one word to find out if nothing was embedded yet."""
        if self._dimension is None:
            self.embed(["dimension"])
        assert self._dimension is not None
        return self._dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, float32 of shape [len(texts), dimension]."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return self._check(self._fn(list(texts)), list(texts))

    def embed_query(self, text: str) -> Vectors:
        """Vector of a question, float32 of shape [dimension]."""
        vectors = self._fn([text]) if self._query_fn is None else [self._query_fn(text)]
        return cast(Vectors, self._check(cast(ArrayLike, vectors), [text])[0])

    def _check(self, values: ArrayLike, texts: list[str]) -> Vectors:
        vectors = check_vectors(values, texts, self._name)
        if self._dimension is None:
            self._dimension = vectors.shape[1]
        if vectors.shape[1] != self._dimension:
            raise InputError(
                f"Embedder {self._name!r} gave vectors of {vectors.shape[1]} numbers after vectors of "
                f"{self._dimension}: all texts must be embedded by the same model."
            )
        return vectors


def _function_name(fn: object) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    qualified = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    # Where a function was defined may change, as between a script and a test.
    return str(qualified).rpartition("<locals>.")[2]
