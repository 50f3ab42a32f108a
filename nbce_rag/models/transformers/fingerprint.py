"""The fingerprint of a model of transformers: every weight, and every switch that says how weights are used.

Keys and values are kept under it, so that it has to change with whatever changes them. Layers keep weights
in parameters, in buffers and, where they are quantised, beside both; an adapter that is switched off leaves
every weight as it was. So all tensors count, and all plain attributes of all modules. What is done to a
model after it was loaded is noticed the next time the fingerprint is asked for.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

__all__ = ["Fingerprint", "tensors_hash"]

_BLOCK = 64 << 20  # numbers that are copied from a device at once

_NOISE = frozenset(
    {
        "name_or_path",  # the model's name counts, not where its files lie
        "compute_type_is_set",
        "warnings_issued",
        *vars(nn.Module()),  # what torch itself keeps, the sub-modules and tensors among it
    }
    - {"training"}
)


class Fingerprint:
    """What tells a model's contexts from those of others, and from its own after it was changed.

    Args:
        model: the transformers model, in evaluation mode, as it was loaded.
        label: what else changes a context, such as the name it was loaded by.
        weights: hash of the files that the weights came from; None hashes the tensors.
    """

    def __init__(self, model: Any, label: str, weights: str | None = None) -> None:
        digest = xxhash.xxh3_128(model.config.to_json_string(use_diff=False).encode())
        digest.update(f"{label}|{model.dtype}|{_state(model)[0]}|{weights or tensors_hash(model)}".encode())
        self._as_loaded = digest.hexdigest()
        self._mark = ""
        self._lock = threading.Lock()
        self.settle(model)

    def settle(self, model: Any) -> None:
        """Take the model as it is now for the one that was loaded; its layers may have been packed since."""
        self._model = model
        self._own = _state(model)
        self._other: tuple[object, str] = (None, "")

    def marked(self, mark: str) -> Fingerprint:
        """The same model, used otherwise."""
        other = copy.copy(self)
        other._mark = f"{self._mark}|{mark}"
        other._lock = threading.Lock()
        return other

    def __str__(self) -> str:
        """32 hex digits, and marks: of the model as it is now."""
        switches, stamps = now = _state(self._model)
        if now == self._own:
            return self._as_loaded + self._mark
        with self._lock:
            if self._other[0] != now:
                tensors = "" if stamps == self._own[1] else tensors_hash(self._model)
                changed = xxhash.xxh3_128(f"{self._as_loaded}|{switches}|{tensors}".encode())
                self._other = (now, changed.hexdigest())
            return self._other[1] + self._mark


def tensors_hash(model: nn.Module) -> str:
    """Hash of all numbers that a model holds, wherever they lie: 32 hex digits.

    Where some cannot be got at, it is one that no other model ever has.
    """
    digest = xxhash.xxh3_128()
    seen: dict[object, int] = {}
    for number, (name, value) in enumerate(_entries(model)):
        digest.update(f"|{name}:".encode())
        place = _place(value)
        if place is not None and place in seen:  # tied
            digest.update(f"as {seen[place]}".encode())
            continue
        if place is not None:
            seen[place] = number
        _add(digest, value)
    return digest.hexdigest()


def _entries(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and value of all that a model holds; layers with formats of their own say what that is."""
    state = model.state_dict()
    yield from ((name, _fetched(model, name, value)) for name, value in state.items())
    yield from ((name, value) for name, value in model.named_buffers() if name not in state)


def _fetched(model: nn.Module, name: str, value: Any) -> Any:
    """A weight that accelerate keeps elsewhere until its layer is run, from there."""
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    parent, _, leaf = name.rpartition(".")
    hook = getattr(model.get_submodule(parent), "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):
        try:
            return one.weights_map[leaf]
        except (AttributeError, KeyError, TypeError):
            continue
    return value


def _place(value: Any) -> object:
    plain = isinstance(value, Tensor) and not value.is_meta and not hasattr(value, "__tensor_flatten__")
    return (value.device, value.data_ptr(), value.dtype, value.shape, value.stride()) if plain else None


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        if hasattr(value, "__tensor_flatten__"):  # a tensor that is made of others
            names, context = value.__tensor_flatten__()
            digest.update(repr(context).encode())
            for name in names:
                _add(digest, getattr(value, name))
        elif value.is_meta:
            digest.update(os.urandom(16))
        else:
            flat = value.detach().reshape(-1)
            for first in range(0, len(flat), _BLOCK):
                digest.update(flat[first : first + _BLOCK].cpu().contiguous().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for key, item in value.items():
            digest.update(f"{key}:".encode())
            _add(digest, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add(digest, item)
    else:
        digest.update(repr(value).encode())


def _state(model: nn.Module) -> tuple[str, list[tuple[int, int]]]:
    """(switches, stamps) of a model as it is now; a few milliseconds.

    Switches are a hash of the plain attributes of all modules: an adapter that is on, its scale, what was
    merged. Stamps say where the tensors lie and how often each was changed in place.
    """
    switches = xxhash.xxh3_128()
    stamps = []
    for name, module in model.named_modules():
        kind = type(module)
        switches.update(f"|{name} {kind.__qualname__}".encode())
        if not kind.__module__.startswith("torch.nn.modules."):  # those do as they are called
            for key, value in vars(module).items():
                # How far rotary tables reach grows with use.
                if key not in _NOISE and not key.endswith("seq_len_cached") and _is_plain(value):
                    text = sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else value
                    switches.update(f"|{key}={text!r}".encode())
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and not tensor.is_meta and not hasattr(tensor, "__tensor_flatten__"):
                version = 0 if tensor.is_inference() else tensor._version
                stamps.append((tensor.data_ptr(), version))
    return switches.hexdigest(), stamps


def _is_plain(value: Any) -> bool:
    """Whether it is made of numbers, strings and the like, whose text is the same in every process."""
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return True
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return isinstance(value, (list, tuple, set, frozenset)) and all(map(_is_plain, value))
