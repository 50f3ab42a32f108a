"""Prompts into rows: each context once, and each question's suffix behind all of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kv.store import ContextStore
from ..model import Reading, RowPrompt
from .base import LoadedGguf
from .context import MOST_SEQUENCES
from .contexts import read_contexts
from .rows import SequenceRows, log_probs_of
from .session import Part, Session, TokenSequence

__all__ = ["open_rows"]


def open_rows(
    model: LoadedGguf,
    prompts: Sequence[RowPrompt],
    room: int,
    store: ContextStore | None,
    batch_tokens: int,
) -> tuple[SequenceRows, list[Reading]]:
    """See `nbce_rag.models.model.Model.open`; the model's lock is held."""
    room = max(room, *(len(prompt.refusal) for prompt in prompts))
    sequences: list[TokenSequence] = []
    readings: list[Reading] = []
    for group in _groups(prompts):
        rows = [(prompt, ids) for prompt in group for ids in prompt.contexts]
        cells = sum(len(ids) + len(prompt.suffix) + room for prompt, ids in rows)
        # A row and the copy that its refusal may be read in.
        session = model.session(cells, min(MOST_SEQUENCES, len(rows) + 1))
        by_ids, reused = read_contexts(session, (ids for _, ids in rows), store, batch_tokens)
        uses = Counter(ids for _, ids in rows)
        for prompt in group:
            own = []
            for ids in prompt.contexts:
                uses[ids] -= 1
                if not ids:
                    own.append(session.empty())
                else:  # the last row that begins so takes the context itself
                    own.append(session.copy(by_ids[ids]) if uses[ids] else by_ids.pop(ids))
            spared = tuple(len(ids) if ids in reused else 0 for ids in prompt.contexts)
            readings.append(_read_suffix(model, session, own, prompt, spared, batch_tokens))
            sequences += own
    lengths = [len(sequence.ids) for sequence in sequences]
    return SequenceRows(model, sequences, lengths, [length + room for length in lengths]), readings


def _groups(prompts: Sequence[RowPrompt]) -> list[list[RowPrompt]]:
    """Prompts that stand in one session together."""
    groups: list[list[RowPrompt]] = []
    free = 0
    for prompt in prompts:
        if len(prompt.contexts) > free:
            groups.append([])
            free = MOST_SEQUENCES - 1
        groups[-1].append(prompt)
        free -= len(prompt.contexts)
    return groups


def _read_suffix(
    model: LoadedGguf,
    session: Session,
    rows: Sequence[TokenSequence],
    prompt: RowPrompt,
    reused: tuple[int, ...],
    batch_tokens: int,
) -> Reading:
    """Read one question's suffix in all of its rows.

    The refusal's tokens, if any, are read behind the suffix to see how probable they are, and taken back; a
    recurrent model reads them in copies of the rows. Logits are asked for where something is to be known of
    them: at the question's tokens, at the last one, and along the refusal.

    Raises:
        NumericalError: the model gave NaN.
    """
    suffix, question, refusal = prompt.suffix, prompt.question, prompt.refusal
    behind = refusal[:-1] if model.can.rewind else ()
    last = len(suffix) - 1
    # The token in place p is predicted at p - 1.
    scored = range(max(question.start, 1), question.stop) if question is not None else range(0)
    places = sorted({*(place - 1 for place in scored), *range(last, last + 1 + len(behind))})
    of_place = dict(zip(places, range(len(places)), strict=True))
    targets = {of_place[place - 1]: suffix[place] for place in scored}
    refused = {of_place[last + step]: token for step, token in enumerate(refusal[: 1 + len(behind)])}
    next_log_probs = torch.empty(len(rows), model.vocab_size)
    likelihoods, refusals = torch.zeros(len(rows)), torch.zeros(len(rows))
    done = [0] * len(rows)
    parts = [Part(row, (*suffix, *behind), places) for row in rows]
    for number, logits in session.read(parts, batch_tokens):
        first, done[number] = done[number], done[number] + len(logits)
        likelihoods[number] += _sum_of(logits, targets, first)
        refusals[number] += _sum_of(logits, refused, first)
        if first <= of_place[last] < done[number]:
            at = of_place[last] - first
            next_log_probs[number] = log_probs_of(model, logits[at : at + 1])[0]
    for row in rows if behind else ():
        session.cut(row, len(behind))
    if len(refusal) > 1 and not behind:
        refusals += _refusals_of_copies(session, rows, refusal, batch_tokens)
    return Reading(
        next_log_probs,
        likelihoods if question is not None else None,
        refusals.exp() if refusal else None,
        reused,
    )


def _refusals_of_copies(
    session: Session, rows: Sequence[TokenSequence], refusal: Sequence[int], batch_tokens: int
) -> Tensor:
    """[R] log-probs of a refusal's tokens but the first."""
    targets = dict(enumerate(refusal[1:]))
    sums = torch.zeros(len(rows))
    for number, row in enumerate(rows):
        done = 0
        part = Part(session.copy(row), refusal[:-1], range(len(refusal) - 1))
        for _, logits in session.read([part], batch_tokens):
            sums[number] += _sum_of(logits, targets, done)
            done += len(logits)
    return sums


def _sum_of(logits: Tensor, targets: dict[int, int], first: int) -> float:
    """Log-probs of tokens by place, added up over the places that logits [N, V] from `first` on stand for."""
    here = [
        (place - first, token) for place, token in targets.items() if first <= place < first + len(logits)
    ]
    if not here:
        return 0.0
    rows = torch.tensor([at for at, _ in here])
    tokens = torch.tensor([token for _, token in here])
    return float((logits[rows, tokens] - logits[rows].logsumexp(-1)).sum())
