"""Reading passages ahead of any question, so that the KV store has them when one comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..decoding.reader import Engine
from ..errors import InputError
from ..kv.context import context_key
from ..kv.store import PassageKVStore
from ..models.transformers.contexts import context_bytes
from ..models.transformers.loading import LoadedModel
from ..models.transformers.suffix import read_contexts
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
        read: contexts that were read by the model.
        kept: contexts that were in the store already.
        too_long: ids of passages that need several rows. How those are cut depends on the question, so
            they are read when it comes.
    """

    passages: int
    read: int
    kept: int
    too_long: tuple[str, ...]


def fill_store(
    engine: Engine,
    passages: Callable[[], Iterable[Passage]],
    options: Options,
    progress: Progress | None = None,
) -> FillReport:
    """Put the contexts of all passages into the engine's store.

    The rows are planned by what plans them for a question, so that their token ids are the same then.

    Args:
        engine: model, wording and store.
        passages: gives them anew at each call; it is called twice.
        options: those of the questions to come.
        progress: called with (passages done, passages in all, title of the last one).

    Raises:
        InputError: there is no store, or the contexts do not fit into it or onto the disk.
    """
    store, loaded = engine.store, engine.loaded
    if store is None:
        raise InputError("There is no KV store to put passages into (kv_store=False); give a folder.")
    if options.passages_per_row > 1 or options.order_labels:
        raise InputError(
            "With passages_per_row or order_labels a passage's row depends on the other passages, so that it "
            "cannot be read ahead."
        )
    count, all_bytes, missing_bytes = 0, 0, 0
    too_long: list[str] = []
    for passage in passages():
        count += 1
        context = _context(engine, passage, options)
        if context is None:
            too_long.append(passage.id)
            continue
        size = _stored_bytes(loaded, store, len(context))
        all_bytes += size
        missing_bytes += 0 if context_key(loaded.fingerprint, context) in store else size
    _check_room(store, all_bytes, missing_bytes)
    read = kept = done = 0
    for batch in _batches(engine, passages(), options):
        missing = [ids for _, ids in batch if ids and context_key(loaded.fingerprint, ids) not in store]
        read_contexts(loaded, missing, store, engine.max_batch_tokens)
        read += len(missing)
        kept += sum(bool(ids) for _, ids in batch) - len(missing)
        done += len(batch)
        if progress is not None and batch:
            last = batch[-1][0]
            progress(min(done, count), count, last.title or last.id)
    store.flush()
    return FillReport(count, read, kept, tuple(too_long))


def _batches(
    engine: Engine, passages: Iterable[Passage], options: Options
) -> Iterator[list[tuple[Passage, tuple[int, ...]]]]:
    """Runs of passages with their contexts (empty for those too long), the prefix alone first."""
    prefix = engine.encoder.prefix
    if prefix:
        read_contexts(engine.loaded, [prefix], engine.store, engine.max_batch_tokens)
    batch: list[tuple[Passage, tuple[int, ...]]] = []
    size = 0
    for passage in passages:
        context = _context(engine, passage, options) or ()
        size += context_bytes(engine.loaded, len(context))
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


def _stored_bytes(loaded: LoadedModel, store: PassageKVStore, tokens: int) -> int:
    size = context_bytes(loaded, tokens)
    bits = store.codec.bits
    return round(_OVERHEAD * (size if bits is None else size * bits / (8 * loaded.dtype.itemsize)))


def _check_room(store: PassageKVStore, needed: int, missing: int) -> None:
    """Raises InputError where the first contexts would be evicted to make room for the last ones."""
    folder = store.folder
    limit = store.max_bytes if folder is None else store.max_disk_bytes
    if needed > limit:
        raise InputError(
            f"The passages' keys and values take about {needed / 1e9:.1f} GB and the KV store may hold "
            f"{limit / 1e9:.1f} GB. Raise the limit ({'max_bytes' if folder is None else 'max_disk_bytes'}, "
            "or `nbce-rag kv --max-bytes`), load the model in bfloat16, or use codec='int8'."
        )
    if folder is not None:
        free = shutil.disk_usage(_existing(folder)).free
        if missing > free:
            raise InputError(
                f"The passages' keys and values take about {missing / 1e9:.1f} GB and the disk of "
                f"{str(folder)!r} has {free / 1e9:.1f} GB free. Free some space, give another folder, load "
                "the model in bfloat16, or use codec='int8'."
            )


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())
