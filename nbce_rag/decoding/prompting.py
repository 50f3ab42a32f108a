"""From requests to rows that are ready to decode: plan, contexts, one cache, suffixes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch
from torch import Tensor

from ..errors import InputError, NbceWarning
from ..fusion import FusionState
from ..models import LoadedModel
from ..options import Options
from ..passages import Passage
from ..prompt import PromptEncoder
from .cache import RowCache
from .kv_store import PassageKVStore
from .prefill import Reading, read_contexts, read_suffix
from .rows import RowPlan, plan_rows

__all__ = ["Engine", "Prompted", "Request", "free_memory", "read_prompts"]


@dataclass(frozen=True)
class Request:
    """One question with its passages, as `NBCE.batch` takes it.

    Attributes:
        question: what is asked.
        passages: any number of passages; none answers from the question alone.
        options: options of this request.
        prompt: wording of this request alone, for instance a whole conversation; None is the engine's.
    """

    question: str
    passages: Sequence[Passage] = ()
    options: Options = field(default_factory=Options)
    prompt: PromptEncoder | None = None


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
        return rows * (longest * self.loaded.kv_bytes + 4 * 4 * self.loaded.vocab_size)


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


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def read_prompts(
    engine: Engine, requests: Sequence[Request], plans: Sequence[RowPlan]
) -> tuple[RowCache, Tensor, list[Prompted]]:
    """Read the prompts of several requests into one batch.

    Args:
        engine: model and wording.
        requests: the questions.
        plans: their rows (`Engine.plan`).

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
    unique = [plans[users[0]] for users in shared]
    contexts, reused = read_contexts(
        loaded, [row.context for plan in unique for row in plan.rows], engine.store, engine.max_batch_tokens
    )
    # All rows end at one column, where the longest prompt ends.
    end = max(len(row.context) + len(plan.suffix.ids) for plan in unique for row in plan.rows)
    begins = [end - len(plan.suffix.ids) - len(row.context) for plan in unique for row in plan.rows]
    room = max(max(r.options.max_tokens, len(engine.encoder_of(r).refusal)) for r in requests)
    cache = RowCache(begins, end + room, loaded.layers, end)
    for index, row in enumerate(row for plan in unique for row in plan.rows):
        if row.context:
            cache.place(index, contexts[row.context], len(row.context))
    del contexts
    readings: dict[int, Reading] = {}
    places: dict[int, range] = {}
    first = 0
    for plan, users in zip(unique, shared, strict=True):
        rows = range(first, first + len(plan.rows))
        first = rows.stop
        wanted = [_wants(requests[user]) for user in users] if len(rows) > 1 else []
        reading = read_suffix(
            loaded,
            cache.view(rows.start, rows.stop, end - len(plan.suffix.ids)),
            plan.suffix.ids,
            question=plan.suffix.question if any(relevance for relevance, _ in wanted) else None,
            refusal=engine.encoder_of(requests[users[0]]).refusal if any(r for _, r in wanted) else (),
            max_batch_tokens=engine.max_batch_tokens,
            contexts=(token for row in plan.rows for token in row.context),
        )
        readings.update(dict.fromkeys(users, reading))
        places.update(dict.fromkeys(users, rows))
    if engine.store is not None and (problem := engine.store.take_problem()):
        warnings.warn(problem, NbceWarning, stacklevel=2)
        plans = [replace(plan, warnings=(*plan.warnings, problem)) for plan in plans]
    prompted, first = [], 0
    for index, (request, plan) in enumerate(zip(requests, plans, strict=True)):
        rows = range(first, first + len(plan.rows))
        first = rows.stop
        prompted.append(_prompted(loaded, request, plan, rows, readings[index], reused))
    log_probs = torch.cat([readings[index].log_probs for index in range(len(requests))])
    if len(unique) < len(requests):
        cache = cache.keep(torch.tensor([row for index in range(len(requests)) for row in places[index]]))
    return cache, log_probs, prompted


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


def _prompted(
    loaded: LoadedModel,
    request: Request,
    plan: RowPlan,
    rows: range,
    reading: Reading,
    reused: set[tuple[int, ...]],
) -> Prompted:
    relevance = refusal = None
    wants_relevance, wants_refusal = _wants(request)
    if wants_relevance and reading.question is not None:
        relevance = (reading.question[1:] - reading.question[:1])[None]
    if wants_refusal and reading.refusal is not None:
        refusal = reading.refusal[1:][None]
    scores = plan.scores()
    passages = tuple(request.passages)
    if relevance is not None:
        best = plan.best(relevance[0].tolist())
        passages = tuple(replace(p, relevance=m) for p, m in zip(passages, best, strict=True))
    return Prompted(
        plan=plan,
        rows=tuple(rows),
        state=FusionState(
            scores=None if scores is None else scores.to(loaded.device),
            relevance=relevance,
            refusal=refusal,
        ),
        passages=passages,
        refused=refusal is not None and bool((refusal >= request.options.refusal_threshold).all()),
        cached_tokens=sum(len(row.context) for row in plan.rows if row.context in reused),
    )
