"""Keys and values of one context, and the key that they are kept under."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from torch import Tensor

__all__ = ["ContextKV", "context_key"]

ContextKV = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of one context: per layer a pair of [kv_heads, tokens, head_dim], in layers with a sliding
window no more than its last tokens."""


def context_key(fingerprint: str, ids: Sequence[int]) -> str:
    """Key of a context: sha256 over the model's fingerprint (which covers its dtype) and the token ids."""
    digest = hashlib.sha256(fingerprint.encode())
    digest.update(struct.pack(f"<{len(ids)}q", *ids))
    return digest.hexdigest()
