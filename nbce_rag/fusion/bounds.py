"""What fusion can be sure of while some passage rows are not read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from .base import Fused, FusionState

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bounded", "BoundedRule", "Doubt"]


class Doubt(NamedTuple):
    """What is not known of the weights of this step.

    Attributes:
        rest: the rows that are not read weigh at most this together, in [0, 1).
        spread: nats by which the ratio of two other rows' weights may be off, >= 0.
    """

    rest: float
    spread: float

    @property
    def low(self) -> float:
        """Added to the log of a mixture of the rows that are read: the mixture of all is not below that."""
        return math.log1p(-self.rest) - self.spread


class Bounded(NamedTuple):
    """What a rule says of a step from some of the passage rows.

    Attributes:
        fused: as if there were no other rows.
        low: [G, V] all rows together would give no token a lower score, up to a constant that they share.
        high: [G, V] nor a higher one.
    """

    fused: Fused
    low: Tensor
    high: Tensor


@runtime_checkable
class BoundedRule(Protocol):
    """A rule that can do without reading rows that hardly count; rows of other rules are all read."""

    def drift(self, state: FusionState) -> tuple[float, Tensor]:
        """How weights follow from evidence alone, from the second step on.

        Args:
            state: as the rule left it after the first step.

        Returns:
            (a, b [G, n]): the weights of a step are a * (evidence for the token before) + b, and sum to 1.
        """
        ...

    def bounded(self, log_probs: Tensor, weights: Tensor, doubt: Doubt) -> Bounded:
        """Fuse the rows that are read, for any step but the first.

        Args:
            log_probs: [G, n' + 1, V] of row 0 and the passage rows that are read.
            weights: [G, n'] theirs, sum to 1.
            doubt: what is not known of them.
        """
        ...
