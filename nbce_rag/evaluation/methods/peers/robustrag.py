"""RobustRAG: rows that refuse are dropped, the others vote."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....checks import Range
from ....fusion import Fused, FusionState
from ....fusion.numbers import WEIGHT, number
from ..peer import Peer

__all__ = ["RULE", "RobustRag"]


@dataclass(frozen=True)
class RobustRag(Peer):
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

    gamma: float = number(0.99, Range(0, 1, above=True))
    eta: float = number(0.0, WEIGHT)

    name = "robustrag"
    uses_refusal = True

    def options(self) -> dict[str, float]:
        # All rows that are dropped refuse, and then so does the answer.
        return {"refusal_threshold": self.gamma}

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows, baseline = log_probs[:, 1:], log_probs[:, 0]
        votes = torch.ones_like(rows[..., 0])
        if state.refusal is not None:
            answers = state.refusal < self.gamma
            votes = (answers | ~answers.any(-1, keepdim=True)).to(rows.dtype)
        total = (rows.exp() * votes[..., None]).sum(1)
        first, second = total.topk(2, dim=-1).values.unbind(-1)
        sure = first - second > self.eta
        return Fused(torch.where(sure[:, None], total.log(), baseline), votes / votes.sum(-1, keepdim=True))


RULE = RobustRag
