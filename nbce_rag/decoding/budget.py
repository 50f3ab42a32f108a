"""What is needed against what is free: the one place where memory and disk are weighed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..kv.store import PassageKVStore
from ..models.model import Model

__all__ = ["NOTHING", "Size", "check_rows", "check_store", "copies", "fits", "joins", "size_of"]

_SHARE = 0.9  # of the free memory, at most
_BATCH_SHARE = 3  # a decoding batch takes at most one part in so many of it


@dataclass(frozen=True, slots=True)
class Size:
    """Rows.

    Attributes:
        rows: how many.
        tokens: of the longest, prompt and answer.
        total: tokens of all of them.
    """

    rows: int
    tokens: int
    total: int

    def __add__(self, other: Size) -> Size:
        return Size(self.rows + other.rows, max(self.tokens, other.tokens), self.total + other.total)

    def cost(self, model: Model) -> int:
        """About the bytes that decoding them takes at its peak."""
        if model.can.pads or not self.rows:
            return model.cost(self.rows, self.tokens)
        return model.cost(self.rows, -(-self.total // self.rows))


NOTHING = Size(0, 0, 0)


def size_of(lengths: Sequence[int], room: int) -> Size:
    """The size of rows.

    Args:
        lengths: tokens of each row's prompt; at least one row.
        room: tokens that must fit behind each.
    """
    return Size(len(lengths), max(lengths) + room, sum(lengths) + len(lengths) * room)


def fits(model: Model, size: Size) -> bool:
    """Whether there is memory for rows."""
    return size.cost(model) <= _SHARE * model.free()


def check_rows(model: Model, size: Size, running: Size = NOTHING) -> None:
    """Raises InputError where there is no memory for rows, nor will be when those that run now are gone."""
    needed, free = size.cost(model), model.free() + running.cost(model)
    if needed > _SHARE * free:
        raise InputError(
            f"{size.rows} rows need about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free. Use "
            "fewer or shorter passages, a lower max_tokens, or dtype='bfloat16'."
        )


def copies(model: Model, size: Size) -> int:
    """How many copies of rows a decoding batch may hold, at least one."""
    return max(1, model.free() // _BATCH_SHARE // size.cost(model))


def joins(model: Model, running: Size, cohort: Sequence[Size], size: Size) -> bool:
    """Whether there is memory for a question beside others.

    All of them take at most a third of what would be free without them, since rows are copied where some
    join or leave. A question alone may take more.

    Args:
        model: decodes them.
        running: the rows that are decoded already.
        cohort: questions that are about to be read, in one pass.
        size: of the one more.
    """
    if not running.rows and not cohort:
        return True
    together = sum((*cohort, size), running)
    cost = together.cost(model)
    if cost > (model.free() + running.cost(model)) / _BATCH_SHARE:
        return False
    # Where rows are padded to the longest, reading a long prompt with short ones may cost more than it saves.
    return running.rows > 0 or cost <= 2 * sum(one.cost(model) for one in (*cohort, size))


def check_store(store: PassageKVStore, needed: int, unread: int) -> None:
    """Raises InputError where the first contexts would be evicted to make room for the last ones.

    Args:
        store: where contexts are to be kept.
        needed: bytes of all of them.
        unread: bytes of those that are not there yet.
    """
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
        if unread > free:
            raise InputError(
                f"The passages' keys and values take about {unread / 1e9:.1f} GB and the disk of "
                f"{str(folder)!r} has {free / 1e9:.1f} GB free. Free some space, give another folder, load "
                "the model in bfloat16, or use codec='int8'."
            )


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())
