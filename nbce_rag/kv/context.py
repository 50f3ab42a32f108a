"""What is kept of one context, and the key that it is kept under."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .flat import FlatContext

__all__ = ["STATES", "Packed", "context_key", "kinds", "nbytes"]

Packed: TypeAlias = Mapping[str, Tensor]
"""A context as named tensors, each with a dtype of its own. What they mean is known to the backend that made
them; the store knows the endings of the names: `.keys` and `.values` are [heads, tokens, dim] and may be
rounded by a codec."""

STATES = (".conv.", ".rec.", ".linear")
"""Parts of the names of tensors that are as large for one token as for a thousand."""


def context_key(fingerprint: str, ids: Sequence[int], salt: str = "") -> str:
    """Key of a context: sha256 over the model's fingerprint (which covers its dtype) and the token ids.

    Args:
        fingerprint: of the model.
        ids: of the context.
        salt: who does not know it can neither tell a key from a text nor find out by a hit that somebody else
            has read the text.
    """
    digest = hashlib.sha256(fingerprint.encode())
    digest.update(struct.pack(f"<{len(ids)}q", *ids))
    if salt:
        return hmac.new(salt.encode(), digest.digest(), hashlib.sha256).hexdigest()
    return digest.hexdigest()


def nbytes(packed: Packed) -> int:
    """Bytes that the tensors take."""
    if isinstance(packed, FlatContext):  # whose tensors may be on their way
        return packed.nbytes
    return sum(tensor.nbytes for tensor in packed.values())


def kinds(packed: Packed) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
    """(shape, dtype) of the tensors, by name."""
    if isinstance(packed, FlatContext):
        return packed.kinds
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in packed.items()}
