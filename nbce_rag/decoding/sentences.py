"""Which passages are read once more, a sentence to a row, and what their rows are.

A small model finds the answer in a sentence more readily than in the passage around it. So after the
prompt was read, the passages that matter for the question get further rows, coarse to fine (after Choi et
al., arXiv 1611.01839): each holds one of their sentences under the passage's heading. Fusion weighs these
rows like any other, and what they say counts for the passage.

That goes for prose. A sentence torn out of a manual's Markdown has lost the code below it, the heading above
it or the rest of its list; a row that reads it makes up what is not there, and sixteen of these outvote the
passage. So where one of the passages that matter is code, a list or a table, all are read whole only
(examples/docs/method.md has the figures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from torch import Tensor

from ..documents.prose import is_prose
from ..documents.splitting import split_sentences
from ..fusion import FusionState
from ..options import Options
from ..passages import Passage
from ..prompts.encoder import PromptEncoder
from .plan import Row, RowPlan, passage_ids

__all__ = ["focal_passages", "sentence_rows"]

MOST_ROWS = 16
"""Most further rows of a question; passages of more sentences have several in each row."""


def focal_passages(plan: RowPlan, options: Options, log_probs: Tensor, state: FusionState) -> tuple[int, ...]:
    """The fewest passages that hold the share `rule.focus` of the rule's weights, by number, at most eight.

    Args:
        plan: the rows that were read.
        options: `passages_per_row` and the rule are used; passages that share rows are not read by sentences.
        log_probs: [n + 1, V] first log-probs of these rows.
        state: what the rule knows, G = 1; it is not changed.
    """
    rule = options.rule
    focus = getattr(rule, "focus", 0.0)
    if not focus or not plan.passages or options.passages_per_row > 1:
        return ()
    if plan.passages == 1:
        return (0,)
    weights = rule.fuse(log_probs[None], replace(state, memory={})).weights[0].tolist()
    shares = plan.share(weights)
    order = sorted(range(plan.passages), key=lambda passage: -shares[passage])
    before = [0.0, *accumulate(shares[passage] for passage in order)]
    enough = [p for p, held in zip(order, before, strict=False) if held < focus and shares[p] > 0]
    return tuple(sorted(enough[: MOST_ROWS // 2]))


def sentence_rows(
    encoder: PromptEncoder, passages: Sequence[Passage], focal: Sequence[int], options: Options, room: int
) -> tuple[Row, ...]:
    """Rows of the sentences of some passages, in order; none for one sentence, or for what is no prose.

    Args:
        encoder: prompt wording and tokenizer.
        passages: all passages of the question.
        focal: numbers of those that are read by sentences, at most eight.
        options: as they were for the passages' own rows.
        room: most tokens of a context; what is longer is left to the passage's own row.
    """
    if not all(is_prose(passages[index].text) for index in focal):
        return ()  # rows of some of them alone would outvote the others
    rows = []
    for index in focal:
        passage = passages[index]
        spans = split_sentences(passage.text, MOST_ROWS // len(focal))
        if len(spans) < 2:
            continue
        for start, end in spans:
            text = passage.text[start:end]
            ids = passage_ids(encoder, passage, index, len(passages), options, text)
            context = encoder.context({index: ids})
            if len(context) <= room:
                rows.append(Row(context, (index,), passage.score, passage.rank))
    return tuple(rows)
