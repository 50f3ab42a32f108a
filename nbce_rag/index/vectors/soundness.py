"""Whether an index of FAISS, read from a file that somebody else may have made, leads nowhere outside itself.

FAISS checks how long the parts of a file are. That the links of a graph and the numbers in lists point at
vectors that are there, it takes for granted while it searches.
"""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np

from .factories import FaissIndex

__all__ = ["check_sound"]

faiss: Any = _faiss

_MOST_EXPLORED = 1 << 16


def check_sound(index: FaissIndex) -> None:
    """Looks at what a search would follow.

    Raises:
        ValueError: It leads out of the index, or the index searches in another way than by inner product.
    """
    inner: Any = index
    if inner.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError("an index of another metric")
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if inner.ntotal != index.ntotal:
        raise ValueError("parts of different sizes")
    if isinstance(inner, faiss.IndexHNSW):
        _check_graph(inner)
    elif isinstance(inner, faiss.IndexIVF):
        _check_lists(inner)


def _check_graph(index: Any) -> None:
    graph, count = index.hnsw, index.ntotal
    levels, offsets, links, sizes = (
        faiss.vector_to_array(part).astype(np.int64)
        for part in (graph.levels, graph.offsets, graph.neighbors, graph.cum_nneighbor_per_level)
    )
    storage = faiss.downcast_index(index.storage)
    is_whole = (
        len(levels) == count
        and len(offsets) == count + 1
        and (storage.ntotal, storage.d) == (count, index.d)
        and 0 < graph.efSearch <= _MOST_EXPLORED
        and len(sizes) > 0
        and sizes[0] == 0
        and bool((np.diff(sizes) >= 0).all())
    )
    if not is_whole or not count:
        raise ValueError("a graph whose parts do not fit each other")
    if levels.min() < 1 or levels.max() >= len(sizes):
        raise ValueError("a graph with levels that it does not have")
    if offsets[0] != 0 or offsets[-1] != len(links) or (np.diff(offsets) != sizes[levels]).any():
        raise ValueError("a graph whose links stand elsewhere")
    if links.min(initial=-1) < -1 or links.max(initial=-1) >= count:
        raise ValueError("a graph with links to vectors that it does not have")
    entry = graph.entry_point
    if not 0 <= entry < count or graph.max_level != levels[entry] - 1 or graph.max_level != levels.max() - 1:
        raise ValueError("a graph that begins elsewhere")
    # A link on a level leads to a vector of that level at least: else a search reads the links of others.
    owners = np.repeat(np.arange(count), sizes[levels])
    places = np.arange(len(links)) - offsets[owners]
    level = np.searchsorted(sizes, places, side="right")
    there = links >= 0
    if (levels[links[there]] < level[there]).any():
        raise ValueError("a graph with links between levels")


def _check_lists(index: Any) -> None:
    lists = index.invlists
    quantizer = faiss.downcast_index(index.quantizer)
    if lists.nlist != index.nlist or quantizer.ntotal != index.nlist or lists.code_size != index.code_size:
        raise ValueError("lists that do not fit each other")
    if isinstance(quantizer, faiss.IndexHNSW):
        _check_graph(quantizer)
    total = 0
    for number in range(lists.nlist):
        size = lists.list_size(number)
        total += size
        if total > index.ntotal:
            break
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= index.ntotal:
                raise ValueError("lists of vectors that it does not have")
    if total != index.ntotal:
        raise ValueError("lists of another number of vectors")
