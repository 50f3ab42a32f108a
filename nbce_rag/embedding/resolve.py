"""Turning texts into vectors: any sentence-transformers model, or any callable `list[str] -> array`.

Importing this module loads no model library; `SentenceTransformerEmbedder` does when it is first used.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TypeAlias, cast

from ..errors import InputError
from .embedder import Embedder
from .function import CallableEmbedder
from .sentence_transformer import SentenceTransformerEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike
    from sentence_transformers import SentenceTransformer

__all__ = ["EmbedderLike", "resolve_embedder"]

EmbedderLike: TypeAlias = (
    "str | os.PathLike[str] | Embedder | Callable[[list[str]], ArrayLike] | SentenceTransformer"
)


def resolve_embedder(embedder: EmbedderLike) -> Embedder:
    """Makes an embedder of a model's name or folder, a loaded model, a callable, or an embedder.

    Nothing is loaded yet.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(embedder, str | os.PathLike):
        return SentenceTransformerEmbedder(embedder)
    if isinstance(embedder, type):
        raise InputError(f"An embedder must be an object, got the class {embedder.__name__}: call it first.")
    library = sys.modules.get("sentence_transformers")
    if library is not None and isinstance(embedder, library.SentenceTransformer):
        return SentenceTransformerEmbedder(embedder)
    # Its attributes are not looked at: the dimension could load a model.
    if all(hasattr(type(embedder), name) for name in ("embed", "embed_query")) and hasattr(embedder, "name"):
        return cast(Embedder, embedder)
    if callable(embedder):
        return CallableEmbedder(embedder)
    raise InputError(
        f"An embedder must be a model's name or folder, a callable list[str] -> array, or have name, "
        f"dimension, embed and embed_query; got {type(embedder).__name__}."
    )
