"""What is read once more, all of it in one row: passages before a long answer, sentences for a short one.

A fact stands in one passage; an explanation draws on several, and a row that has read only one of them
makes up what the others say. So before a long answer the best passages are read in one further row, as one
prompt would read them: one more hypothesis, which fusion weighs like any other. A short answer that takes two
passages may have such a row of their sentences (`nbce_rag.decoding.extract`). What it says is evidence for
the passages in it that hold the words (`nbce_rag.decoding.plan.RowPlan.share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..errors import ContextLengthError
from ..fusion import FusionState
from ..options import Options
from ..passages import Passage
from ..prompts.encoder import PromptEncoder
from .extract import extract_row, takes_two
from .plan import Row, RowPlan, shared_row

__all__ = ["together_row"]


def together_row(
    encoder: PromptEncoder,
    plan: RowPlan,
    question: str,
    passages: Sequence[Passage],
    options: Options,
    log_probs: Tensor,
    state: FusionState,
    room: int,
) -> Row | None:
    """The row of the `rule.together` passages that hold most of the rule's weights, in their order, or else,
    with `rule.extract`, of the sentences nearest the question.

    None where the rule wants none, fewer than two passages fit, or rows hold several passages already.

    Args:
        encoder: prompt wording and tokenizer.
        plan: the rows that were read.
        question: what is asked.
        passages: all passages of the question.
        options: `passages_per_row`, `joint_row`, `order_labels` and the rule are used.
        log_probs: [n + 1, V] first log-probs of these rows.
        state: what the rule knows, G = 1; it is not changed.
        room: most tokens of a context; the least of the passages is left out where they take more.
    """
    rule = options.rule
    if len(passages) < 2 or options.passages_per_row > 1 or options.joint_row:
        return None
    most = int(getattr(rule, "together", 0) or 0)
    if most < 2 and not getattr(rule, "extract", 0.0):
        return None
    weights = rule.fuse(log_probs[None], replace(state, memory={})).weights[0].tolist()
    shares = plan.share(weights)
    order = sorted(range(len(passages)), key=lambda passage: -shares[passage])
    if most < 2:
        if not takes_two(question, passages, order[0]):
            return None
        return extract_row(encoder, question, passages, options, room)
    for count in range(min(most, len(passages)), 1, -1):
        try:
            return shared_row(encoder, passages, sorted(order[:count]), options, room)
        except ContextLengthError:
            continue
    return None
