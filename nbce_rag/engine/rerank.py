"""Passages by how much they make the model expect the question: a reranker without another model."""

from __future__ import annotations

import math
from dataclasses import replace

from ..checks import check_count
from ..decoding.reader import Engine, read_prompts
from ..passages import Passage
from ..request import Request

__all__ = ["rerank"]

_AT_ONCE = 32  # passages that are read in one batch


def rerank(engine: Engine, request: Request, k: int | None = None) -> list[Passage]:
    """The passages, the best first; nothing is generated, and what is read of them is kept for the answer.

    Args:
        engine: model and wording.
        request: question and passages; options of sampling and fusion have no effect.
        k: how many of them; None is all.

    Returns:
        Passages whose `relevance` is by how many nats each made the question likelier, and whose `score` is
        the logistic function of that a token of the question, in (0, 1), which fusion takes as a cosine.

    Raises:
        InputError: an impossible k, an empty passage, or a backend that gives no likelihoods.
        AnswerTimeoutError: as in `generate`.
    """
    if k is not None:
        check_count("k", k, "None for all")
    options = request.options.updated(
        fusion="mean",
        relevance=True,
        max_tokens=1,
        thinking=False,
        json_schema=None,
        regex=None,
        passages_per_row=1,
        joint_row=False,
        order_labels=False,
    )
    scored: list[Passage] = []
    for first in range(0, len(request.passages), _AT_ONCE):
        some = replace(request, passages=request.passages[first : first + _AT_ONCE], options=options)
        plan = engine.plan(some)
        _, _, [prompted] = read_prompts(engine, [some], [plan], sentences=False)
        start, stop = plan.suffix.question
        scored += [
            replace(p, score=_logistic((p.relevance or 0.0) / max(1, stop - start)), rank=None)
            for p in prompted.passages
        ]
    return sorted(scored, key=lambda passage: -(passage.relevance or 0.0))[:k]


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, value)))
