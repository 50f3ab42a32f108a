"""Reading a text that is there already: all rows read its tokens in one pass, and rules look on.

Nothing is chosen, so no row has to wait for the others: the text goes through the model in pieces of as many
tokens as memory allows, and what the rows say of each token is fused token by token, exactly as in decoding.
Several rules, or one rule over several choices of rows, look at the same pass: rows know nothing of each
other, so leaving one out takes no reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..fusion import FusionState, Rule, responsibilities
from ..fusion.truncation import nucleus
from ..models.model import Rows, Step
from .choice import fuse
from .decoder import LOGITS_BYTES

__all__ = ["ForcedStep", "Onlooker", "read_text"]


@dataclass(frozen=True, slots=True)
class ForcedStep:
    """One token of a text.

    Attributes:
        step: the same as when it is decoded; `evidence` and `entropies` are over the rows that were fused.
        mixture: log sum_k w_k p_k(token), nats: how likely it was to the passages together, without contrast
            or cutoff; without passages that of row 0.
    """

    step: Step
    mixture: float


@dataclass(eq=False)
class Onlooker:
    """A rule over some rows of a text.

    Attributes:
        rows: their places in the batch, row 0 first.
        rule: fuses them; not used where there is only row 0.
        state: what the rule may know, with G = 1 and a column a passage row.
        entropies: whether its steps carry the entropy of each row.
        steps: what it saw.
    """

    rows: tuple[int, ...]
    rule: Rule
    state: FusionState
    entropies: bool = False
    steps: list[ForcedStep] = field(default_factory=list, init=False)

    @property
    def log_prob(self) -> float:
        """Log-prob of the text so far under the fused, normalised distribution, nats."""
        return math.fsum(one.step.log_prob for one in self.steps)

    def see(self, log_probs: Tensor, token: int) -> None:
        """Take a token in.

        Args:
            log_probs: [R, V] of all rows of the batch, before the token.
            token: its id.
        """
        rows = log_probs if len(self.rows) == len(log_probs) else log_probs[list(self.rows)]
        fused = fuse(self.rule, rows[None], self.state)
        log_prob = float(fused.log_probs[0, token] - fused.log_probs[0].logsumexp(-1))
        of_token, weights = rows[:, token], fused.weights[0]
        mixture = float(of_token[0])
        evidence: tuple[float, ...] = ()
        if len(of_token) > 1:
            shares = responsibilities(weights, of_token[1:])
            self.state.evidence = shares[None]
            evidence = tuple(shares.tolist())
            mixture = float((weights.log() + of_token[1:]).logsumexp(-1))
        gain = mixture - float(of_token[0])
        step = Step(
            question=0,
            token=token,
            log_prob=log_prob,
            evidence=evidence,
            gain=gain if math.isfinite(gain) else 0.0,
            entropies=tuple(nucleus(rows, 1.0)[1].tolist()) if self.entropies else (),
            row_log_probs=tuple(of_token.tolist()),
        )
        self.steps.append(ForcedStep(step, mixture))


def read_text(
    rows: Rows, log_probs: Tensor, ids: Sequence[int], onlookers: Sequence[Onlooker], batch_tokens: int
) -> None:
    """Let all rows read a text, and onlookers see what the rows say of each of its tokens.

    Args:
        rows: prompts read; there is room for all tokens but the last, which nobody needs to read.
        log_probs: [R, V] of the first token.
        ids: the text, at least one token.
        onlookers: their rows index the batch.
        batch_tokens: rows times length of one pass, at most; one token goes in any case.
    """
    for token, of_rows in zip(ids, _before_each(rows, log_probs, ids, batch_tokens), strict=True):
        for onlooker in onlookers:
            onlooker.see(of_rows, token)


def _before_each(rows: Rows, log_probs: Tensor, ids: Sequence[int], batch_tokens: int) -> Iterator[Tensor]:
    """[R, V] log-probs before each token."""
    yield log_probs
    count, vocab_size = log_probs.shape
    most = max(1, min(batch_tokens // count, LOGITS_BYTES // (4 * vocab_size * count)))
    for first in range(0, len(ids) - 1, most):
        piece = torch.tensor(ids[first : min(first + most, len(ids) - 1)])
        yield from rows.step(piece.expand(count, -1)).unbind(1)
