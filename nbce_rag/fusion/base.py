"""What every fusion rule takes, keeps and returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from . import numbers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Fused", "FusionRule", "FusionState", "Rule", "one_hot", "responsibilities"]

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
        joint: [G, n] 1 for a row that reads all passages beside rows that do not, else 0; None without one.
        extract: [G, n] likewise for a row that reads sentences of several passages.
        memory: the rule's own tensors, kept from step to step; first dimension G.
    """

    scores: Tensor | None = None
    relevance: Tensor | None = None
    refusal: Tensor | None = None
    evidence: Tensor | None = None
    joint: Tensor | None = None
    extract: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def presence(self) -> tuple[bool, ...]:
        """Which of scores, relevance, refusal, evidence, joint and extract there are."""
        parts = (self.scores, self.relevance, self.refusal, self.evidence, self.joint, self.extract)
        return tuple(part is not None for part in parts)

    @classmethod
    def stack(cls, states: Sequence[FusionState]) -> FusionState:
        """The states of several questions as one; all must know the same things."""
        import torch

        if len(states) == 1:
            return states[0]

        def join(*parts: Tensor | None) -> Tensor | None:
            tensors = [part for part in parts if part is not None]
            return torch.cat(tensors) if tensors else None

        names = states[0].memory
        return cls(
            scores=join(*(state.scores for state in states)),
            relevance=join(*(state.relevance for state in states)),
            refusal=join(*(state.refusal for state in states)),
            evidence=join(*(state.evidence for state in states)),
            joint=join(*(state.joint for state in states)),
            extract=join(*(state.extract for state in states)),
            memory={name: torch.cat([state.memory[name] for state in states]) for name in names},
        )

    def keep(self, passages: Tensor) -> FusionState:
        """The same for some of the passages [n'] (indexes). Tensors [G, n] in the memory lose the others."""
        some = next(part for part in (self.evidence, self.scores, self.relevance) if part is not None)
        n = some.shape[1]

        def part(values: Tensor | None) -> Tensor | None:
            if values is None or values.dim() < 2 or values.shape[1] != n:
                return values
            return values.index_select(1, passages.to(values.device))

        evidence = part(self.evidence)
        return FusionState(
            scores=part(self.scores),
            relevance=part(self.relevance),
            refusal=part(self.refusal),
            evidence=None if evidence is None else evidence / evidence.sum(-1, keepdim=True),
            joint=part(self.joint),
            extract=part(self.extract),
            memory={name: rest for name, values in self.memory.items() if (rest := part(values)) is not None},
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
                joint=part(self.joint, i),
                extract=part(self.extract, i),
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
    """Base of the rules here: a frozen dataclass whose fields are the rule's numbers (`numbers.number`).

    Attributes:
        name: what `resolve_rule` and the command line call it.
        uses_relevance: whether it reads `FusionState.relevance`, which costs the model's output layer
            over the question's tokens in the prefill.
        uses_refusal: whether it reads `FusionState.refusal`.
        focus: the fewest passages that hold this share of the weights at the first token are read once
            more if all of them are prose, a sentence to a row, and these rows are fused with the others; in
            [0, 1], 0 reads none.
    """

    name: str = ""
    focus: float = 0.0
    uses_relevance: bool = False
    uses_refusal: bool = False

    def __post_init__(self) -> None:
        numbers.check(self)

    @property
    def label(self) -> str:
        """The name with the numbers that are not at their defaults: "posterior(epsilon=0.2)"."""
        changed = ",".join(f"{name}={value:g}" for name, value in numbers.changed(self).items())
        return f"{self.name}({changed})" if changed else self.name

    @abstractmethod
    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        """Fuse one step; see `Rule.fuse`."""

    def for_long(self) -> FusionRule:
        """The same rule for answers of several sentences: with the numbers for them that were left open."""
        return self

    def apart(self) -> FusionRule:
        """The same rule, with no row that holds several passages."""
        return self

    def untruncated(self) -> FusionRule:
        """The same rule with every token allowed, for scoring given texts."""
        return self


def responsibilities(weights: Tensor, token_log_probs: Tensor) -> Tensor:
    """Evidence for a chosen token: weights_k * p_k(token), normalised over the passages.

    Args:
        weights: [..., n] as in `Fused`.
        token_log_probs: [..., n] log p_k(token) of the passage rows.

    Returns:
        [..., n], sums to 1. Where no weighted row gives the token any probability (a constraint chose
        it), the weights themselves.
    """
    import torch

    joint = weights.log() + token_log_probs
    impossible = (joint == NEG_INF).all(-1, keepdim=True)
    return torch.where(impossible, weights, joint.masked_fill(impossible, 0.0).softmax(-1))


def one_hot(index: Tensor, n: int, like: Tensor) -> Tensor:
    """[G] indexes into [G, n] zeros and ones of the dtype of `like`."""
    import torch

    return torch.nn.functional.one_hot(index, n).to(like.dtype)
