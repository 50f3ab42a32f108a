"""Suffixes: one question's, read by all of its rows at once over their contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ...deadline import check_deadline
from ..model import Reading, RowPrompt, TokenIds
from .base import LoadedModel
from .cache import RowCache
from .caches import row_cache
from .forward import forward
from .likelihood import QuestionEstimate, worth_estimating
from .memory import RowMemory
from .rows import in_order
from .staging import on_device

__all__ = ["read_suffix"]

LOGITS_BYTES = 256 * 2**20  # of logits at once, in float32


def read_suffix(
    model: LoadedModel,
    memory: RowMemory,
    rows: range,
    starts: Sequence[int],
    prompt: RowPrompt,
    batch_tokens: int,
    reused: tuple[int, ...],
    heads: Sequence[int],
) -> Reading:
    """Read one question's suffix in all of its rows.

    The refusal's tokens, if any, are read behind the suffix to see how probable they are; their columns
    are written over afterwards, and states go back to what they were. The output layer is run only where
    something is asked: at the question's tokens, at the last one, and along the refusal. Over a large
    vocabulary the question is scored on a shortlist (`nbce_rag.models.transformers.likelihood`).

    Args:
        model: the model.
        memory: with the contexts of these rows in place.
        rows: the question's rows, row 0 first.
        starts: the column where the suffix begins, of each row.
        prompt: suffix, question, refusal and vocabulary are used.
        batch_tokens: as in `read_contexts`.
        reused: goes into the reading.
        heads: columns before the suffix that a row reads in the same pass, its context at their end; 0 where
            that is in place.

    Raises:
        NumericalError: the model gave NaN; on a GPU, which would have to be waited for, it is given on.
    """
    suffix, question, refusal = prompt.suffix, prompt.question, prompt.refusal
    ids = torch.tensor([*suffix, *refusal[:-1]])
    last = len(suffix) - 1
    # The token in column c is predicted in column c - 1.
    scored = range(max(question.start, 1), question.stop) if question is not None else range(0)
    before = torch.tensor([position - 1 for position in scored], dtype=torch.long)
    targets = on_device(
        torch.tensor([suffix[position] for position in scored], dtype=torch.long), model.device
    )
    tail = torch.arange(last, last + max(len(refusal), 1))
    weight = model.output_weight if scored and worth_estimating(model.vocab_size, len(scored)) else None
    positions = tail if weight is not None else torch.cat([before, tail])
    refusal_ids = on_device(torch.tensor([*refusal], dtype=torch.long), model.device)
    most_rows = LOGITS_BYTES // (4 * model.vocab_size * len(positions))
    estimate = prompt.measure if isinstance(prompt.measure, QuestionEstimate) else None
    next_log_probs, likelihoods, refusals = [], [], []
    parts = list(_passes(starts, heads, lambda head: min(batch_tokens // (head + len(ids)), most_rows)))
    for places in parts:
        check_deadline()
        some, head = [rows[place] for place in places], heads[places[0]]
        log_probs, hidden = _read(
            model,
            row_cache(memory, some, starts[places[0]] - head),
            _with_contexts([prompt.contexts[place] for place in places], head, ids),
            head + len(suffix),
            positions + head,
            before + head if weight is not None else None,
        )
        behind = log_probs[:, len(positions) - len(tail) :]
        next_log_probs.append(behind[:, 0])
        if refusal:
            refusals.append(_of_tokens(behind, refusal_ids).sum(-1).exp())
        if question is None:
            continue
        if weight is None or hidden is None:
            likelihoods.append(_of_tokens(log_probs[:, : len(before)], targets).sum(-1))
            continue
        if estimate is None:
            estimate = QuestionEstimate(
                weight, hidden[0], model.output(hidden[0]), targets, prompt.vocabulary
            )
        values = estimate.rows(hidden)
        if places[0] == 0:
            values[0] = estimate.row_0
        likelihoods.append(values.sum(-1))
    return Reading(
        in_order(next_log_probs, parts),
        in_order(likelihoods, parts) if question is not None else None,
        in_order(refusals, parts) if refusal else None,
        reused,
        estimate,
    )


def _passes(starts: Sequence[int], heads: Sequence[int], most: Callable[[int], int]) -> Iterator[list[int]]:
    """Places of rows that one pass reads, which start at one column. Row 0 comes first.

    Args:
        starts, heads: as in `read_suffix`.
        most: how many rows of a head a pass may have; one is always read.
    """
    places_by_start: dict[tuple[int, int], list[int]] = {}
    for place, start in enumerate(zip(starts, heads, strict=True)):
        places_by_start.setdefault(start, []).append(place)
    for (_, head), places in places_by_start.items():
        step = max(1, most(head))
        for first in range(0, len(places), step):
            yield places[first : first + step]


def _with_contexts(contexts: Sequence[TokenIds], head: int, ids: Tensor) -> Tensor:
    """[R, head + T] the tokens of rows: contexts at the end of so many columns, and ids [T] behind them."""
    if not head:
        return ids.expand(len(contexts), -1)
    rows = torch.zeros(len(contexts), head + len(ids), dtype=torch.long)
    rows[:, head:] = ids
    for row, context in zip(rows, contexts, strict=True):
        row[head - len(context) : head] = torch.tensor(context)
    return rows


def _read(
    model: LoadedModel,
    cache: RowCache,
    ids: Tensor,
    suffix: int,
    positions: Tensor,
    hidden: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """`forward` of a suffix of so many tokens and what is read behind it, which leaves no trace in states."""
    checked = model.staging is None
    if suffix == ids.shape[1] or not model.layout.has_states:
        return forward(model, cache, ids, positions, hidden, checked)
    log_probs, states = forward(model, cache, ids[:, :suffix], positions[positions < suffix], hidden, checked)
    cache.mark()
    behind, _ = forward(model, cache, ids[:, suffix:], checked=checked)
    cache.restore()
    return torch.cat([log_probs, behind], 1), states


def _of_tokens(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """[R, K] of log-probs [R, K, V] at tokens [K]."""
    return log_probs.gather(-1, tokens[None, :, None].expand(len(log_probs), -1, 1))[..., 0]
