"""How probable each of several given answers is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..evidence.evidence import leading

__all__ = ["ChoiceScores"]


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """How probable each choice is.

    Attributes:
        choices: the texts.
        log_probs: fused log-prob of each, nats, summed over its tokens.
        tokens: number of tokens of each.
    """

    choices: tuple[str, ...]
    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def per_token(self) -> tuple[float, ...]:
        """Log-probs divided by length, nats a token: fair to long choices."""
        return tuple(value / count for value, count in zip(self.log_probs, self.tokens, strict=True))

    @property
    def best(self) -> str:
        """The most probable choice as a whole; the first of equals."""
        return self.choices[leading(self.log_probs)]

    @property
    def best_per_token(self) -> str:
        """The most probable choice by `per_token`; the first of equals."""
        return self.choices[leading(self.per_token)]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Softmax of `log_probs`: given that the answer is one of the choices."""
        highest = max(self.log_probs)
        odds = [math.exp(value - highest) for value in self.log_probs]
        total = math.fsum(odds)
        return tuple(value / total for value in odds)
