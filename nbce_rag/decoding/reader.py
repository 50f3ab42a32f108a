"""From requests to rows that are ready to decode: plan, contexts, one cache, suffixes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, NbceWarning
from ..fusion import FusionState
from ..kv.store import PassageKVStore
from ..models.model import Reading
from ..models.transformers.loading import LoadedModel
from ..models.transformers.reading import RowsToRead, places_of, read_rows
from ..models.transformers.rows import RowCache
from ..passages import Passage
from ..prompts.encoder import PromptEncoder
from ..request import Request
from .budget import free_memory
from .plan import RowPlan, plan_rows
from .sentences import passages_to_read_closer, sentence_rows

__all__ = ["Engine", "Prompted", "read_prompts"]


@dataclass(frozen=True)
class Engine:
    """What reading and decoding share: the model, its wording, its memory.

    Attributes:
        loaded: the model.
        encoder: the prompt template, bound to the tokenizer.
        store: keys and values kept from question to question, or None.
        max_batch_tokens: rows times length of one forward pass, at most.
    """

    loaded: LoadedModel
    encoder: PromptEncoder
    store: PassageKVStore | None
    max_batch_tokens: int

    def encoder_of(self, request: Request) -> PromptEncoder:
        """The request's wording, or the engine's."""
        return request.prompt or self.encoder

    def plan(self, request: Request) -> RowPlan:
        """Rows of a request; raises what `plan_rows` raises, before any work is done."""
        encoder = self.encoder_of(request)
        plan = plan_rows(encoder, request.question, request.passages, request.options, self.loaded.window)
        note = "" if self.store is None else self.store.codec.note
        return replace(plan, warnings=(*plan.warnings, note)) if note else plan

    def bytes_needed(self, requests: Sequence[Request], plans: Sequence[RowPlan]) -> int:
        """About what decoding these in one batch takes at its peak.

        Keys and values, all rows as long as the longest, and a few sets of log-probs.
        """
        rows = sum(len(plan.rows) for plan in plans)
        longest = max(
            len(row.context) + len(plan.suffix.ids) + request.options.max_tokens
            for request, plan in zip(requests, plans, strict=True)
            for row in plan.rows
        )
        return self.row_bytes(rows, longest)

    def row_bytes(self, rows: int, columns: int) -> int:
        """About what so many rows of so many tokens take: keys and values, and a few sets of log-probs."""
        return rows * (columns * self.loaded.kv_bytes + 4 * 4 * self.loaded.vocab_size)


@dataclass(frozen=True)
class Prompted:
    """One request after its prompt was read.

    Attributes:
        plan: its rows.
        rows: their places in the batch.
        state: what fusion may know, G = 1.
        passages: the passages, with `relevance` filled in where it was computed.
        refused: whether every passage row refuses.
        cached_tokens: prompt tokens that came from the KV store.
    """

    plan: RowPlan
    rows: tuple[int, ...]
    state: FusionState
    passages: tuple[Passage, ...]
    refused: bool
    cached_tokens: int

    @property
    def row_tokens(self) -> tuple[int, ...]:
        """Prompt tokens of each row."""
        return tuple(len(row.context) + len(self.plan.suffix.ids) for row in self.plan.rows)


def read_prompts(
    engine: Engine, requests: Sequence[Request], plans: Sequence[RowPlan], *, closer: bool = True
) -> tuple[RowCache, Tensor, list[Prompted]]:
    """Read the prompts of several requests into one batch.

    Where a rule has a `focus`, the passages that matter get rows of their sentences beside their own
    (`nbce_rag.decoding.sentences`), so that a plan may come back with more rows than it had.

    Args:
        engine: model and wording.
        requests: the questions.
        plans: their rows (`Engine.plan`).
        closer: False reads no sentences, whatever the rules say.

    Returns:
        (cache with all rows, first log-probs [R, V], one `Prompted` a request).

    Raises:
        InputError: the rows do not fit into memory.
        NumericalError: the model gave NaN.
    """
    loaded = engine.loaded
    needed = engine.bytes_needed(requests, plans)
    free = free_memory(loaded.device)
    if needed > 0.9 * free:
        raise InputError(
            f"{sum(len(plan.rows) for plan in plans)} rows need about {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free. Use fewer or shorter passages, a lower max_tokens, or "
            "dtype='bfloat16'."
        )
    shared = _share(engine, requests, plans)
    asked = [_rows_to_read(engine, [requests[user] for user in users], plans[users[0]]) for users in shared]
    # All rows end at one column, where the longest prompt ends.
    end = max(len(row.context) + len(each.suffix.ids) for each in asked for row in each.rows)
    capacity = end + max(max(r.options.max_tokens, len(engine.encoder_of(r).refusal)) for r in requests)
    cache, readings, reused = read_rows(loaded, engine.store, engine.max_batch_tokens, asked, end, capacity)
    by_index: dict[int, _Question] = {}
    for users, each, places, reading in zip(shared, asked, places_of(asked), readings, strict=True):
        for user in users:
            by_index[user] = _Question(plans[user], list(places), reading)
            if closer:
                by_index[user].find_sentences(engine, requests[user], each, end)
    questions = [by_index[index] for index in range(len(requests))]
    further = list(dict.fromkeys(q.further for q in questions if q.further is not None))
    problem = _no_room(engine, further, capacity)
    if further and not problem:
        more, readings, stored = read_rows(
            loaded, engine.store, engine.max_batch_tokens, further, end, capacity
        )
        # Their row 0 was read as a measure only, and is there already.
        new = [place for places in places_of(further) for place in places[1:]]
        first = len(cache.begins)
        cache = cache.joined(more.keep(torch.tensor(new)))
        # What was put into the store a moment ago was not spared.
        reused |= stored - {row.context for each in asked for row in each.rows}
        for each, reading in zip(further, readings, strict=True):
            sentences = range(first, first + len(each.rows) - 1)
            first = sentences.stop
            for question in questions:
                if question.further == each:
                    question.add(each, sentences, reading)
    if engine.store is not None:
        problem = engine.store.take_problem() or problem
    if problem:
        warnings.warn(problem, NbceWarning, stacklevel=2)
        for question in questions:
            question.plan = replace(question.plan, warnings=(*question.plan.warnings, problem))
    order = [row for question in questions for row in question.rows]
    if order != list(range(len(cache.begins))):
        cache = cache.keep(torch.tensor(order))
    log_probs = torch.cat([question.reading.log_probs for question in questions])
    prompted, first = [], 0
    for request, question in zip(requests, questions, strict=True):
        places = range(first, first + len(question.rows))
        first = places.stop
        prompted.append(_prompted(loaded, request, question.plan, places, question.reading, reused))
    return cache, log_probs, prompted


@dataclass(eq=False)
class _Question:
    """One request while its prompt is read: its rows, where they are in the cache, what was read."""

    plan: RowPlan
    rows: list[int]
    reading: Reading
    further: RowsToRead | None = None

    def find_sentences(self, engine: Engine, request: Request, asked: RowsToRead, end: int) -> None:
        """Set `further` to the rows that the request's rule wants to read beside these, if any."""
        state = _state(engine.loaded, request, self.plan, self.reading)
        chosen = passages_to_read_closer(self.plan, request.options, self.reading.log_probs, state)
        room = end - len(asked.suffix.ids)
        encoder = engine.encoder_of(request)
        if rows := sentence_rows(encoder, request.passages, chosen, request.options, room):
            # Row 0 again, as what likelihoods are measured against.
            self.further = replace(asked, rows=(asked.rows[0], *rows))

    def add(self, asked: RowsToRead, places: Sequence[int], reading: Reading) -> None:
        """Take in what was read beside, and where its rows behind row 0 are."""
        self.plan = self.plan.with_sentences(asked.rows[1:])
        self.rows = [*self.rows, *places]
        self.reading = self.reading.joined(reading)


def _rows_to_read(engine: Engine, requests: Sequence[Request], plan: RowPlan) -> RowsToRead:
    """What requests with the same rows ask."""
    wanted = [_wants(request) for request in requests] if len(plan.rows) > 1 else []
    refusal = engine.encoder_of(requests[0]).refusal if any(r for _, r in wanted) else ()
    relevance = any(relevance for relevance, _ in wanted)
    return RowsToRead(plan.rows, plan.suffix, relevance, tuple(refusal), plan.rows)


def _no_room(engine: Engine, asked: Sequence[RowsToRead], capacity: int) -> str | None:
    """What to say when there is no memory for further rows."""
    rows = sum(len(each.rows) for each in asked)
    needed = engine.row_bytes(rows, capacity)
    if needed <= 0.9 * free_memory(engine.loaded.device):
        return None
    return (
        f"No passage was read sentence by sentence: {rows} further rows need about {needed / 2**30:.1f} GiB. "
        "Ask fewer questions at once, or lower max_tokens."
    )


def _share(engine: Engine, requests: Sequence[Request], plans: Sequence[RowPlan]) -> list[list[int]]:
    """Requests with the same rows, as when rules are compared: their prompts are read once."""
    users: dict[Any, list[int]] = {}
    for index, (request, plan) in enumerate(zip(requests, plans, strict=True)):
        contexts = tuple(row.context for row in plan.rows)
        users.setdefault((contexts, plan.suffix, engine.encoder_of(request).refusal), []).append(index)
    return list(users.values())


def _wants(request: Request) -> tuple[bool, bool]:
    """Whether relevance and refusal are to be computed."""
    rule = request.options.rule
    relevance = getattr(rule, "uses_relevance", False) or request.options.relevance
    return relevance, getattr(rule, "uses_refusal", False)


def _state(loaded: LoadedModel, request: Request, plan: RowPlan, reading: Reading) -> FusionState:
    """What the request's rule may know before the first token."""
    relevance = refusal = None
    wants_relevance, wants_refusal = _wants(request)
    if wants_relevance and reading.question is not None:
        relevance = (reading.question[1:] - reading.question[:1])[None]
    if wants_refusal and reading.refusal is not None:
        refusal = reading.refusal[1:][None]
    scores = plan.scores()
    return FusionState(
        scores=None if scores is None else scores.to(loaded.device), relevance=relevance, refusal=refusal
    )


def _prompted(
    loaded: LoadedModel,
    request: Request,
    plan: RowPlan,
    rows: range,
    reading: Reading,
    reused: set[tuple[int, ...]],
) -> Prompted:
    state = _state(loaded, request, plan, reading)
    passages = tuple(request.passages)
    if state.relevance is not None:
        best = plan.best(state.relevance[0].tolist())
        passages = tuple(replace(p, relevance=m) for p, m in zip(passages, best, strict=True))
    refusal = state.refusal
    return Prompted(
        plan=plan,
        rows=tuple(rows),
        state=state,
        passages=passages,
        refused=refusal is not None and bool((refusal >= request.options.refusal_threshold).all()),
        cached_tokens=sum(len(row.context) for row in plan.rows if row.context in reused),
    )
