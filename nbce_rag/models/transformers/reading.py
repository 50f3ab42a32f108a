"""Rows that are read together: contexts and one suffix into a cache, and what that tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...decoding.plan import Row
from ...kv.store import PassageKVStore
from ...prompts.encoder import Suffix
from ..model import Reading
from .loading import LoadedModel
from .rows import RowCache
from .suffix import read_contexts, read_suffix

__all__ = ["RowsToRead", "places_of", "read_rows"]


@dataclass(frozen=True)
class RowsToRead:
    """Rows that end with one suffix, row 0 first, and what is to be known of them.

    Attributes:
        rows: the rows.
        suffix: what all of them end with.
        relevance: whether the question's likelihood is asked for.
        refusal: token ids whose probability is asked for, may be empty.
        vocabulary: rows whose tokens the likelihood is normalised over; the same ones wherever likelihoods
            are to be compared.
    """

    rows: tuple[Row, ...]
    suffix: Suffix
    relevance: bool
    refusal: tuple[int, ...]
    vocabulary: tuple[Row, ...]


def places_of(sets: Sequence[RowsToRead]) -> Iterator[range]:
    """Places of each set's rows in a cache that holds all of them, one set after another."""
    first = 0
    for each in sets:
        yield range(first, first + len(each.rows))
        first += len(each.rows)


def read_rows(
    loaded: LoadedModel,
    store: PassageKVStore | None,
    max_batch_tokens: int,
    sets: Sequence[RowsToRead],
    end: int,
    capacity: int,
) -> tuple[RowCache, list[Reading], set[tuple[int, ...]]]:
    """Read sets of rows into one cache.

    Args:
        loaded: the model.
        store: of contexts, or None.
        max_batch_tokens: rows times length of one forward pass, at most.
        sets: what is read.
        end: the column that all rows end before, at least the longest prompt.
        capacity: columns of the cache.

    Returns:
        (the cache, rows in the order of `places_of`; a `Reading` for each set; contexts from the store).

    Raises:
        NumericalError: the model gave NaN.
    """
    rows = [row for each in sets for row in each.rows]
    contexts, reused = read_contexts(loaded, [row.context for row in rows], store, max_batch_tokens)
    begins = [end - len(each.suffix.ids) - len(row.context) for each in sets for row in each.rows]
    cache = RowCache(begins, capacity, loaded.layers, end)
    for index, row in enumerate(rows):
        if row.context:
            cache.place(index, contexts[row.context], len(row.context))
    del contexts
    readings = [
        read_suffix(
            loaded,
            cache.view(places.start, places.stop, end - len(each.suffix.ids)),
            each.suffix.ids,
            question=each.suffix.question if each.relevance else None,
            refusal=each.refusal,
            max_batch_tokens=max_batch_tokens,
            contexts=(token for row in each.vocabulary for token in row.context),
        )
        for each, places in zip(sets, places_of(sets), strict=True)
    ]
    return cache, readings, reused
