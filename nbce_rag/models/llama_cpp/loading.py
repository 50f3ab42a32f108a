"""Loading a GGUF file into llama.cpp, whose weights stay packed as they are in the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError, ModelError
from ...files import expand_home
from ..loading import DEFAULT_MODEL
from .context import KV_TYPES, Context, ContextSettings
from .library import library
from .model import LlamaCppModel
from .packaged import packaged_file
from .weights import Weights, file_digest, gguf_files

__all__ = ["load_model", "wrap_model"]


def load_model(
    model: str | os.PathLike[str] | None = None,
    *,
    n_gpu_layers: int | None = None,
    n_threads: int | None = None,
    flash_attn: bool | None = None,
    kv_type: str = "f16",
    use_mmap: bool = True,
) -> LlamaCppModel:
    """Load a GGUF file.

    Args:
        model: GGUF file; any file of a model that was split into several; None is the packaged default of
            the `[local]` extra, Gemma 3 270M.
        n_gpu_layers: layers on the GPU; negative numbers are all of them, and so is None where this build of
            llama.cpp knows a GPU.
        n_threads: that compute; None takes as many as torch does.
        flash_attn: flash attention, which computes in float16; None where the model can, but not for f32.
        kv_type: of keys and values, one of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0; what is below 16
            bits needs flash attention.
        use_mmap: map the file into memory, where other processes share it, in place of reading it.

    Raises:
        ModelError: nothing there, damaged, or a model that cannot be used.
        InputError: a value that cannot be used.
        MissingDependencyError: `llama_cpp` or the packaged default is not installed.
    """
    library()
    _check(n_gpu_layers, n_threads, kv_type)
    name = DEFAULT_MODEL if model is None else expand_home(model)
    path = packaged_file() if name == DEFAULT_MODEL else Path(name)
    if path.suffix != ".gguf" or path.is_dir():
        raise ModelError(
            f"{name!r} is no .gguf file, which is what llama.cpp reads; give the path of one, or leave out "
            "backend='llama.cpp'."
        )
    files = gguf_files(path)
    on_gpu = n_gpu_layers != 0 and bool(library().llama_supports_gpu_offload())
    layers = n_gpu_layers if n_gpu_layers is not None else (-1 if on_gpu else 0)
    weights = Weights(str(files[0]), gpu_layers=layers, mmap=use_mmap)
    weights.name = name
    return _model(weights, file_digest(files), n_threads, flash_attn, kv_type, on_gpu=on_gpu)


def wrap_model(model: Any, tokenizer: Any) -> LlamaCppModel:
    """A `llama_cpp.Llama` that is already loaded; contexts of our own are made for its weights.

    Raises:
        InputError: it is no such thing, or a tokenizer comes with it.
    """
    library()
    native = getattr(getattr(model, "_model", None), "model", None)
    path = getattr(model, "model_path", None)
    if not native or not isinstance(path, str):
        raise InputError(f"{model!r} is no llama_cpp.Llama; give one, or the path of a .gguf file.")
    if tokenizer is not None:
        raise InputError("tokenizer=: a GGUF file brings its own; leave it out.")
    if getattr(model, "lora_path", None) or getattr(model, "kv_overrides", None):
        raise InputError(
            "A llama_cpp.Llama with lora_path= or kv_overrides= is not the model that its file holds, and is "
            "read from its weights alone; merge the adapter into a .gguf file, or make it without them."
        )
    weights = Weights(path, native=native, owner=model)
    on_gpu = bool(library().llama_supports_gpu_offload()) and model.model_params.n_gpu_layers != 0
    digest = file_digest(gguf_files(Path(path)))
    return _model(weights, digest, None, None, "f16", on_gpu=on_gpu)


def _model(
    weights: Weights, digest: str, threads: int | None, flash: bool | None, kv_type: str, *, on_gpu: bool
) -> LlamaCppModel:
    threads = threads or torch.get_num_threads()
    if flash is None:
        flash = kv_type != "f32" and (kv_type not in ("f16", "bf16") or _can_flash(weights, threads, kv_type))
    settings = ContextSettings(threads, flash, kv_type)
    return LlamaCppModel(weights, digest, settings, on_gpu=on_gpu)


def _can_flash(weights: Weights, threads: int, kv_type: str) -> bool:
    try:
        Context(weights, ContextSettings(threads, True, kv_type), 1, 1).close()
    except ModelError:
        return False
    return True


def _check(n_gpu_layers: Any, n_threads: Any, kv_type: Any) -> None:
    if n_gpu_layers is not None and (isinstance(n_gpu_layers, bool) or not isinstance(n_gpu_layers, int)):
        raise InputError(f"n_gpu_layers={n_gpu_layers!r} must be a number of layers, or -1 for all of them.")
    if n_threads is not None and (
        isinstance(n_threads, bool) or not isinstance(n_threads, int) or n_threads < 1
    ):
        raise InputError(f"n_threads={n_threads!r} must be a number from 1 on.")
    if kv_type not in KV_TYPES:
        raise InputError(f"kv_type={kv_type!r} is not known; choose {', '.join(KV_TYPES)}.")
