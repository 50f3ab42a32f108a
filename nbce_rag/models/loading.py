"""Which backend loads a model: by its name, its file, or the object that it is.

A backend is a folder here. Its `loading` module has `load_model` for names and paths, and `wrap_model` for
objects that its library has loaded; nothing else of it is named outside.
"""

from __future__ import annotations

import inspect
import os
from importlib import import_module
from typing import Any

from ..errors import InputError
from .model import Model

__all__ = ["BACKENDS", "DEFAULT_MODEL", "check_backend", "load_model"]

DEFAULT_MODEL = "gemma3-270m"
"""The packaged model of the extra `[local]`, Gemma 3 270M."""

BACKENDS = ("transformers",)


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
            packaged default of the `[local]` extra; or a model that its library has loaded, with
            `tokenizer=`.
        backend: one of `BACKENDS`; None takes the one that fits.
        tokenizer: only for a model that is already loaded.
        **options: of the backend; see `load_model` in `nbce_rag.models.transformers.loading`.

    Raises:
        ModelError: nothing there, weights in an unsafe format, or an architecture that cannot be used.
        InputError: an unknown backend or option, or a value that cannot be used.
        MissingDependencyError: a package for the packaged default, GGUF, adapters or quantised weights is
            not installed.
    """
    check_backend(backend)
    loading = import_module(f".{backend or BACKENDS[0]}.loading", __package__)
    defaults = {p.name: p.default for p in inspect.signature(loading.load_model).parameters.values()}
    names = [name for name in defaults if name != "model"]
    if unknown := sorted(set(options) - set(names)):
        raise InputError(f"Unknown option {', '.join(unknown)}; a model is loaded with {', '.join(names)}.")
    loaded: Model
    if model is None or isinstance(model, (str, os.PathLike)):
        if tokenizer is not None:
            raise InputError("tokenizer= goes with a model that is already loaded; a name brings its own.")
        loaded = loading.load_model(DEFAULT_MODEL if model is None else os.fspath(model), **options)
        return loaded
    check = options.pop("check", True)  # the one that is about how a model is read, not how it is loaded
    if set_options := [name for name, value in options.items() if value != defaults[name]]:
        raise InputError(
            f"{', '.join(set_options)}: a model that is already loaded stays as it is; leave this out, or "
            "give its name or folder."
        )
    loaded = loading.wrap_model(model, tokenizer, check=check)
    return loaded


def check_backend(backend: str | None) -> None:
    """Raises InputError unless it is one of `BACKENDS`, or None."""
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"backend={backend!r} is not known; choose {', '.join(BACKENDS)}.")
