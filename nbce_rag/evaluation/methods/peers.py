"""Published peers as fusion rules, for comparison in one program.

They live here and not among the rules that users choose from: each is what its paper states, with the
paper's numbers, and none is recommended. Symbols as in `nbce_rag.fusion`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...errors import InputError
from ...fusion import Fused, FusionRule, FusionState, contrast, nucleus
from ...fusion.base import check_numbers

__all__ = ["PEERS", "Cad", "LeEns", "Replug", "RobustRag", "peer"]


@dataclass(frozen=True)
class Replug(FusionRule):
    """REPLUG's mixture with fixed weights (arXiv 2301.12652, section 3.2).

    p(y) = sum_k lambda_k p_k(y), lambda = softmax_k(s_k / tau), the same at every step. Without scores
    the weights are equal.

    Args:
        tau: temperature of the retrieval scores, at least 0.0001; the paper has 1.
    """

    tau: float = 1.0

    name = "replug"

    def __post_init__(self) -> None:
        check_numbers(self, tau=lambda v: v >= 1e-4)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        scores = torch.zeros_like(rows[..., 0]) if state.scores is None else state.scores / self.tau
        log_weights = scores.to(rows.dtype).log_softmax(-1)
        return Fused((rows + log_weights[..., None]).logsumexp(1), log_weights.exp())


@dataclass(frozen=True)
class LeEns(FusionRule):
    """LeEns: the surer a row, the more it counts, in log space (arXiv 2406.17519).

    log p(y) = sum_k w_k L_k(y) + const, w = softmax_k(-H_k / tau), H_k the entropy of the whole row in
    nats. The second half of that paper, the contrast with an inner layer (CLeHe), needs the model's hidden
    states and is left out.

    Args:
        tau: temperature in nats, at least 0.0001; the authors' code has 0.1.
    """

    tau: float = 0.1

    name = "leens"

    def __post_init__(self) -> None:
        check_numbers(self, tau=lambda v: v >= 1e-4)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        _, entropy = nucleus(rows, 1.0)
        weights = (-entropy / self.tau).softmax(-1)
        # A weight that underflows to 0 must not meet a log-prob of -inf.
        shares = torch.where(weights[..., None] > 0, weights[..., None] * rows, 0.0)
        return Fused(shares.sum(1), weights)


@dataclass(frozen=True)
class Cad(FusionRule):
    """Context-aware decoding on the concatenated prompt (arXiv 2305.14739, equation 4).

    log p(y) = (1 + alpha) L_concat(y) - alpha L_0(y) + const, over the whole vocabulary. It wants all
    passages in one row.

    Args:
        alpha: strength of the contrast, >= 0; the paper has 0.5 for summaries and 1 where the context
            contradicts the model's memory.
    """

    alpha: float = 1.0

    name = "cad"

    def __post_init__(self) -> None:
        check_numbers(self, alpha=lambda v: v >= 0)

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        if log_probs.shape[1] != 2:
            raise InputError(
                f"cad reads all passages in one row and there are {log_probs.shape[1] - 1}; set "
                "passages_per_row to their number."
            )
        fused = contrast(log_probs[:, 1], log_probs[:, 0], self.alpha)
        return Fused(fused, torch.ones_like(log_probs[:, 1:, 0]))


@dataclass(frozen=True)
class RobustRag(FusionRule):
    """RobustRAG's secure decoding: rows that refuse are dropped, the others vote.

    Source: arXiv 2405.15556, the decoding variant of isolate-then-aggregate. Rows with P(refusal) >= gamma
    are dropped and the probabilities of the others added up; the best token is taken if it leads the second
    by more than eta, else row 0's best token. When all rows refuse the answer is an abstention, which is the
    engine's doing (`refusal_threshold=gamma`); here all rows then vote. The authors' code also forbids "I",
    a line break and "Please" as the first token, which the paper does not state and which is left out.

    A wording without a refusal, such as that for base models, drops no row.

    Args:
        gamma: least probability of the refusal that drops a row, in (0, 1]; the authors have 0.99.
        eta: lead that the best token needs, in summed probability, >= 0; the authors have 0 for short
            answers and 1 to 6 for long ones.
    """

    gamma: float = 0.99
    eta: float = 0.0

    name = "robustrag"
    uses_refusal = True

    def __post_init__(self) -> None:
        check_numbers(self, gamma=lambda v: v >= 0, eta=lambda v: v >= 0)
        if not 0 < self.gamma <= 1:
            raise InputError(f"RobustRag: gamma={self.gamma!r} is out of range; gamma lies in (0, 1].")

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows, baseline = log_probs[:, 1:], log_probs[:, 0]
        kept = torch.ones_like(rows[..., 0])
        if state.refusal is not None:
            votes = state.refusal < self.gamma
            kept = (votes | ~votes.any(-1, keepdim=True)).to(rows.dtype)
        total = (rows.exp() * kept[..., None]).sum(1)
        first, second = total.topk(2, dim=-1).values.unbind(-1)
        sure = first - second > self.eta
        return Fused(torch.where(sure[:, None], total.log(), baseline), kept / kept.sum(-1, keepdim=True))


PEERS: dict[str, type[FusionRule]] = {rule.name: rule for rule in (Replug, LeEns, Cad, RobustRag)}


def peer(name: str, **numbers: float) -> FusionRule:
    """A peer's rule by name with its numbers.

    Raises:
        InputError: unknown or impossible numbers.
    """
    known = {field.name for field in fields(PEERS[name])}  # type: ignore[arg-type]
    if unknown := sorted(set(numbers) - known):
        raise InputError(f"Rule {name!r} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    return PEERS[name](**numbers)
