"""Choosing the next token of questions from what their rows say of it: masked, fused, drawn, and told with
its evidence.

Whoever holds the loop, and wherever the log-probs come from, this is how a token is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ..errors import InputError, NumericalError
from ..fusion import Fused, FusionState, Rule, responsibilities
from ..fusion.base import NEG_INF
from ..models.model import Step
from .group import Group
from .record import StepRecord, read_records

__all__ = ["choose", "choose_together", "fuse", "rows_of", "step_of"]


def choose_together(
    groups: Mapping[int, Group], log_probs: Tensor
) -> tuple[list[Step], dict[int, Exception]]:
    """The next token of several questions, of which no row sleeps.

    Args:
        groups: the questions by their numbers; their rows index the log-probs.
        log_probs: [R, V], float32.

    Returns:
        (a step a question, in no certain order; the errors of those that have none, which the others did not
        meet).
    """
    errors: dict[int, Exception] = {}
    fused = [one for cohort in _cohorts(groups) for one in _fused(cohort, groups, log_probs, errors)]
    records = read_records([(rows, scores, groups[index].entropies) for index, rows, scores in fused])
    steps: list[Step] = []
    for (index, _, scores), record in zip(fused, records, strict=True):
        try:
            steps.append(choose(index, groups[index], scores, record))
        except Exception as error:
            errors[index] = error
    return steps, errors


def choose(question: int, group: Group, fused: Fused, record: StepRecord) -> Step:
    """Choose a question's token.

    Args:
        question: its number.
        group: the question.
        fused: scores [V] and weights [n] where they were computed.
        record: what is known of them on the processor.

    Raises:
        InputError: a grammar allows only what is banned.
        NumericalError: the model gave NaN.
    """
    # On a CPU the model was looked at before.
    if record.rows.device.type != "cpu" and bool(record.scores.isnan().any()):
        raise NumericalError(
            "The model gave NaN instead of probabilities; load it with dtype='float32', or check its weights."
        )
    scores = group.chooser.process(record.scores)
    if bool((scores == NEG_INF).all()):
        # Every token that fusion left is banned: fuse again without the banned ones.
        rows = record.rows
        banned = (group.chooser.process(torch.zeros_like(record.scores)) == NEG_INF).to(rows.device)
        if not bool((rows > NEG_INF).any(0)[~banned].any()):
            raise InputError(
                "Nothing may come next: json_schema or regex allows only tokens that bad_words or "
                "no_repeat_ngram_size bans. Drop one of them."
            )
        rows = _restrict(rows, ~banned)
        again = fuse(group.rule, rows[None], group.state)
        fused = Fused(again.log_probs[0].log_softmax(-1), again.weights[0])
        [record] = read_records([(rows, fused, group.entropies)])
        scores = group.chooser.process(record.scores)
    token = group.chooser.choose(scores)
    # Once where the rows are, for the next step, and once here, to be told.
    there = responsibilities(fused.weights, record.rows[1:, token])
    here = there if there.device.type == "cpu" else _evidence(record, token)
    return step_of(question, group, token, record, here, there)


def step_of(
    question: int,
    group: Group,
    token: int,
    record: StepRecord,
    evidence: Tensor,
    there: Tensor | None = None,
) -> Step:
    """A token that was chosen from some rows; the group takes it in.

    Args:
        question, group, record: as in `choose`.
        token: it.
        evidence: [n] over all passage rows.
        there: the same where the rows are.
    """
    there = evidence.to(record.rows) if there is None else there
    group.state.evidence = there[None]
    of_token = record.of_token(token)
    gain = 0.0
    if len(of_token) > 1:
        gain = float((record.weights.log() + of_token[1:]).logsumexp(-1) - of_token[0])
    log_prob = float(record.scores[token])
    return Step(
        question=question,
        token=token,
        log_prob=log_prob,
        evidence=group.notice(token, evidence, log_prob),
        gain=gain if math.isfinite(gain) else 0.0,
        entropies=() if record.entropies is None else group.by_row(record.entropies, math.nan),
        row_log_probs=group.by_row(of_token, NEG_INF),
        top=_top(record.scores, group.top) if group.top else (),
    )


def fuse(rule: Rule, log_probs: Tensor, state: FusionState) -> Fused:
    """The rule, or the row without a passage where there are no others."""
    if log_probs.shape[1] == 1:
        return Fused(log_probs[:, 0], log_probs.new_zeros(len(log_probs), 0))
    return rule.fuse(log_probs, state)


def rows_of(log_probs: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of log-probs; those in a run are a view, only scattered ones are copied."""
    is_run = list(rows) == list(range(rows[0], rows[0] + len(rows)))
    return log_probs[rows[0] : rows[0] + len(rows)] if is_run else log_probs[list(rows)]


def _cohorts(groups: Mapping[int, Group]) -> Iterable[list[int]]:
    """Questions that one call of a rule can fuse: same rule, same rows, same things known."""
    cohorts: dict[Hashable, list[int]] = {}
    for index, group in groups.items():
        key = (_key_of(group.rule), len(group.rows), group.state.presence())
        cohorts.setdefault(key, []).append(index)
    return cohorts.values()


def _fused(
    cohort: list[int], groups: Mapping[int, Group], log_probs: Tensor, errors: dict[int, Exception]
) -> list[tuple[int, Tensor, Fused]]:
    """As `_fused_together`; where that fails, of each question by itself that does not fail then."""
    try:
        return list(_fused_together(cohort, groups, log_probs))
    except Exception as error:
        if len(cohort) == 1:
            errors[cohort[0]] = error
            return []
        return [one for index in cohort for one in _fused([index], groups, log_probs, errors)]


def _fused_together(
    cohort: list[int], groups: Mapping[int, Group], log_probs: Tensor
) -> Iterator[tuple[int, Tensor, Fused]]:
    """Of questions that one call of a rule can fuse: index, rows [n + 1, V] and what they come to, with
    normalised scores [V]."""
    members = [groups[index] for index in cohort]
    block = rows_of(log_probs, [row for group in members for row in group.rows])
    block = block.view(len(members), len(members[0].rows), -1)
    masks = [group.chooser.allowed() for group in members]
    if any(mask is not None for mask in masks):
        block = torch.stack([_restrict(part, mask) for part, mask in zip(block, masks, strict=True)])
    state = FusionState.stack([group.state for group in members])
    fused = fuse(members[0].rule, block, state)
    for group, part in zip(members, state.unstack(len(members)), strict=True):
        group.state = part
    normalised = fused.log_probs.log_softmax(-1)
    for i, index in enumerate(cohort):
        yield index, block[i], Fused(normalised[i], fused.weights[i])


def _key_of(rule: Rule) -> Hashable:
    """Equal of rules that fuse alike, as far as they tell."""
    if isinstance(rule, Hashable):
        with suppress(Exception):  # one of the user's may be frozen over a list
            hash(rule)
            return rule
    return id(rule)


def _restrict(log_probs: Tensor, allowed: Tensor | None) -> Tensor:
    """[..., V] log-probs given that the token is an allowed one ([V] bool)."""
    if allowed is None:
        return log_probs
    return log_probs.masked_fill(~allowed.to(log_probs.device), NEG_INF).log_softmax(-1)


def _evidence(record: StepRecord, token: int) -> Tensor:
    return responsibilities(record.weights, record.of_token(token)[1:])


def _top(log_probs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The best tokens of log-probs [V], excluded ones left out."""
    values, ids = log_probs.topk(min(count, len(log_probs)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return tuple((token, value) for token, value in pairs if value > NEG_INF)
