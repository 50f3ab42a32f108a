"""How much fits: what rows need, and what is free."""

from __future__ import annotations

import psutil
import torch

__all__ = ["free_memory"]


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
