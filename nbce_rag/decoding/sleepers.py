"""Passage rows that are not read for a while, since they cannot change what is chosen.

Let A be the passage rows of a question that are read and S those that sleep. With weights w_k before token y,
p(y) = sum_k w_k p_k(y), evidence e_k = w_k p_k(y) / p(y), and the next weights are a e_k + b_k (for
`posterior`, a = 1 - epsilon and b = epsilon pi). No p_k(y) is above 1. So of a row in S that weighed at most
m_k before y, the evidence is at most m_k / (m_k + q), where q is what the rows in A give y at least.

Rows in A are followed as if there were no others. Their evidence is (1 - sum_S e) times that, but for a
factor whose logs differ by no more than `spread` from row to row: y multiplies them by what is known, and the
term b, which is the same however much evidence S has, adds -log(1 - sum_S e) a token at most.

Both bounds say how far the evidence may be off, and enter the rule's bounds of its scores
(`nbce_rag.fusion.bounds`). As long as no choice hangs on them, rows sleep; the rows that wake read all tokens
that they lack in one pass, and what they would have weighed is computed from the beginning of their sleep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fusion.bounds import Doubt

__all__ = ["TOLERANCE", "Sleepers"]

TOLERANCE = 5e-5
"""How far the evidence for any passages together may be off while rows sleep."""

_NIGHT = 24  # tokens that rows should sleep for: reading what they lack takes as long as having read it
_LEAST_SURPRISE = 0.02  # nats a token
_LEAVING = (
    TOLERANCE / 50
)  # and where the bound is too wide, the heaviest wake until what is left is below this
_ROUNDING = 1e-5  # nats by which sums may differ that were taken over other rows


@dataclass(frozen=True)
class _Belief:
    """What is known behind a token.

    Attributes:
        evidence: [n] of the rows that are read, as if there were no others; 0 for those that sleep.
        most: [n] the evidence of each row that sleeps is at most this; 0 for those that are read.
        spread: nats, as above.
    """

    evidence: Tensor
    most: Tensor
    spread: float = 0.0

    @property
    def asleep(self) -> float:
        """The rows that sleep have at most this share of the evidence."""
        return min(float(self.most.sum()), 1 - 1e-9)

    @property
    def error(self) -> float:
        """The evidence for any rows together is off by no more than this."""
        return self.asleep + math.tanh(self.spread / 4)


@dataclass(frozen=True)
class _Seen:
    """What rows give a token.

    Attributes:
        log_probs: [n]; 0 of a row that has not read it.
        is_read: [n] bool.
    """

    log_probs: Tensor
    is_read: Tensor


class Sleepers:
    """What is known of the weights of one question's passage rows while some of them sleep.

    Args:
        drift: a and b [n], as `nbce_rag.fusion.bounds.BoundedRule.drift` has them.
        evidence: [n] for the last token, exact.
        tokens: of the answer so far.

    Attributes:
        asleep: [n] bool.
        read: of each row that sleeps, how many tokens of the answer it has read.
    """

    def __init__(self, drift: tuple[float, Tensor], evidence: Tensor, tokens: int) -> None:
        self._stay, restart = drift
        self._restart = restart.cpu().double()
        exact = evidence.cpu().double()
        self._first = self._belief = _Belief(exact, torch.zeros_like(exact))
        self._tokens_before = tokens
        self._history: list[_Seen] = []  # of each token since then
        self.asleep = torch.zeros(len(exact), dtype=torch.bool)
        self.read: dict[int, int] = {}

    @property
    def awake(self) -> list[int]:
        """Indexes of the passage rows that are read."""
        return (~self.asleep).nonzero()[:, 0].tolist()

    @property
    def evidence(self) -> Tensor:
        """[n] for the last token; exact where no row sleeps."""
        return self._belief.evidence

    @property
    def most(self) -> Tensor:
        """[n] weights before the next token: what they are at most."""
        belief = self._belief
        highest = torch.where(self.asleep, belief.most, belief.evidence * math.exp(belief.spread))
        return self._stay * highest + self._restart

    @property
    def weights(self) -> Tensor:
        """[n] weights before the next token, as if there were only the rows that are read."""
        weights = (self._stay * self._belief.evidence + self._restart).masked_fill(self.asleep, 0.0)
        return weights / weights.sum()

    @property
    def doubt(self) -> Doubt:
        """How far these may be off."""
        spread = self._belief.spread - math.log1p(-self._belief.asleep)
        rest = float(self.most[self.asleep].sum())
        return Doubt(min(rest, 1 - 1e-9), spread + _ROUNDING)

    def drowsy(self, barred: set[int], surprise: float) -> list[int]:
        """Rows that are read and weigh so little, together with those asleep, that they may sleep for long.

        Args:
            barred: rows that may not.
            surprise: nats a token that bounds are expected to grow by, as the answer's tokens so far cost.
        """
        most = (self.most + _NIGHT * self._restart) * math.exp(_NIGHT * max(surprise, _LEAST_SURPRISE))
        room = TOLERANCE - float(most[self.asleep].sum())
        rows: list[int] = []
        for row in most.argsort().tolist():
            if self.asleep[row] or row in barred:
                continue
            room -= float(most[row])
            if room < 0 or len(rows) + int(self.asleep.sum()) >= len(most) - 1:
                break
            rows.append(row)
        return rows

    def sleep(self, rows: list[int], tokens: int) -> None:
        """Let rows sleep that have read so many tokens of the answer."""
        self.read |= dict.fromkeys(rows, tokens)
        self._fall_asleep(torch.zeros_like(self.asleep).index_fill_(0, torch.tensor(rows), True))

    def _fall_asleep(self, rows: Tensor) -> None:
        if not bool(rows.any()):
            return
        belief = self._belief
        most = torch.where(rows, belief.evidence * math.exp(belief.spread), belief.most)
        evidence = belief.evidence.masked_fill(rows, 0.0)
        self._belief = _Belief(evidence / evidence.sum(), most, belief.spread)
        self.asleep = self.asleep | rows

    def holds(self, log_probs: Tensor) -> bool:
        """Whether the evidence for a token with these log-probs [n] is known well enough.

        Those of rows that sleep are not looked at.
        """
        return self._after(self._unread(log_probs)).error <= TOLERANCE

    def heaviest(self, log_probs: Tensor) -> list[int]:
        """The rows to wake where it is not."""
        most = self._after(self._unread(log_probs)).most
        rows: list[int] = []
        rest = float(most.sum())
        for row in most.argsort(descending=True).tolist():
            if rows and (rest <= _LEAVING or not self.asleep[row]):
                break
            rows.append(row)
            rest -= float(most[row])
        return rows

    def take(self, log_probs: Tensor) -> None:
        """A token was chosen that the rows give these log-probs [n]."""
        values = self._unread(log_probs)
        self._belief = self._after(values)
        self._history.append(_Seen(values, ~self.asleep))

    def wake(self, rows: list[int], log_probs: Tensor) -> None:
        """Rows have read what they lacked.

        Args:
            rows: those that wake; all of them have read equally many tokens before.
            log_probs: [n', T] theirs, of all but the first of the tokens that they lacked.
        """
        for row, values in zip(rows, log_probs.cpu().double().tolist(), strict=True):
            first = self.read.pop(row) + 1 - self._tokens_before
            for seen, value in zip(self._history[first:], values, strict=True):
                seen.log_probs[row] = value
                seen.is_read[row] = True
        asleep = self.asleep.clone()
        asleep[rows] = False
        self._replay(asleep)

    def _replay(self, asleep: Tensor) -> None:
        """Follow all tokens anew from the last one behind which all was known."""
        self._belief, self.asleep = self._first, torch.zeros_like(asleep)
        for seen in self._history:
            self._fall_asleep(~seen.is_read & ~self.asleep)
            self._belief = self._after(seen.log_probs)
        self._fall_asleep(asleep & ~self.asleep)  # before any token was chosen

    def _unread(self, log_probs: Tensor) -> Tensor:
        """[n] log-probs of a token; those of rows that sleep are 0 at most."""
        return log_probs.cpu().double().masked_fill(self.asleep, 0.0)

    def _after(self, log_probs: Tensor) -> _Belief:
        """What is known behind a token of these log-probs [n]; those of rows that sleep are not looked at."""
        doubt, most = self.doubt, self.most.masked_fill(~self.asleep, 0.0)
        joint = torch.where(self.asleep, 0.0, self.weights * log_probs.exp())
        total = float(joint.sum())
        if total == 0.0:  # a token that none of them allows
            return _Belief(self.weights, self.asleep.double(), doubt.spread - _ROUNDING)
        least = total * math.exp(doubt.low)
        return _Belief(joint / total, most / (most + least), doubt.spread - _ROUNDING)
