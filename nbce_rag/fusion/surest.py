"""What stands in a rule for the prompt of all passages that its paper has: the row that is surest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .base import NEG_INF
from .truncation import nucleus

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["jensen_shannon", "surest_row"]


def surest_row(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """The passage row of least entropy, ties to the lower index, as NBCE pools rows (9617).

    A rule that contrasts one prompt of all passages with none has its NBCE form by it: with all passages in
    one row (`passages_per_row`) that is the row, and the rule is the published one.

    Args:
        log_probs: [G, n + 1, V] as rules get them.

    Returns:
        (which passage row [G], its log-probs [G, V]).
    """
    import torch

    _, entropy = nucleus(log_probs[:, 1:], 1.0)
    k = entropy.argmin(-1)
    return k, log_probs[torch.arange(len(k), device=k.device), k + 1]


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, in [0, ln 2], over the last dimension; log-probs in, broadcast."""
    import torch

    middle = torch.logaddexp(p, q) - math.log(2.0)

    def divergence(a: Tensor) -> Tensor:
        return torch.where(a == NEG_INF, 0.0, a.exp() * (a - middle)).sum(-1)

    return 0.5 * (divergence(p) + divergence(q.expand_as(p)))
