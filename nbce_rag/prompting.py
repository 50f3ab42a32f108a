"""From requests to rows that are ready to decode: plan, contexts, one cache, suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import psutil
import torch
from torch import Tensor

from .cache import RowCache
from .errors import InputError
from .fusion import FusionState
from .kv_store import PassageKVStore
from .models import LoadedModel
from .options import Options
from .passages import Passage
from .prefill import read_contexts, read_suffix
from .prompt import PromptEncoder
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
        return plan_rows(encoder, request.question, request.passages, request.options, self.loaded.window)

    def bytes_needed(self, plan: RowPlan, options: Options) -> int:
        """About what decoding these rows takes at its peak: keys and values, and a few sets of log-probs."""
        longest = max(len(row.context) for row in plan.rows) + len(plan.suffix.ids) + options.max_tokens
        return len(plan.rows) * (longest * self.loaded.kv_bytes + 4 * 4 * self.loaded.vocab_size)


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
    needed = sum(engine.bytes_needed(plan, r.options) for plan, r in zip(plans, requests, strict=True))
    free = free_memory(loaded.device)
    if needed > 0.9 * free:
        raise InputError(
            f"{sum(len(plan.rows) for plan in plans)} rows need about {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free. Use fewer or shorter passages, a lower max_tokens, or "
            "dtype='bfloat16'."
        )
    contexts, reused = read_contexts(
        loaded, [row.context for plan in plans for row in plan.rows], engine.store, engine.max_batch_tokens
    )
    # All rows end at one column, where the longest prompt ends.
    end = max(len(row.context) + len(plan.suffix.ids) for plan in plans for row in plan.rows)
    begins = [end - len(plan.suffix.ids) - len(row.context) for plan in plans for row in plan.rows]
    room = max(max(r.options.max_tokens, len(engine.encoder_of(r).refusal)) for r in requests)
    cache = RowCache(
        begins, end + room, loaded.model.config.get_text_config(decoder=True).num_hidden_layers, end
    )
    for index, row in enumerate(row for plan in plans for row in plan.rows):
        if row.context:
            cache.place(index, contexts[row.context])
    del contexts
    log_probs, prompted, first = [], [], 0
    for request, plan in zip(requests, plans, strict=True):
        rows = tuple(range(first, first + len(plan.rows)))
        first += len(rows)
        rule, alone = request.options.rule, len(rows) == 1
        refusal_ids = engine.encoder_of(request).refusal
        wants_relevance = getattr(rule, "uses_relevance", False) or request.options.relevance
        reading = read_suffix(
            loaded,
            cache.view(rows[0], rows[-1] + 1, end - len(plan.suffix.ids)),
            plan.suffix.ids,
            question=plan.suffix.question if wants_relevance and not alone else None,
            refusal=refusal_ids if getattr(rule, "uses_refusal", False) and not alone else (),
            max_batch_tokens=engine.max_batch_tokens,
        )
        log_probs.append(reading.log_probs)
        relevance = None if reading.question is None else (reading.question[1:] - reading.question[:1])[None]
        refusal = None if reading.refusal is None else reading.refusal[1:][None]
        scores = plan.scores()
        passages = tuple(request.passages)
        if relevance is not None:
            best = plan.best(relevance[0].tolist())
            passages = tuple(replace(p, relevance=m) for p, m in zip(passages, best, strict=True))
        prompted.append(
            Prompted(
                plan=plan,
                rows=rows,
                state=FusionState(
                    scores=None if scores is None else scores.to(loaded.device),
                    relevance=relevance,
                    refusal=refusal,
                ),
                passages=passages,
                refused=refusal is not None and bool((refusal >= request.options.refusal_threshold).all()),
                cached_tokens=sum(len(row.context) for row in plan.rows if row.context in reused),
            )
        )
    cache.length = end
    return cache, torch.cat(log_probs), prompted
