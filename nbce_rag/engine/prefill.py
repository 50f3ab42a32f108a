"""Reading passages ahead of any question, so that the KV store has them when one comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..decoding.budget import check_store
from ..decoding.reader import Engine
from ..decoding.sentences import sentence_rows
from ..errors import InputError, warn
from ..kv.store import ContextStore, PassageKVStore
from ..models.model import Model
from ..options import Options
from ..passages import Passage
from ..request import Request

__all__ = ["FillReport", "fill_store"]

_BATCH_BYTES = 256 << 20  # keys and values held at once, beside those that wait to be written
_BATCH = 64
_OVERHEAD = 1.02  # file headers, and in coded files the scales

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class FillReport:
    """What `NBCE.prefill` did.

    Attributes:
        passages: how many were given.
        read: how many of them were read by the model.
        kept: how many were in the store already, or came from its remote tier.
        too_long: ids of passages that need several rows. How those are cut depends on the question, so
            they are read when it comes.
        sentences: how many contexts of their sentences (`Posterior.focus`) were read besides.
    """

    passages: int
    read: int
    kept: int
    too_long: tuple[str, ...]
    sentences: int = 0


def fill_store(
    engine: Engine,
    passages: Callable[[], Iterable[Passage]],
    options: Options,
    progress: Progress | None = None,
    *,
    sentences: bool = True,
) -> FillReport:
    """Put the contexts of all passages, and of their sentences, into the engine's store.

    The rows are planned by what plans them for a question, so that their token ids are the same then. Where
    several passages with more than `MOST_ROWS` sentences together matter to a question, neighbouring
    sentences share rows, and these are read when it comes.

    Args:
        engine: model, wording and store.
        passages: gives them anew at each call; it is called twice.
        options: those of the questions to come.
        progress: called with (passages done, passages in all, title of the last one).
        sentences: whether those of prose are read too, as rules with a `focus` read them of the passages
            that matter.

    Raises:
        InputError: there is no store, or a backend that keeps contexts by itself, the contexts do not fit
            into it or onto the disk, or it cannot be written, which ends the reading.
    """
    model, store, contexts = engine.model, engine.store, engine.contexts
    if not model.can.store:
        raise InputError(
            f"The backend of {model.name!r} keeps keys and values of passages by itself, as questions come: "
            "there is nothing to read ahead."
        )
    if store is None or contexts is None:
        raise InputError("There is no KV store to put passages into (kv_store=False); give a folder.")
    if options.passages_per_row > 1 or options.order_labels:
        raise InputError(
            "With passages_per_row or order_labels a passage's row depends on the other passages, so that it "
            "cannot be read ahead."
        )
    count, needed, unread_bytes = 0, 0, 0
    too_long: list[str] = []
    for passage in passages():
        count += 1
        context = _context(engine, passage, options)
        if context is None:
            too_long.append(passage.id)
            continue
        for ids in (context, *(_sentences(engine, passage, options) if sentences else ())):
            size = _stored_bytes(model, store, len(ids))
            needed += size
            unread_bytes += 0 if ids in contexts else size
    check_store(store, needed, unread_bytes)
    read = kept = done = further = 0
    prefix = engine.encoders.of(None, options.chat_template_kwargs, options.style, options.thinking).prefix
    if prefix:
        model.read([prefix], contexts, engine.batch_tokens)
    for batch in _batches(engine, passages(), options):
        unread = [ids for _, ids in batch if ids and ids not in contexts]
        read_now = _read(engine, store, contexts, unread)
        read += read_now
        kept += sum(bool(ids) for _, ids in batch) - read_now
        if sentences:
            parts = [ids for passage, own in batch if own for ids in _sentences(engine, passage, options)]
            parts = [ids for ids in dict.fromkeys(parts) if ids not in contexts]
            further += _read(engine, store, contexts, parts)
        done += len(batch)
        if progress is not None and batch:
            last = batch[-1][0]
            progress(min(done, count), count, last.title or last.id)
        if problem := store.take_problem():
            raise _not_stored(problem, done, count)
    if problem := store.settle():
        raise _not_stored(problem, done, count)
    for note in store.take_notes():
        warn(note)
    return FillReport(count, read, kept, tuple(too_long), further)


def _read(
    engine: Engine, store: PassageKVStore, contexts: ContextStore, unread: Sequence[tuple[int, ...]]
) -> int:
    """Puts contexts into the store; returns how many of them the model read, and no other machine's had."""
    before = store.statistics.remote
    contexts.expect(unread)
    engine.model.read(unread, contexts, engine.batch_tokens)
    after = store.statistics.remote
    came = after.hits - before.hits if before is not None and after is not None else 0
    return max(len(unread) - came, 0)


def _not_stored(problem: str, done: int, count: int) -> InputError:
    return InputError(
        f"{problem} Reading ended after {done} of {count} passages, not all of which are stored."
    )


def _batches(
    engine: Engine, passages: Iterable[Passage], options: Options
) -> Iterator[list[tuple[Passage, tuple[int, ...]]]]:
    """Runs of passages with their contexts (empty for those too long)."""
    batch: list[tuple[Passage, tuple[int, ...]]] = []
    size = 0
    for passage in passages:
        context = _context(engine, passage, options) or ()
        size += engine.model.context_bytes(len(context))
        batch.append((passage, context))
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _context(engine: Engine, passage: Passage, options: Options) -> tuple[int, ...] | None:
    """Token ids of the passage's row, or None if it needs several."""
    # Any question will do: it stands behind the context.
    rows = engine.plan(Request("?", (passage,), options)).rows[1:]
    return rows[0].context if len(rows) == 1 else None


def _sentences(engine: Engine, passage: Passage, options: Options) -> list[tuple[int, ...]]:
    """Token ids of the rows of a passage's sentences, as a question reads them that it alone matters to."""
    if not getattr(options.rule, "focus", 0.0):
        return []
    encoder = engine.encoder_of(Request("?", (passage,), options))
    return [row.context for row in sentence_rows(encoder, (passage,), (0,), options, engine.window)]


def _stored_bytes(model: Model, store: PassageKVStore, tokens: int) -> int:
    whole, states, bits = model.context_bytes(tokens), model.context_bytes(0), store.codec.bits
    exact_bits: int = 8 * getattr(torch, model.dtype).itemsize
    # Codecs round columns alone.
    return round(_OVERHEAD * (states + (whole - states) * (bits or exact_bits) / exact_bits))
