"""The fingerprint of a model of transformers: every weight, and every switch that says how weights are used.

Keys and values are kept under it, so that it has to change with whatever changes them. Layers keep weights
in parameters, in buffers and, where they are quantised, beside both; an adapter that is switched off leaves
every weight as it was. So all tensors count, and all plain attributes of all modules. What is done to a
model after it was loaded is noticed the next time the fingerprint is asked for: other tensors, changes in
place that torch counts, switches. Writes through `.data`, under `inference_mode`, and hooks are not: whoever
does that makes the engine anew, or clears its store.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

__all__ = ["Fingerprint", "counters_of", "tensors_hash"]

_BLOCK = 64 << 20  # numbers that are copied from a device at once

_NOISE = frozenset(
    {
        "name_or_path",  # the model's name counts, not where its files lie
        "compute_type_is_set",
        "warnings_issued",
        "_output_capturing_hooks_installed",  # by the first pass that is asked for hidden states
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
        counters: attributes that a pass itself changes (`counters_of`), which say nothing of a context.
    """

    def __init__(
        self,
        model: Any,
        label: str,
        weights: str | None = None,
        counters: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._counters = counters
        digest = xxhash.xxh3_128(model.config.to_json_string(use_diff=False).encode())
        switches = _state(model, counters)[0]
        digest.update(f"{label}|{model.dtype}|{switches}|{weights or tensors_hash(model)}".encode())
        self._as_loaded = digest.hexdigest()
        self._mark = ""
        self._lock = threading.Lock()
        self.settle(model)

    def settle(self, model: Any) -> None:
        """Take the model as it is now for the one that was loaded; its layers may have been packed since."""
        self._model = model
        self._own = _state(model, self._counters)
        self._other: tuple[object, str] = (None, "")

    def marked(self, mark: str) -> Fingerprint:
        """The same model, used otherwise."""
        other = copy.copy(self)
        other._mark = f"{self._mark}|{mark}"
        other._lock = threading.Lock()
        return other

    def __str__(self) -> str:
        """32 hex digits, and marks: of the model as it is now."""
        switches, stamps = now = _state(self._model, self._counters)
        if now == self._own:
            return self._as_loaded + self._mark
        with self._lock:
            if self._other[0] != now:
                tensors = "" if stamps == self._own[1] else tensors_hash(self._model)
                changed = xxhash.xxh3_128(f"{self._as_loaded}|{switches}|{tensors}".encode())
                self._other = (now, changed.hexdigest())
            return self._other[1] + self._mark


@contextmanager
def counters_of(model: nn.Module) -> Iterator[set[tuple[str, str]]]:
    """Takes down (module, attribute) of what a pass inside changes, such as a count of passes."""
    counters: set[tuple[str, str]] = set()
    before = {(name, key): text for name, key, text in _switches(model)}
    yield counters
    after = {(name, key): text for name, key, text in _switches(model)}
    counters.update(place for place in {**before, **after} if before.get(place) != after.get(place))


def tensors_hash(model: nn.Module) -> str:
    """Hash of all numbers that a model holds, wherever they lie: 32 hex digits.

    Where some cannot be got at, it is one that no other model ever has.
    """
    # Not by `state_dict`: bitsandbytes lays 4-bit weights otherwise when it is asked for one.
    digest = xxhash.xxh3_128()
    seen: dict[int, str] = {}
    for name, module in model.named_modules():
        for key, value in {**module._parameters, **module._buffers}.items():
            tied = seen.setdefault(id(value), f"{name}.{key}")
            if value is None or tied != f"{name}.{key}":
                digest.update(f"|{name}.{key} is {tied}".encode())
            else:
                _add(digest, tied, _fetched(module, key, value))
        for key, value in vars(module).items():
            if key not in _NOISE and _holds_tensors(value):
                _add(digest, f"{name}.{key}", value)
    return digest.hexdigest()


def _fetched(module: nn.Module, key: str, value: Any) -> Any:
    """A weight that accelerate keeps elsewhere until its layer is run, from there."""
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    for hook in _hooks(module):
        try:
            return hook.weights_map[key]
        except (AttributeError, KeyError, TypeError):
            continue
    return value


def _hooks(module: nn.Module) -> list[Any]:
    """What accelerate does before and after a layer is run."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _holds_tensors(value: Any) -> bool:
    """Whether an attribute is a tensor, or holds some: what quantised layers keep beside their weights."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, (dict, list, tuple)):
        return any(map(_holds_tensors, value.values() if isinstance(value, dict) else value))
    own = () if isinstance(value, (nn.Module, type)) else getattr(value, "__dict__", {}).values()
    return any(isinstance(item, Tensor) for item in own)


def _add(digest: Any, name: str, value: Any) -> None:
    digest.update(f"|{name}:".encode())
    if not isinstance(value, Tensor):
        if isinstance(value, (dict, list, tuple)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                _add(digest, f"{name}.{key}", item)
        elif _is_plain(value):
            digest.update(repr(value).encode())
        elif _holds_tensors(value):
            _add(digest, name, vars(value))
        return
    digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
    if hasattr(value, "__tensor_flatten__"):  # made of other tensors
        names, context = value.__tensor_flatten__()
        digest.update(repr(context).encode())
        for key in names:
            _add(digest, f"{name}.{key}", getattr(value, key))
        return
    if value.is_meta:
        digest.update(os.urandom(16))
    else:
        flat = (value.to_dense() if value.is_mkldnn else value).detach().reshape(-1)
        for first in range(0, len(flat), _BLOCK):
            digest.update(flat[first : first + _BLOCK].cpu().contiguous().view(torch.uint8).numpy())
    for key, item in vars(value).items():  # as bitsandbytes lays scales on weights
        if _holds_tensors(item):
            _add(digest, f"{name}.{key}", item)


def _switches(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """(module, attribute, value) of the plain attributes of all modules, in their order."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.modules."):  # those do as they are called
            continue
        for key, value in tuple(vars(module).items()):  # another thread may run the model
            # How far rotary tables reach grows with use.
            if key not in _NOISE and not key.endswith("seq_len_cached") and _is_plain(value):
                yield (
                    name,
                    key,
                    repr(sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else value),
                )


def _state(model: nn.Module, counters: frozenset[tuple[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    """(switches, stamps) of a model as it is now; a few milliseconds.

    Switches are a hash of the plain attributes of all modules: an adapter that is on, its scale, what was
    merged. Stamps say where the tensors lie and how often each was changed in place.
    """
    switches = xxhash.xxh3_128()
    stamps = []
    for name, key, text in _switches(model):
        if (name, key) not in counters:
            switches.update(f"|{name}.{key}={text}".encode())
    for name, module in model.named_modules():
        # With the module, which for code that came with a model is named by what the code says.
        switches.update(f"|{name} {type(module).__module__}.{type(module).__qualname__}".encode())
        if any(getattr(hook, "offload", False) for hook in _hooks(module)):  # in its place while it is run
            continue
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
