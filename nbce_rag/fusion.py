"""Fusion rules: n + 1 next-token distributions in, one out, with the weight of every passage.

At each decoding step a question over n passages has n + 1 rows of log-probabilities over the
vocabulary of V tokens: row 0 read no passage, row k read passage k. A rule pools the n passage rows,
usually contrasts them with row 0, and says how much each passage counts. Rules work on G questions at
once, so log-probs have the shape [G, n + 1, V].

Symbols, as in the sources: L_k the log-probs of row k, H_k its entropy in nats, beta the strength of
the contrast. Sources: 9617 and 9632 are Su Jianlin's articles at kexue.fm/archives/<number>; NAACL is
arXiv 2403.17552; PCED is arXiv 2601.08670; RAG is arXiv 2005.11401.

A rule of your own is any object with this one method (and, optionally, a `name`)::

    class Vote:
        name = "vote"

        def fuse(self, log_probs, state):
            rows = log_probs[:, 1:]                            # [G, n, V]
            weights = rows.amax(-1).softmax(-1)                # confident rows count more
            fused = (rows.exp() * weights[..., None]).sum(1).log()
            return Fused(fused, weights)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import InputError

__all__ = [
    "RULES",
    "Experts",
    "Fused",
    "FusionRule",
    "FusionState",
    "Max",
    "Mean",
    "MinEntropy",
    "Posterior",
    "contrast",
    "nucleus",
    "resolve_rule",
    "responsibilities",
]

NEG_INF = -math.inf


class Fused(NamedTuple):
    """What a rule returns for one step.

    Attributes:
        log_probs: [G, V] fused scores in nats, -inf for excluded tokens. They need not be normalised;
            sampling takes their softmax.
        weights: [G, n] non-negative, sums to 1 over the n passage rows: how much each row counted in
            this step, before the token is known. The evidence for the chosen token y follows from it by
            Bayes' rule, weights_k * p_k(y), normalised (see `responsibilities`).
    """

    log_probs: Tensor
    weights: Tensor


@dataclass(slots=True)
class FusionState:
    """What a rule may know besides the log-probs of this step.

    Attributes:
        scores: [G, n] retrieval scores s_k (cosine, in [-1, 1]), or None if unknown.
        relevance: [G, n] log p(question | passage k) - log p(question | no passage), nats, or None.
        refusal: [G, n] probability that row k answers with the prompt's refusal, or None.
        evidence: [G, n] evidence for the previous token, sums to 1; None at the first step.
        memory: the rule's own tensors, kept from step to step; first dimension G.
    """

    scores: Tensor | None = None
    relevance: Tensor | None = None
    refusal: Tensor | None = None
    evidence: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def known(self) -> tuple[bool, ...]:
        """Which of scores, relevance, refusal and evidence are known."""
        parts = (self.scores, self.relevance, self.refusal, self.evidence)
        return tuple(part is not None for part in parts)

    @classmethod
    def stack(cls, states: Sequence[FusionState]) -> FusionState:
        """The states of several questions as one; all must know the same things."""
        if len(states) == 1:
            return states[0]

        def join(*parts: Tensor | None) -> Tensor | None:
            known = [part for part in parts if part is not None]
            return torch.cat(known) if known else None

        names = states[0].memory
        return cls(
            scores=join(*(state.scores for state in states)),
            relevance=join(*(state.relevance for state in states)),
            refusal=join(*(state.refusal for state in states)),
            evidence=join(*(state.evidence for state in states)),
            memory={name: torch.cat([state.memory[name] for state in states]) for name in names},
        )

    def unstack(self, questions: int) -> list[FusionState]:
        """The reverse of `stack`."""
        if questions == 1:
            return [self]

        def part(values: Tensor | None, i: int) -> Tensor | None:
            return None if values is None else values[i : i + 1]

        return [
            FusionState(
                scores=part(self.scores, i),
                relevance=part(self.relevance, i),
                refusal=part(self.refusal, i),
                evidence=part(self.evidence, i),
                memory={name: values[i : i + 1] for name, values in self.memory.items()},
            )
            for i in range(questions)
        ]


@runtime_checkable
class Rule(Protocol):
    """Anything that fuses: one method."""

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        """[G, n + 1, V] normalised log-probs in, `Fused` out; n >= 1. Must not change its input."""
        ...


class FusionRule(ABC):
    """Base of the rules here: a frozen dataclass whose fields are the rule's numbers.

    Attributes:
        name: what `resolve_rule` and the command line call it.
        uses_relevance: whether it reads `FusionState.relevance`, which costs the model's output layer
            over the question's tokens in the prefill.
        uses_refusal: whether it reads `FusionState.refusal`.
    """

    name: str = ""
    uses_relevance: bool = False
    uses_refusal: bool = False

    @abstractmethod
    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        """Fuse one step; see `Rule.fuse`."""

    def untruncated(self) -> FusionRule:
        """The same rule with every token allowed, for scoring given texts."""
        return self


def contrast(pooled: Tensor, baseline: Tensor, beta: float | Tensor) -> Tensor:
    """(1 + beta) * pooled - beta * baseline; pooled alone where the baseline is -inf (9632).

    Args:
        pooled: [..., V] pooled log-probs, -inf allowed (and kept).
        baseline: [..., V] log-probs of the row without a passage, -inf where truncated.
        beta: strength, > -1; a tensor must broadcast.
    """
    return torch.where(baseline == NEG_INF, pooled, pooled + beta * (pooled - baseline))


def nucleus(log_probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Where top-p truncation cuts each row, and the entropy of what it keeps.

    Kept are the most probable tokens up to the one at which the mass before it has reached `top_p`;
    tokens that tie with the last one kept are kept too. The entropy is that of 9632 and `bojone/NBCE`:
    -sum p log p over the kept tokens, not renormalised.

    No full sort over the vocabulary: the largest 64 log-probs of a row nearly always hold 95% of its
    mass, and only rows where they do not are looked at further.

    Args:
        log_probs: [..., V] normalised log-probs; -inf allowed.
        top_p: in (0, 1]; 1 keeps everything.

    Returns:
        (threshold, entropy), both [...]: keep log-probs >= threshold; entropy in nats.
    """
    if top_p >= 1.0:
        threshold = torch.full_like(log_probs[..., 0], NEG_INF)
        return threshold, -(log_probs.exp() * log_probs.clamp(min=-100.0)).sum(-1)
    flat = log_probs.reshape(-1, log_probs.shape[-1])
    vocab = flat.shape[-1]
    threshold, entropy = flat.new_empty(len(flat)), flat.new_empty(len(flat))
    open_rows = torch.arange(len(flat), device=flat.device)
    k = min(64, vocab)
    while len(open_rows):
        rows = flat if len(open_rows) == len(flat) else flat[open_rows]
        top = rows.topk(k, dim=-1).values
        p = top.exp()
        before = p.cumsum(-1) - p
        last = (before < top_p).sum(-1, keepdim=True).clamp(min=1) - 1
        cut = top.gather(-1, last)
        kept = top >= cut
        # A cut at the smallest value seen may have further ties, or further mass, below it.
        done = (cut.squeeze(-1) > top[:, -1]) | (k == vocab)
        threshold[open_rows] = cut.squeeze(-1)
        entropy[open_rows] = -torch.where(kept, p * top.clamp(min=-100.0), 0.0).sum(-1)
        open_rows = open_rows[~done]
        k = vocab if k >= 4096 else min(8 * k, vocab)
    shape = log_probs.shape[:-1]
    return threshold.reshape(shape), entropy.reshape(shape)


def truncate(log_probs: Tensor, threshold: Tensor) -> Tensor:
    """[..., V] log-probs with everything below threshold [...] set to -inf."""
    return log_probs.masked_fill(log_probs < threshold[..., None], NEG_INF)


def responsibilities(weights: Tensor, token_log_probs: Tensor) -> Tensor:
    """Evidence for a chosen token: weights_k * p_k(token), normalised over the passages.

    Args:
        weights: [..., n] as in `Fused`.
        token_log_probs: [..., n] log p_k(token) of the passage rows.

    Returns:
        [..., n], sums to 1. Where no weighted row gives the token any probability (a constraint chose
        it), the weights themselves.
    """
    joint = weights.log() + token_log_probs
    impossible = (joint == NEG_INF).all(-1, keepdim=True)
    return torch.where(impossible, weights, joint.masked_fill(impossible, 0.0).softmax(-1))


def _one_hot(index: Tensor, n: int, like: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(index, n).to(like.dtype)


def _take_row(rows: Tensor, index: Tensor) -> Tensor:
    """rows [G, n, V], index [G] -> [G, V]."""
    return rows[torch.arange(len(index), device=rows.device), index]


@dataclass(frozen=True)
class MinEntropy(FusionRule):
    """Take the passage row that is surest, contrasted with row 0: the final rule of NBCE.

    k = argmin(H_k - eta [k was chosen before] - alpha * relevance_k), ties to the lower index;
    fused = contrast(L_k, L_0, beta). Sources: 9617 (the rule), 9632 (top-p, eta), NAACL; alpha is ours
    (0 is the published rule).

    Args:
        beta: contrast with the row without a passage, > -1.
        eta: nats taken off the entropy of the row chosen at the previous step.
        top_p: nucleus that every row is cut to first, (0, 1].
        alpha: entropy nats per nat of relevance.
    """

    beta: float = 0.25
    eta: float = 0.1
    top_p: float = 0.95
    alpha: float = 0.0

    name = "min-entropy"

    def __post_init__(self) -> None:
        _check(self, beta=self.beta > -1, eta=self.eta >= 0, top_p=0 < self.top_p <= 1, alpha=self.alpha >= 0)

    @property
    def uses_relevance(self) -> bool:  # type: ignore[override]
        return self.alpha > 0

    def untruncated(self) -> MinEntropy:
        return MinEntropy(self.beta, self.eta, 1.0, self.alpha)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        threshold, entropy = nucleus(log_probs, self.top_p)
        entropy = entropy[:, 1:]
        n = entropy.shape[-1]
        if state.evidence is not None:
            entropy = entropy - self.eta * _one_hot(state.evidence.argmax(-1), n, entropy)
        if self.alpha and state.relevance is not None:
            entropy = entropy - self.alpha * state.relevance
        k = entropy.argmin(-1)
        g = torch.arange(len(k), device=k.device)
        pooled = truncate(log_probs[g, k + 1], threshold[g, k + 1])
        baseline = truncate(log_probs[:, 0], threshold[:, 0])
        return Fused(contrast(pooled, baseline, self.beta), _one_hot(k, n, log_probs))


@dataclass(frozen=True)
class Mean(FusionRule):
    """Mean of the passage rows; with beta = n - 1 naive Bayes proper.

    log p(T | S_1..S_n) = (beta + 1) * mean_k L_k - beta * L_0 + const, exact for beta = n - 1 when the
    passages are independent given T (9617, equation 2). After top-p a token must stand in the nucleus
    of every row; where no token does, the rows are taken whole.

    Args:
        beta: contrast with row 0, > -1; None means n - 1.
        top_p: nucleus that every row is cut to first, (0, 1].
    """

    beta: float | None = None
    top_p: float = 0.95

    name = "mean"

    def __post_init__(self) -> None:
        _check(self, beta=self.beta is None or self.beta > -1, top_p=0 < self.top_p <= 1)

    def untruncated(self) -> Mean:
        return Mean(self.beta, 1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        n = log_probs.shape[1] - 1
        beta = n - 1.0 if self.beta is None else self.beta
        rows = log_probs
        if self.top_p < 1:
            threshold, _ = nucleus(log_probs, self.top_p)
            rows = truncate(log_probs, threshold)
            disjoint = (rows[:, 1:].amin(1) == NEG_INF).all(-1)
            rows = torch.where(disjoint[:, None, None], log_probs, rows)
        fused = contrast(rows[:, 1:].mean(1), rows[:, 0], beta)
        return Fused(fused, torch.full_like(log_probs[:, 1:, 0], 1.0 / n))


@dataclass(frozen=True)
class Max(FusionRule):
    """Elementwise maximum over the passage rows, contrasted with row 0 (9617's first finding).

    Not a distribution even before the contrast, so meant for greedy decoding.

    Args:
        beta: contrast with row 0, > -1.
        top_p: nucleus that every row is cut to first, (0, 1].
    """

    beta: float = 0.25
    top_p: float = 0.95

    name = "max"

    def __post_init__(self) -> None:
        _check(self, beta=self.beta > -1, top_p=0 < self.top_p <= 1)

    def untruncated(self) -> Max:
        return Max(self.beta, 1.0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        n = log_probs.shape[1] - 1
        threshold, _ = nucleus(log_probs, self.top_p)
        rows = truncate(log_probs, threshold)
        fused = contrast(rows[:, 1:].amax(1), rows[:, 0], self.beta)
        return Fused(fused, torch.full_like(log_probs[:, 1:, 0], 1.0 / n))


@dataclass(frozen=True)
class Experts(FusionRule):
    """PCED: every passage row is an expert, the best one speaks (arXiv 2601.08670).

    e_k = (1 + b_k) L_k - b_k L_0, with b_k the Jensen-Shannon divergence (nats) of row k and row 0 at
    the first step, clamped to [0, 1] and then kept; winner = argmax_k (max_v e_k(v) + gamma log r_k);
    fused = e_winner. r_k in (0, 1) is the retrieval score, clamped to [0.001, 1]; without scores the
    term drops out. Log-probs are used where the paper has logits, so that a row's constant offset
    changes nothing.

    Args:
        gamma: nats per nat of log relevance, >= 0.
    """

    gamma: float = 2.5

    name = "experts"

    def __post_init__(self) -> None:
        _check(self, gamma=self.gamma >= 0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows, baseline = log_probs[:, 1:], log_probs[:, :1]
        if "divergence" not in state.memory:
            state.memory["divergence"] = _jensen_shannon(rows, baseline).clamp(0.0, 1.0)
        experts = contrast(rows, baseline, state.memory["divergence"][..., None])
        best = experts.amax(-1)
        if state.scores is not None:
            best = best + self.gamma * state.scores.clamp(0.001, 1.0).log()
        k = best.argmax(-1)
        return Fused(_take_row(experts, k), _one_hot(k, rows.shape[1], log_probs))


@dataclass(frozen=True)
class Posterior(FusionRule):
    """A hidden Markov model over passages: which one supports the next token?

    Prior:      log pi = log_softmax_k(s_k / tau + alpha * relevance_k + log(1 - refusal_k)).
    Predict:    log p = logsumexp_k(log w_k + L_k), w = pi at the first step.
    Contrast:   (1 + beta) log p - beta L_0 over the tokens with p >= cutoff * max p; others -inf.
    Update:     w_k <- w_k p_k(y) for the token y that was chosen, normalised (the evidence for y);
                then w <- (1 - epsilon) w + epsilon pi.

    Terms of the prior that are unknown drop out. epsilon = 0 makes the product of the predictions the
    marginal of RAG-Sequence, epsilon = 1 a fixed mixture as in RAG-Token and REPLUG (arXiv 2301.12652).
    9617 closes by asking whether a hidden Markov model has a place in NBCE; this is one.

    Args:
        beta: contrast with row 0, > -1.
        tau: temperature of the retrieval scores, > 0.
        alpha: weight of the question likelihood, >= 0.
        epsilon: probability of moving on to a passage drawn from the prior, in [0, 1].
        cutoff: tokens less probable than cutoff times the best are excluded, in [0, 1].
    """

    beta: float = 0.25
    tau: float = 0.1
    alpha: float = 0.3
    epsilon: float = 0.05
    cutoff: float = 0.1

    name = "posterior"
    uses_refusal = True

    def __post_init__(self) -> None:
        _check(
            self,
            beta=self.beta > -1,
            tau=self.tau > 0,
            alpha=self.alpha >= 0,
            epsilon=0 <= self.epsilon <= 1,
            cutoff=0 <= self.cutoff <= 1,
        )

    @property
    def uses_relevance(self) -> bool:  # type: ignore[override]
        return self.alpha > 0

    def untruncated(self) -> Posterior:
        return Posterior(self.beta, self.tau, self.alpha, self.epsilon, 0.0)

    def log_prior(self, state: FusionState, like: Tensor) -> Tensor:
        """log pi, shape and dtype of `like` [G, n]."""
        logits = torch.zeros_like(like)
        if state.scores is not None:
            logits = logits + state.scores / self.tau
        if state.relevance is not None:
            logits = logits + self.alpha * state.relevance
        if state.refusal is not None:
            # The floor keeps a finite prior when every row is sure to refuse.
            logits = logits + torch.log1p(-state.refusal.clamp(0.0, 1.0 - 1e-6))
        return logits.log_softmax(-1)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows, baseline = log_probs[:, 1:], log_probs[:, 0]
        if "log_prior" not in state.memory:
            state.memory["log_prior"] = self.log_prior(state, rows[..., 0])
        log_prior = state.memory["log_prior"]
        weights = log_prior.exp()
        if state.evidence is not None:
            weights = (1 - self.epsilon) * state.evidence + self.epsilon * weights
        joint = rows + weights.log()[..., None]
        if self.cutoff == 0:
            return Fused(contrast(joint.logsumexp(1), baseline, self.beta), weights)
        # p(v) lies between max_k and n * max_k of the joint, so the few tokens that can pass the cutoff
        # are found without an exponential over the vocabulary; only they get their logsumexp.
        peak = joint.amax(1)
        floor = peak.amax(-1, keepdim=True) + math.log(self.cutoff / rows.shape[1]) - 1e-3
        g, v = (peak >= floor).nonzero(as_tuple=True)
        log_p = joint[g, :, v].logsumexp(-1)
        best = torch.full_like(peak[:, 0], NEG_INF).scatter_reduce(0, g, log_p, "amax")
        keep = log_p >= best[g] + math.log(self.cutoff)
        g, v, log_p = g[keep], v[keep], log_p[keep]
        fused = torch.full_like(baseline, NEG_INF)
        fused[g, v] = contrast(log_p, baseline[g, v], self.beta)
        return Fused(fused, weights)


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats over the last dimension; log-probs in, broadcast."""
    middle = torch.logaddexp(p, q) - math.log(2.0)

    def divergence(a: Tensor) -> Tensor:
        return torch.where(a == NEG_INF, 0.0, a.exp() * (a - middle)).sum(-1)

    return 0.5 * (divergence(p) + divergence(q.expand_as(p)))


def _check(rule: Any, **valid: bool) -> None:
    for option, ok in valid.items():
        value = getattr(rule, option)
        if not ok or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{type(rule).__name__}: {option}={value!r} is out of range; {_RANGES[option]}.")


_RANGES = {
    "beta": "beta is a finite number above -1 (0 switches the contrast off)",
    "eta": "eta is a finite number >= 0",
    "top_p": "top_p lies in (0, 1] (1 switches truncation off)",
    "alpha": "alpha is a finite number >= 0",
    "gamma": "gamma is a finite number >= 0",
    "tau": "tau is a finite number above 0",
    "epsilon": "epsilon lies in [0, 1]",
    "cutoff": "cutoff lies in [0, 1]",
}

RULES: dict[str, type[FusionRule]] = {rule.name: rule for rule in (MinEntropy, Mean, Max, Experts, Posterior)}


def resolve_rule(rule: str | Rule, **numbers: float) -> Rule:
    """A rule by name with its numbers, or the instance given.

    Args:
        rule: one of `RULES`, or any object with a `fuse` method.
        **numbers: fields of the named rule, for instance beta=0.5.

    Raises:
        InputError: unknown name, unknown or impossible number, or an object that cannot fuse.
    """
    if isinstance(rule, str):
        if rule not in RULES:
            raise InputError(f"Unknown fusion rule {rule!r}; choose one of {', '.join(RULES)}.")
        known = {f.name for f in fields(RULES[rule])}  # type: ignore[arg-type]
        if unknown := sorted(set(numbers) - known):
            raise InputError(f"Rule {rule!r} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return RULES[rule](**numbers)
    if isinstance(rule, type) or not isinstance(rule, Rule):
        raise InputError(
            f"fusion={rule!r} is neither a rule's name ({', '.join(RULES)}) nor an object with a fuse method."
        )
    return rule
