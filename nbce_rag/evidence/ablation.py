"""What becomes of an answer's likelihood when passages are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

__all__ = ["Ablation", "AblationReport"]


class AblationReport(TypedDict):
    """An `Ablation` in plain JSON types; a number that is infinite is None.

    Attributes:
        log_prob, log_prob_without_passages, necessity, citation_necessity, sufficiency: see `Ablation`.
    """

    log_prob: float | None
    log_prob_without_passages: float | None
    necessity: list[float | None]
    citation_necessity: list[list[float | None]]
    sufficiency: float | None


@dataclass(frozen=True, slots=True)
class Ablation:
    """How much likelier each passage makes an answer, in nats: exact leave-one-out.

    Every passage has rows of its own, which know nothing of the others. So an answer over all passages but
    one is the fusion of the other rows, with the prior that they would have had. Likelihoods are those of
    `NBCE.score`: under the rule without truncation, as a token that is cut off would cost everything.

    Attributes:
        log_prob: log p(answer | all passages).
        log_prob_without_passages: log p(answer | question alone), by the row without a passage.
        necessity: For each passage log p(answer | all) - log p(answer | all but it); above 0 where the answer
            needs it, about 0 where others say the same or it says nothing.
        citation_necessity: For each citation the same over the tokens of its stretch, behind what stands
            before it, for each passage.
        sufficiency: log p(answer | cited passages only) - log p(answer | all); about 0, or above, where the
            citations are all that the answer rests on. None where nothing is cited.
    """

    log_prob: float
    log_prob_without_passages: float
    necessity: tuple[float, ...]
    citation_necessity: tuple[tuple[float, ...], ...]
    sufficiency: float | None

    def to_dict(self) -> AblationReport:
        """The same in plain JSON types."""
        return {
            "log_prob": _number(self.log_prob),
            "log_prob_without_passages": _number(self.log_prob_without_passages),
            "necessity": list(map(_number, self.necessity)),
            "citation_necessity": [list(map(_number, one)) for one in self.citation_necessity],
            "sufficiency": _number(self.sufficiency),
        }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
