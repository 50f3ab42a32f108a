"""One context as a safetensors file that says what it is, and by which damage is seen.

Tensors of one shape are stacked, so that a file holds one or a few large tensors: mapping them and taking
them apart costs microseconds, whatever the number of layers. The metadata names the format and its
version, the key, model, fingerprint, dtype and codec, and carries an XXH3 checksum over itself, the
shapes and every byte. It runs at the speed of memory, so that every read checks all of it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor
from xxhash import xxh3_128

from .context import STATES, Packed

__all__ = [
    "DamagedContextError",
    "context_data",
    "parse_context",
    "read_context",
    "read_label",
    "write_context",
]

_FORMAT = {"format": "nbce-rag context", "version": "2"}
_CHECKSUM = "checksum"
_LAYOUT = "layout"
# A mapping costs a page table entry or more and systems limit their number, so small files are copied.
_MAPPED_FROM = 1 << 20


class DamagedContextError(ValueError):
    """The file is not what its name and metadata say."""


def write_context(path: Path, packed: Packed, label: Mapping[str, str]) -> int:
    """Write a new file, down to the disk.

    Args:
        path: it must not exist.
        packed: the tensors, on any device.
        label: goes into the metadata; `read_context` compares it.

    Returns:
        Its size in bytes.

    Raises:
        OSError: it cannot be written; what was written of it is still there.
    """
    data = context_data(packed, label)
    with path.open("xb", buffering=0) as file:
        view = memoryview(data)
        while view:  # unbuffered writes may be short
            view = view[file.write(view) :]
        os.fsync(file.fileno())
    return len(data)


def context_data(packed: Packed, label: Mapping[str, str]) -> bytes:
    """What `write_context` writes, as bytes."""
    numbers: dict[tuple[torch.dtype, torch.Size], int] = {}
    layout = {name: numbers.setdefault((t.dtype, t.shape), len(numbers)) for name, t in packed.items()}
    groups = {
        str(number): torch.stack([t.cpu() for name, t in packed.items() if layout[name] == number])
        for number in numbers.values()
    }
    metadata = {**_FORMAT, **label, _LAYOUT: json.dumps(layout)}
    metadata[_CHECKSUM] = _checksum(metadata, groups)
    return save(groups, metadata)


def read_context(path: Path, label: Mapping[str, str]) -> Packed:
    """The tensors of a file, mapped from it unless it is small. Writing to them does not change the file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be opened.
        DamagedContextError: damaged, not complete, of another format or with another label.
    """
    if path.is_symlink():
        raise DamagedContextError("a link to a file elsewhere")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            _check_label(metadata, label)
            groups = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "no memory to map it") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        if "unable to mmap" in str(error):  # torch: more than the system allows
            raise OSError(errno.ENOMEM, "no memory to map it") from error
        raise DamagedContextError(str(error)) from error
    _check_sum(metadata, groups)
    if sum(group.nbytes for group in groups.values()) < _MAPPED_FROM:
        groups = {name: group.clone() for name, group in groups.items()}
    return _taken_apart(metadata, groups)


def parse_context(data: bytes, label: Mapping[str, str]) -> Packed:
    """The tensors of a file that came as bytes.

    Raises:
        DamagedContextError: as in `read_context`.
    """
    try:
        groups = load(data)
        # As safetensors has it: the length of the header in 8 bytes, the header, the numbers.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = dict(header.get("__metadata__", {}))
    except (SafetensorError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise DamagedContextError(str(error)) from error
    _check_label(metadata, label)
    _check_sum(metadata, groups)
    return _taken_apart(metadata, groups)


def _check_label(metadata: Mapping[str, str], label: Mapping[str, str]) -> None:
    for name, value in {**_FORMAT, **label}.items():
        if metadata.get(name) != value:
            raise DamagedContextError(f"{name} is {metadata.get(name)!r}, not {value!r}")


def _check_sum(metadata: Mapping[str, str], groups: Mapping[str, Tensor]) -> None:
    rest = {name: value for name, value in metadata.items() if name != _CHECKSUM}
    if metadata.get(_CHECKSUM) != _checksum(rest, groups):
        raise DamagedContextError("the checksum differs")


def _taken_apart(metadata: Mapping[str, str], groups: Mapping[str, Tensor]) -> Packed:
    """The tensors that were stacked into groups, by name."""
    try:
        parts = {name: iter(group.unbind(0)) for name, group in groups.items()}
        return {name: next(parts[str(number)]) for name, number in json.loads(metadata[_LAYOUT]).items()}
    except (ValueError, LookupError, AttributeError, TypeError, RuntimeError, StopIteration) as error:
        # A checksum is no signature: others can make one.
        raise DamagedContextError("it does not say how its tensors are laid out") from error


def read_label(path: Path) -> tuple[dict[str, str], int]:
    """(what a file says of itself, bytes of its states), from its header alone.

    Raises:
        OSError: it cannot be opened.
        DamagedContextError: it has no header that can be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            layout: dict[str, int] = json.loads(metadata.pop(_LAYOUT, "{}"))
            states = Counter(
                str(number) for name, number in layout.items() if any(state in name for state in STATES)
            )
            sizes = {name: _nbytes(file.get_slice(name)) for name in states}
            counts = {name: file.get_slice(name).get_shape()[0] for name in states}
    except (SafetensorError, ValueError, AttributeError, IndexError) as error:
        raise DamagedContextError(str(error)) from error
    return metadata, sum(sizes[name] * number // counts[name] for name, number in states.items())


def _nbytes(tensor: Any) -> int:
    """Bytes of a slice of a safetensors file, whose dtypes are called F32, BF16, I8."""
    bits = re.search(r"\d+", tensor.get_dtype())
    size: int = math.prod(tensor.get_shape()) * (int(bits[0]) if bits else 8) // 8
    return size


def _checksum(metadata: Mapping[str, str], groups: Mapping[str, Tensor]) -> str:
    digest = xxh3_128(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(groups):
        group = groups[name]
        digest.update(f"{name} {group.dtype} {list(group.shape)}".encode())
        digest.update(group.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
