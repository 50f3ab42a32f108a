"""Which backend loads a model: by its name, its file, or the object that it is.

A backend is a folder here. Its `loading` module has `load_model` for names and paths, and `wrap_model` for
objects that its library has loaded, which vLLM's has not: it takes URLs. Nothing else of it is named outside.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Collection
from importlib import import_module
from typing import Any

from ..errors import InputError
from .model import Model

__all__ = ["BACKENDS", "DEFAULT_MODEL", "check_backend", "is_served", "load_model"]

DEFAULT_MODEL = "gemma3-270m"
"""The packaged model of the extra `[local]`, Gemma 3 270M."""

BACKENDS = ("transformers", "llama.cpp", "vllm")
_VLLM = BACKENDS[2]
_URLS = ("http://", "https://")


def load_model(
    model: str | os.PathLike[str] | Any | None = None,
    *,
    backend: str | None = None,
    tokenizer: Any = None,
    **options: Any,
) -> Model:
    """Load a causal language model.

    Args:
        model: hub id, folder, GGUF file, or folder or hub id of an adapter (extra `[lora]`); None is the
            packaged default of the `[local]` extra; or a model that its library has loaded, for transformers
            with `tokenizer=`; or the URL of a vLLM server (extra `[vllm]`), or several in a list, or in one
            string with commas between them.
        backend: one of `BACKENDS`. None takes the one that fits: llama.cpp for a GGUF file where `llama_cpp`
            is installed, unless an option of transformers is given, vLLM for what begins with http:// or
            https://, and transformers for all else. That the
            packaged default, which is small, is among the latter is a matter of speed (see
            examples/docs/llama-cpp.md).
        tokenizer: for a model of transformers that is already loaded; of a vLLM server also a folder or hub
            id.
        **options: of the backend; see `load_model` in `nbce_rag.models.transformers.loading`, in
            `nbce_rag.models.llama_cpp.loading` and in `nbce_rag.models.vllm.loading`. One that has its
            default counts as not given.

    Raises:
        ModelError: nothing there, weights in an unsafe format, or an architecture that cannot be used.
        InputError: an unknown backend or option, or a value that cannot be used.
        MissingDependencyError: a package for the packaged default, GGUF, adapters, quantised weights or the
            backend is not installed.
    """
    check_backend(backend)
    defaults = {name: _defaults(name) for name in BACKENDS}
    every = {name: value for known in defaults.values() for name, value in known.items()}
    options = {name: v for name, v in options.items() if name not in every or v != every[name]}
    chosen = backend or _fitting_backend(model, options, defaults["llama.cpp"])
    loading = _loading(chosen)
    if unknown := sorted(options.keys() - defaults[chosen].keys()):
        elsewhere = [name for name in BACKENDS if options.keys() <= defaults[name].keys()]
        hint = f" There is backend={elsewhere[0]!r} for it." if elsewhere else ""
        raise InputError(
            f"Unknown option {', '.join(unknown)}; a model is loaded with {', '.join(defaults[chosen])} by "
            f"{chosen}.{hint}"
        )
    loaded: Model
    if chosen == _VLLM:
        loaded = loading.load_model(model, tokenizer=tokenizer, **options)
        return loaded
    if model is None or isinstance(model, (str, os.PathLike)):
        if tokenizer is not None:
            raise InputError("tokenizer= goes with a model that is already loaded; a name brings its own.")
        loaded = loading.load_model(DEFAULT_MODEL if model is None else os.fspath(model), **options)
        return loaded
    # The one that is about how a model is read, not how it is loaded.
    reading = {"check": options.pop("check")} if "check" in options else {}
    if options:
        raise InputError(
            f"{', '.join(options)}: a model that is already loaded stays as it is; leave this out, or "
            "give its name or folder."
        )
    loaded = loading.wrap_model(model, tokenizer, **reading)
    return loaded


def check_backend(backend: str | None) -> None:
    """Raises InputError unless it is one of `BACKENDS`, or None."""
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"backend={backend!r} is not known; choose {', '.join(BACKENDS)}.")


def is_served(model: Any, backend: str | None = None) -> bool:
    """Whether it is a server that reads this model, which then keeps keys and values by itself."""
    if backend is not None:
        return backend == _VLLM
    names = model if isinstance(model, (list, tuple)) else [model]
    return bool(names) and all(isinstance(one, str) and one.lstrip().startswith(_URLS) for one in names)


def _fitting_backend(model: Any, options: Collection[str], of_llama_cpp: Collection[str]) -> str:
    transformers, llama_cpp, vllm = BACKENDS
    if is_served(model):
        return vllm
    if model is not None and not isinstance(model, (str, os.PathLike)):
        is_native = type(model).__module__.partition(".")[0] == "llama_cpp"
        return llama_cpp if is_native else transformers
    is_file = model is not None and os.fspath(model).endswith(".gguf")
    if not is_file or not all(name in of_llama_cpp for name in options):
        return transformers
    # Whoever names one of its options means it, and is told where it is not installed.
    return llama_cpp if options or importlib.util.find_spec("llama_cpp") is not None else transformers


def _loading(backend: str) -> Any:
    return import_module(f".{backend.replace('.', '_')}.loading", __package__)


def _defaults(backend: str) -> dict[str, Any]:
    """The options of a backend's `load_model`, with their defaults."""
    parameters = inspect.signature(_loading(backend).load_model).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("model", "tokenizer")}
