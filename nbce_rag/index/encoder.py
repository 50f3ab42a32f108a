"""The embedder of an index: choosing the right one, and making unit vectors with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..embedding.absent import AbsentEmbedder
from ..embedding.embedder import Embedder, VectorError
from ..embedding.resolve import EmbedderLike, resolve_embedder
from ..embedding.sentence_transformer import SentenceTransformerEmbedder
from ..errors import EmbedderMismatchError, InputError
from ..passages import Passage
from .folder import Description

__all__ = ["Encoder", "describe_embedder", "embedding_text", "matching_embedder"]

Vector = NDArray[np.float32]


class Encoder:
    """Makes vectors of length 1 for the index at `location`, whose vectors have `dimension` numbers."""

    def __init__(self, location: str, embedder: Embedder, dimension: int) -> None:
        self.embedder = embedder
        self.dimension = dimension
        self._location = location

    def passages(self, passages: Sequence[Passage]) -> dict[str, Vector]:
        """Vectors by id; what is embedded is `embedding_text`."""
        if not passages:
            return {}
        texts = [embedding_text(passage) for passage in passages]
        try:
            vectors = np.asarray(self.embedder.embed(texts))
        except VectorError as error:
            raise InputError(f"Passage {passages[error.row].id!r}: {error}") from error
        name = self.embedder.name
        if vectors.ndim != 2 or len(vectors) != len(passages):
            raise InputError(
                f"Embedder {name!r} gave an array of shape {list(vectors.shape)} for {len(passages)} texts: "
                f"it must be [{len(passages)}, {self.dimension}]."
            )
        if vectors.shape[1] != self.dimension:
            raise self._mismatch(vectors.shape[1])
        return _units(vectors, passages)

    def units(self, vectors: ArrayLike, passages: Sequence[Passage]) -> dict[str, Vector]:
        """Vectors [n, d] that were made elsewhere, by the id of their passages."""
        try:
            array = np.asarray(vectors, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"vectors must be an array of numbers ({error}).") from error
        if array.shape != (len(passages), self.dimension):
            raise InputError(
                f"vectors must have the shape [{len(passages)}, {self.dimension}] (passages, dimension of "
                f"the index), got {list(array.shape)}."
            )
        return _units(array, passages)

    def queries(self, queries: Sequence[str | ArrayLike]) -> Vector:
        """Vectors [n, d] of several."""
        vectors = [self.query(query) for query in queries]
        return np.stack(vectors) if vectors else np.empty((0, self.dimension), np.float32)

    def query(self, query: str | ArrayLike) -> Vector:
        """Vector [d] of a text, or of a vector that was made elsewhere."""
        if isinstance(query, str):
            if not query.strip():
                raise InputError("The query is empty: give a text or a vector.")
            vector = np.asarray(self.embedder.embed_query(query)).reshape(-1)
            if len(vector) != self.dimension:
                raise self._mismatch(len(vector))
            return _unit(vector, f"the query {query[:60]!r}")
        try:
            vector = np.asarray(query, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"A query must be a text or a vector, got {type(query).__name__}.") from error
        if vector.shape != (self.dimension,):
            raise InputError(
                f"A query vector must have the shape [{self.dimension}] (dimension of the index), got "
                f"{list(vector.shape)}: embed it with {self.embedder.name!r}."
            )
        return _unit(vector, "the query vector")

    def _mismatch(self, dimension: int) -> EmbedderMismatchError:
        name = self.embedder.name
        return _mismatch(self._location, name, self.dimension, name, dimension)


def embedding_text(passage: Passage) -> str:
    """What is embedded of a passage, and read by rerankers: the title, a line end, and the text."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def describe_embedder(embedder: Embedder) -> Description:
    """What an index records of its embedder. Loads a model."""
    by_name = isinstance(embedder, SentenceTransformerEmbedder) and embedder.loads_by_name
    return Description(embedder.name, by_name, embedder.dimension)


def matching_embedder(
    location: str, description: Description, embedder: EmbedderLike | None, *, maintenance: bool
) -> Embedder:
    """The embedder to use for an index, which is the one it was made with.

    Args:
        location: of the index, for messages.
        description: what the index records.
        embedder: the user's; None takes that of the description.
        maintenance: take one that cannot embed where it cannot be loaded by its name.
    """
    name, dimension = description.embedder, description.dimension
    if embedder is None:
        if description.by_name:
            return SentenceTransformerEmbedder(name)
        if maintenance:
            return AbsentEmbedder(name, dimension)
        raise EmbedderMismatchError(
            f"The index at {location} was made with the embedder {name!r} of {dimension} dimensions, "
            "which cannot be loaded by its name: give it, as in PassageIndex.open(path, embedder=...)."
        )
    other = resolve_embedder(embedder)
    # A model that is not loaded yet has its dimension checked when it is first used.
    is_lazy = isinstance(other, SentenceTransformerEmbedder) and not other.loaded
    if other.name != name or not (is_lazy or other.dimension == dimension):
        raise _mismatch(location, name, dimension, other.name, None if is_lazy else other.dimension)
    return other


def _units(vectors: NDArray[np.floating], passages: Sequence[Passage]) -> dict[str, Vector]:
    """Vectors [n, d] as float32 of length 1, by the id of their passages; errors as of `_unit`."""
    exact = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(exact, axis=1)
    if not np.isfinite(norms).all() or not norms.all():
        return {p.id: _unit(v, f"passage {p.id!r}") for v, p in zip(exact, passages, strict=True)}
    units = (exact / norms[:, None]).astype(np.float32)
    return {passage.id: unit for passage, unit in zip(passages, units, strict=True)}


def _unit(vector: NDArray[np.floating], owner: str) -> Vector:
    """A vector [d] as float32 of length 1. `owner` says in errors whose it is.

    Raises:
        InputError: It has NaN or infinity, or is all zeros.
    """
    # In float64 neither squares of large numbers overflow nor those of small ones vanish.
    exact = np.asarray(vector, dtype=np.float64)
    if not np.isfinite(exact).all():
        raise InputError(f"The vector of {owner} has NaN or infinity: check the embedder and that text.")
    norm = float(np.linalg.norm(exact))
    if not norm:
        raise InputError(
            f"The vector of {owner} is all zeros, so that it has no cosine with any other: check the "
            "embedder, or leave that text out."
        )
    return (exact / norm).astype(np.float32)


def _mismatch(
    location: str, name: str, dimension: int, other: str, other_dimension: int | None
) -> EmbedderMismatchError:
    """The error for an index that was made with another embedder, whose dimension may be unknown."""
    other_size = "" if other_dimension is None else f" of {other_dimension}"
    return EmbedderMismatchError(
        f"The index at {location} was made with the embedder {name!r} of {dimension} dimensions, not with "
        f"{other!r}{other_size}: open it with the former, or index the documents again elsewhere."
    )
