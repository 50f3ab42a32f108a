"""One question with its passages, options and wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .evidence.calibration import Calibration
from .options import Options
from .passages import Passage
from .prompts.prompt import Prompt

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """One question with its passages, as `NBCE.batch` takes it.

    Attributes:
        question: what is asked.
        passages: any number of passages; none answers from the question alone.
        options: options of this request.
        prompt: the words of this request alone, for instance a whole conversation; None is the engine's
            wording.
        is_retrieved: whether the passages are what was found for the question. If nothing was, the answer is
            the abstention, unless `options.answer_without_context`.
        calibration: what tells how much support the passages give; with it `options.abstain_below` is a share
            of false alarms.
        parts: the same of each part of a question that asks for several things, with the passages that were
            found for it; () leaves it to the engine to tell the parts.
    """

    question: str
    passages: Sequence[Passage] = ()
    options: Options = field(default_factory=Options)
    prompt: Prompt | None = None
    is_retrieved: bool = False
    calibration: Calibration | None = None
    parts: Sequence[Request] = ()
