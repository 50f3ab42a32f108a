"""Whether passages are about a question, told from the prompt alone, on the scale of a user's own questions.

Two things are kept apart. That *no passage is about this* can be told before the first token, from numbers
that come with the prompt. That *a passage is about this and does not answer it* cannot, with models below a
billion parameters: none of the measures that were tried tells it better than chance. So support is a place
among questions that have an answer, and never a probability that an answer is right.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..checks import Range
from ..errors import ReadError
from ..files import write_json

__all__ = ["FALSE_ALARMS", "Calibration", "SupportNumbers"]

FALSE_ALARMS = Range(1e-6, 0.5, note="0.05 silences at most one answerable question in twenty by mistake")

_FORMAT = 1
_MOST_BYTES = 1 << 24
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class SupportNumbers:
    """What the prompt alone tells of passages and question; of each, more is more. None where it is unknown.

    Attributes:
        question_gain: nats by which the best passage makes the question likelier than no passage does.
        retrieval_score: the best score of the search.
        question_words: share of the question's words that stand in the leading passage, in [0, 1].
        sureness: minus the entropy of the first token in the leading row, nats.
        divergence: KL divergence of the first token's distribution over the passages, weighted by their
            prior, from that without a passage, nats.
    """

    question_gain: float | None = None
    retrieval_score: float | None = None
    question_words: float | None = None
    sureness: float | None = None
    divergence: float | None = None


NUMBERS = tuple(each.name for each in fields(SupportNumbers))


@dataclass(frozen=True)
class Calibration:
    """How much support answerable questions of a user have, to see others beside them.

    Attributes:
        settings: what it was made with (model, embedder, k, options); it tells nothing of other settings.
        weights: what each of `SupportNumbers` counts in the score; those that are missing do not count.
        scores: of answerable questions, ascending, none of which has taken part in finding the weights.
        false_alarms: share of such questions that may be silenced by mistake.
        figures: what else came out (`nbce_rag.engine.calibration`), in JSON types.
    """

    settings: Mapping[str, Any]
    weights: Mapping[str, float]
    scores: tuple[float, ...]
    false_alarms: float
    figures: Mapping[str, Any] = field(default_factory=dict)

    def score(self, numbers: SupportNumbers) -> float | None:
        """The weighted sum; None where a number that counts is not known."""
        values = asdict(numbers)
        if any(values[name] is None for name in self.weights):
            return None
        return math.fsum(weight * values[name] for name, weight in self.weights.items())

    def support(self, numbers: SupportNumbers) -> float | None:
        """(1 + questions of the calibration with no more support) / (1 + all of them), in (0, 1].

        A question like those of the calibration has support of at most x with probability x or less, for any
        x, whatever the scores are like: its place among them is equally likely to be any.
        """
        score = self.score(numbers)
        if score is None or math.isnan(score):
            return None
        return (1 + bisect_right(self.scores, score)) / (1 + len(self.scores))

    @property
    def threshold(self) -> float:
        """The score below which at most `false_alarms` of such questions are: the floor(x (n + 1))-th."""
        return self.scores[math.floor(self.false_alarms * (len(self.scores) + 1) + _ROUNDING) - 1]

    def differences(self, settings: Mapping[str, Any]) -> str:
        """What is other than when it was made, in words; "" if nothing is."""
        return "; ".join(
            f"{name} was {self.settings.get(name)!r} and is {settings.get(name)!r}"
            for name in dict.fromkeys([*self.settings, *settings])
            if self.settings.get(name) != settings.get(name)
        )

    def write(self, path: Path) -> None:
        """Keep it in a file, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        value = json.loads(json.dumps(asdict(self), allow_nan=False))
        write_json(path, {"format": _FORMAT, "sha256": _hash(value), "calibration": value})

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """What `write` has kept.

        Raises:
            ReadError: it cannot be read, or is no calibration, or was changed.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise ValueError("it is too large")
            whole = json.loads(data.decode())
            if not isinstance(whole, dict) or whole.get("format") != _FORMAT:
                raise ValueError(f"it is not of format {_FORMAT}")
            if whole.get("sha256") != _hash(whole.get("calibration")):
                raise ValueError("its checksum is of something else")
            return _checked(whole["calibration"])
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ReadError(
                f"The calibration {path} cannot be used ({error}): calibrate again (nbce-rag calibrate), or "
                "delete it."
            ) from error


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(value: Mapping[str, Any]) -> Calibration:
    """A calibration of what a file holds; ValueError and others if it is none."""
    weights = {name: float(weight) for name, weight in value["weights"].items()}
    scores = tuple(float(score) for score in value["scores"])
    if not weights or not set(weights) <= set(NUMBERS):
        raise ValueError("it weighs other numbers")
    if not all(map(math.isfinite, (*weights.values(), *scores))) or list(scores) != sorted(scores):
        raise ValueError("its numbers are none")
    if value["false_alarms"] not in FALSE_ALARMS or value["false_alarms"] * (len(scores) + 1) < 1 - _ROUNDING:
        raise ValueError("it has too few scores")
    return Calibration(
        dict(value["settings"]), weights, scores, float(value["false_alarms"]), dict(value["figures"])
    )
