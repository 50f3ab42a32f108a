"""What a person would otherwise run on the same machine: llama.cpp on the concatenated prompt."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.llama_cpp.library import library
from ..models.llama_cpp.packaged import packaged_file
from .baselines import Timing

__all__ = ["LlamaCppPeer", "gguf_of"]


def gguf_of(model: str | os.PathLike[str] | None) -> Path:
    """The GGUF file that a peer reads: the model's own, or the packaged default's.

    Raises:
        InputError: the model is no GGUF file, so that llama.cpp could not read the same weights.
    """
    path = packaged_file() if model is None else Path(model)
    if path.suffix != ".gguf":
        raise InputError(
            f"llama.cpp reads GGUF files, and {os.fspath(path)!r} is none; leave out --peers, or name a "
            ".gguf file."
        )
    return path


class LlamaCppPeer:
    """The same GGUF file in llama.cpp, with its weights packed as they are in the file.

    Args:
        path: the file.
        threads: that compute.
        tokens: longest prompt with its answer.
    """

    def __init__(self, path: Path, threads: int, tokens: int) -> None:
        library()
        import llama_cpp

        self._llama: Any = llama_cpp.Llama(
            str(path),
            n_ctx=tokens,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            swa_full=True,  # or layers with a sliding window cannot keep a prefix
            verbose=False,
        )

    def answer(self, prompt: Sequence[int], tokens: int, read_before: Sequence[int] = ()) -> Timing:
        """Greedy decoding of exactly `tokens` new tokens.

        Args:
            prompt: token ids.
            tokens: how many to make.
            read_before: token ids of a prompt that was read before, whose common beginning is reused; none
                reads the whole prompt.
        """
        self._llama.reset()
        self._llama._ctx.kv_cache_clear()
        if read_before:
            self._llama.eval(list(read_before))
        start = time.perf_counter()
        first, ids = 0.0, []
        for token in self._llama.generate(list(prompt), temp=0.0):
            first = first or time.perf_counter() - start
            ids.append(token)
            if len(ids) == tokens:
                break
        return Timing(first, time.perf_counter() - start, tuple(ids))

    def close(self) -> None:
        """Frees weights and memory."""
        self._llama.close()
