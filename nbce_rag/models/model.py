"""What a backend is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Reading"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a suffix tells before the first token is chosen.

    Attributes:
        log_probs: [R, V] next-token log-probs of each row, float32.
        question: [R] log p(question tokens | row), nats, or None if it was not asked for. A question
            token that is the very first token of a row has no prediction and is left out in all rows.
        refusal: [R] probability of the refusal, or None.
    """

    log_probs: Tensor
    question: Tensor | None
    refusal: Tensor | None

    def joined(self, other: Reading) -> Reading:
        """These rows and another reading's passage rows; the row 0 of both is the same."""

        def join(mine: Tensor | None, others: Tensor | None) -> Tensor | None:
            return None if mine is None or others is None else torch.cat([mine, others[1:]])

        log_probs = torch.cat([self.log_probs, other.log_probs[1:]])
        return Reading(log_probs, join(self.question, other.question), join(self.refusal, other.refusal))
