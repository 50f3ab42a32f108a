"""A hidden Markov model over passages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..checks import Range
from .base import NEG_INF, Fused, FusionRule, FusionState
from .bounds import Bounded, Doubt
from .numbers import CONTRAST, FOCUS, SHARE, WEIGHT, number
from .truncation import contrast

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Posterior"]

_LEAST = 0.03


@dataclass(frozen=True)
class Posterior(FusionRule):
    """A hidden Markov model over passages: which one supports the next token?

    Prior:      log pi = log_softmax_k(s_k / tau + alpha * relevance_k + log(1 - refusal_k)), and 0 where pi
                is below least * max pi.
    Predict:    log p = logsumexp_k(log w_k + L_k), w = pi at the first step.
    Contrast:   log p + beta (log p - L_0) over the tokens with p >= cutoff * max p; others -inf. To the
                first token's score comes gamma (log p - log b), b = sum_k (1 - w_k) p_k / (n - 1): how the
                answer would begin over the other passages, such as with an echo of the question, gains
                nothing. Not so later on: the end of an answer is likely in every row, and would lose to a
                continuation that is made up. With one passage there is no such term.
                Both contrasts count `opening` times at the first token: 1 in short answers, where it is the
                fact itself, and 0 in long ones, where it is form. "To" and "You can" are likely in every
                row, so that a contrast leaves a code fence or a heading to begin with.
    Update:     w_k <- w_k p_k(y) for the token y that was chosen, normalised (the evidence for y);
                then w <- (1 - epsilon) w + epsilon pi.

    Terms of the prior that are unknown drop out. epsilon = 0 makes the product of the predictions the
    marginal of RAG-Sequence, epsilon = 1 a fixed mixture as in RAG-Token and REPLUG (arXiv 2301.12652).
    9617 closes by asking whether a hidden Markov model has a place in NBCE; this is one.

    Args:
        beta: contrast with row 0, > -1.
        gamma: contrast of the first token with the other passages, >= 0.
        tau: temperature of the retrieval scores, >= 0.0001.
        alpha: weight of the question likelihood, >= 0.
        opening: share of the contrasts that counts at the first token, in [0, 1]; None is 0 where a long
            answer is asked for (`for_long`), and 1 elsewhere.
        epsilon: probability of moving on to a passage drawn from the prior, in [0, 1].
        cutoff: tokens less probable than cutoff times the best are excluded, in [0, 1].
        focus: share of the prior whose passages are read by sentences too, in [0, 1].
        least: rows whose prior is less than this share of the largest have none, so that they are read for
            the first token alone; in [0, 1]. None is 0 where a long answer is asked for (`for_long`), since
            it moves from passage to passage, and 0.03 elsewhere.
        together: how many of the best passages one further row reads together, as one prompt would; 0 and 1
            are none, None is 4 where a long answer is asked for (`for_long`), and 0 elsewhere.
        extract: share of the prior of one further row, which reads the sentences nearest the question of all
            passages together where the question takes two of them (`nbce_rag.decoding.extract`), in [0,
            0.95]; 0 reads none, and neither does a rule with `together`.
    """

    beta: float = number(0.25, CONTRAST, grid=(0.0, 0.1, 0.25, 0.5, 1.0))
    gamma: float = number(1.0, WEIGHT, grid=(0.0, 0.5, 1.0, 2.0, 4.0))
    tau: float = number(0.1, Range(1e-4), grid=(0.03, 0.05, 0.1, 0.2, 0.5))
    alpha: float = number(0.3, WEIGHT, grid=(0.0, 0.1, 0.3, 0.5, 1.0))
    epsilon: float = number(0.05, SHARE, grid=(0.0, 0.02, 0.05, 0.2, 1.0))
    cutoff: float = number(0.05, SHARE, grid=(0.0, 0.05, 0.1, 0.3))
    focus: float = number(0.5, FOCUS, grid=(0.0, 0.3, 0.5, 0.8))
    least: float | None = number(None, SHARE, grid=(0.0, 0.01, 0.03, 0.1))
    opening: float | None = number(None, SHARE, grid=(0.0, 0.5, 1.0))
    together: float | None = number(None, Range(0, note="0 for none"), grid=(0, 2, 4, 8))
    extract: float = number(0.0, Range(0, 0.95, note="0 for none"), grid=(0.0, 0.2, 0.5, 0.8))

    name = "posterior"
    uses_refusal = True

    @property
    def uses_relevance(self) -> bool:  # type: ignore[override]
        return self.alpha > 0

    def untruncated(self) -> Posterior:
        # Without the cutoff a ratio of two mixtures is mostly noise from their tails.
        # And a text that is given may rest on a passage that is no answer to the question.
        return replace(self, gamma=0.0, cutoff=0.0, least=0.0)

    def for_long(self) -> Posterior:
        return replace(
            self,
            opening=0.0 if self.opening is None else self.opening,
            least=0.0 if self.least is None else self.least,
            together=4 if self.together is None else self.together,
        )

    def apart(self) -> Posterior:
        return replace(self, together=0, extract=0.0)

    def log_prior(self, state: FusionState, like: Tensor) -> Tensor:
        """log pi, shape and dtype of `like` [G, n]."""
        import torch

        logits = torch.zeros_like(like)
        if state.scores is not None:
            logits = logits + state.scores / self.tau
        if state.relevance is not None:
            logits = logits + self.alpha * state.relevance
        if self.extract and state.extract is not None:
            logits = _shared(logits, state.extract > 0, self.extract)
        if state.refusal is not None:
            # The floor keeps a finite prior when every row is sure to refuse.
            logits = logits + torch.log1p(-state.refusal.clamp(0.0, 1.0 - 1e-6))
        return logits.log_softmax(-1).to(like.dtype)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        import torch

        rows, baseline = log_probs[:, 1:], log_probs[:, 0]
        if "log_prior" not in state.memory:
            log_prior = self.log_prior(state, rows[..., 0])
            least = _LEAST if self.least is None else self.least
            if least:
                lowest = log_prior.amax(-1, keepdim=True) + math.log(least)
                log_prior = log_prior.masked_fill(log_prior < lowest, NEG_INF)
            state.memory["log_prior"] = log_prior
        weights = state.memory["log_prior"].softmax(-1)  # anew where passages were dropped
        if state.evidence is not None:
            weights = (1 - self.epsilon) * state.evidence + self.epsilon * weights
        share = 1.0 if self.opening is None or state.evidence is not None else self.opening
        beta, gamma = share * self.beta, share * self.gamma
        lifts = gamma > 0 and state.evidence is None and rows.shape[1] > 1
        # Looking only at the likely tokens spares a CPU most of the work, and a GPU nothing.
        if self.cutoff == 0 or rows.device.type != "cpu":
            log_p = (rows + weights.log()[..., None]).logsumexp(1)
            if self.cutoff:
                lowest = log_p.amax(-1, keepdim=True) + math.log(self.cutoff)
                log_p = log_p.masked_fill(log_p < lowest, NEG_INF)
            fused = contrast(log_p, baseline, beta)
            if lifts:
                fused = fused + gamma * _lift(log_p, rows.movedim(1, -1), weights[:, None])
            return Fused(fused, weights)
        g, v, log_p, best = self._likely(rows, weights, self.cutoff)
        keep = log_p >= best[g] + math.log(self.cutoff)
        g, v, log_p = g[keep], v[keep], log_p[keep]
        fused = torch.full_like(baseline, NEG_INF)
        scores = contrast(log_p, baseline[g, v], beta)
        if lifts:
            scores = scores + gamma * _lift(log_p, rows[g, :, v], weights[g])
        fused[g, v] = scores
        return Fused(fused, weights)

    def drift(self, state: FusionState) -> tuple[float, Tensor]:
        """See `nbce_rag.fusion.bounds.BoundedRule.drift`."""
        return 1 - self.epsilon, self.epsilon * state.memory["log_prior"].softmax(-1)

    def bounded(self, log_probs: Tensor, weights: Tensor, doubt: Doubt) -> Bounded:
        """See `nbce_rag.fusion.bounds.BoundedRule.bounded`."""
        import torch

        rows, baseline = log_probs[:, 1:], log_probs[:, 0]
        log_rest = math.log(doubt.rest) if doubt.rest else NEG_INF
        # A token whose mixture is below this share of the best one's cannot pass the cutoff in truth either.
        share = self.cutoff * math.exp(doubt.low - doubt.spread) / 2
        if self.cutoff == 0:
            log_p = (rows + weights.log()[..., None]).logsumexp(1)
            g, v = (log_p < math.inf).nonzero(as_tuple=True)
            log_p, best = log_p[g, v], log_p.amax(-1)
        else:
            g, v, log_p, best = self._likely(rows, weights, share)
        lowest, highest = log_p + doubt.low, _log_add(log_p + doubt.spread, log_rest)
        best_low, best_high = best + doubt.low, _log_add(best + doubt.spread, log_rest)
        cut = math.log(self.cutoff) if self.cutoff else NEG_INF
        there = baseline[g, v]

        def scattered(values: Tensor, stays: Tensor) -> Tensor:
            scores = contrast(values, there, self.beta).masked_fill(~stays, NEG_INF)
            return torch.full_like(baseline, NEG_INF).index_put_((g, v), scores)

        fused = scattered(log_p, log_p >= best[g] + cut)
        low = scattered(lowest, lowest >= best_high[g] + cut)
        high = scattered(highest, highest >= best_low[g] + cut)
        if self.cutoff:
            # What the rows that are not read may say alone: where that could pass the cutoff, all is open.
            unknown = log_rest + math.log(2) >= best_low + cut
            low = low.masked_fill(unknown[:, None], NEG_INF)
            high = high.masked_fill(unknown[:, None], math.inf)
        return Bounded(Fused(fused, weights), low, high)

    @staticmethod
    def _likely(rows: Tensor, weights: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Questions [N] and tokens [N] that may have this share of the best p, their log p, the best one [G].

        p(v) lies between max_k and n * max_k of w_k p_k(v), so these few tokens are found without an
        exponential over the vocabulary; only they get their logsumexp.
        """
        import torch

        joint = rows + weights.log()[..., None]
        peak = joint.amax(1)
        floor = peak.amax(-1, keepdim=True) + math.log(share) - math.log(rows.shape[1]) - 1e-3
        g, v = (peak >= floor).nonzero(as_tuple=True)
        log_p = joint[g, :, v].logsumexp(-1)
        return g, v, log_p, torch.full_like(peak[:, 0], NEG_INF).scatter_reduce(0, g, log_p, "amax")


def _shared(logits: Tensor, some: Tensor, share: float) -> Tensor:
    """Logits [G, n] with which some of the rows, [G, n], have a share of the prior in all."""
    inside = logits.masked_fill(~some, NEG_INF).logsumexp(-1, keepdim=True)
    outside = logits.masked_fill(some, NEG_INF).logsumexp(-1, keepdim=True)
    has_both = some.any(-1, keepdim=True) & ~some.all(-1, keepdim=True)
    shifted = logits + (outside - inside) + math.log(share / (1 - share))
    return logits.where(~(some & has_both), shifted)


def _log_add(log_p: Tensor, log_rest: float) -> Tensor:
    import torch

    return torch.logaddexp(log_p, torch.full_like(log_p, log_rest))


def _lift(log_p: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """log p - log b, shape of log_p; passages are the last dimension of `rows` and `weights`."""
    import torch

    n = weights.shape[-1]
    # 1 - w as the sum of the others' weights, from both ends: where w is all but 1, the difference is mostly
    # rounding.
    before = torch.nn.functional.pad(weights, (1, 0))[..., :-1].cumsum(-1)
    after = torch.nn.functional.pad(weights, (0, 1))[..., 1:].flip(-1).cumsum(-1).flip(-1)
    others = (before + after).log()
    log_b = (rows + others - math.log(n - 1)).logsumexp(-1)
    unknown = (log_p == NEG_INF) | (log_b == NEG_INF)
    return torch.where(unknown, 0.0, log_p - log_b)
