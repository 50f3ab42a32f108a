"""The store of keys and values: under the right key, within its bytes, least recently used out first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.errors import InputError
from nbce_rag.kv.context import Packed, context_key, nbytes
from nbce_rag.kv.store import PassageKVStore

TOKEN = 2 * 2 * 3 * 4  # bytes that a token of `context` takes: keys and values, 2 heads, 3 numbers, float32


def context(tokens: int, layers: int = 1, fill: float = 0.0, dtype: torch.dtype = torch.float32) -> Packed:
    return {
        f"{layer}.{name}": torch.full((2, tokens, 3), number, dtype=dtype)
        for layer in range(layers)
        for name, number in (("keys", fill), ("values", -fill))
    }


def is_same(found: Packed | None, kept: Packed) -> bool:
    """Whether these are the very tensors."""
    return found is not None and all(a is b for a, b in zip(found.values(), kept.values(), strict=True))


def test_what_went_in_comes_out() -> None:
    store = PassageKVStore()
    kept = context(4, layers=3)
    store.put("a", kept)
    assert is_same(store.get("a"), kept)
    assert store.get("b") is None
    assert (store.hits, store.misses, len(store)) == (1, 1, 1)
    assert store.nbytes == 4 * 3 * TOKEN


def test_bytes_are_those_of_the_tensors() -> None:
    store = PassageKVStore()
    store.put("a", context(5, dtype=torch.bfloat16))
    assert store.nbytes == 5 * TOKEN // 2
    assert PassageKVStore().max_bytes == 2**30


def test_the_least_recently_used_goes_first() -> None:
    store = PassageKVStore(3 * TOKEN)
    for key in "abc":
        store.put(key, context(1))
    assert store.get("a") is not None
    store.put("d", context(1))
    assert [key for key in "abcd" if store.get(key)] == ["a", "c", "d"]
    store.put("e", context(2))  # takes the place of two
    assert [key for key in "abcde" if store.get(key)] == ["d", "e"]
    assert store.nbytes == 3 * TOKEN


def test_putting_again_counts_as_use() -> None:
    store = PassageKVStore(2 * TOKEN)
    first = context(1)
    store.put("a", first)
    store.put("b", context(1))
    store.put("a", context(1))
    assert store.nbytes == 2 * TOKEN
    store.put("c", context(1))
    assert is_same(store.get("a"), first)
    assert store.get("b") is None


def test_one_that_is_larger_than_the_store_is_not_kept() -> None:
    store = PassageKVStore(2 * TOKEN)
    store.put("a", context(2))
    store.put("large", context(3))
    assert store.get("large") is None
    assert store.get("a") is not None


def test_a_store_of_no_bytes_keeps_nothing() -> None:
    store = PassageKVStore(0)
    store.put("a", context(1))
    assert (len(store), store.nbytes, store.get("a")) == (0, 0, None)


def test_a_negative_size() -> None:
    with pytest.raises(InputError, match="max_bytes=-1 is negative"):
        PassageKVStore(-1)


def test_clear() -> None:
    store = PassageKVStore()
    store.put("a", context(1))
    store.clear()
    assert (len(store), store.nbytes, store.get("a")) == (0, 0, None)
    store.put("a", context(1))
    assert store.nbytes == TOKEN


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.integers(1, 4)), max_size=40),
    st.integers(0, 8),
)
def test_against_a_simple_model(calls: list[tuple[bool, str, int]], room: int) -> None:
    store = PassageKVStore(room * TOKEN)
    kept: list[tuple[str, int]] = []  # least recently used first
    for is_put, key, tokens in calls:
        held = next((entry for entry in kept if entry[0] == key), None)
        if is_put:
            store.put(key, context(tokens))
            if tokens > room:
                continue
            if held is None:
                held = (key, tokens)
                kept.append(held)
        else:
            assert (store.get(key) is None) == (held is None)
        if held is not None:
            kept.remove(held)
            kept.append(held)
        while sum(size for _, size in kept) > room:
            kept.pop(0)
        assert store.nbytes == sum(size for _, size in kept) * TOKEN <= store.max_bytes
        assert len(store) == len(kept)


def test_the_key_depends_on_everything() -> None:
    keys = [
        context_key(fingerprint, ids)
        for fingerprint in ("aa", "ab", "aaa", "")
        for ids in ((), (0,), (1,), (0, 0), (1, 2), (2, 1), (12,), (258,), (1, 2, 3), (2**40,), (-1,))
    ]
    assert len(set(keys)) == len(keys)


@given(st.text(max_size=4), st.lists(st.integers(0, 2**31)))
def test_the_key_depends_on_nothing_else(fingerprint: str, ids: list[int]) -> None:
    assert context_key(fingerprint, ids) == context_key(fingerprint, tuple(ids))


def test_several_threads() -> None:
    store = PassageKVStore(20 * TOKEN)
    start = threading.Barrier(8)

    def work(worker: int) -> int:
        start.wait()
        wrong = 0
        for i in range(400):
            number = (i * 7 + worker) % 30
            found = store.get(str(number))
            if found is None:
                store.put(str(number), context(number % 4 + 1, fill=float(number)))
            elif float(found["0.keys"][0, 0, 0]) != number:
                wrong += 1
            wrong += store.nbytes < 0
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 0
    assert store.hits + store.misses == 8 * 400
    kept = [found for i in range(30) if (found := store.get(str(i))) is not None]
    assert len(kept) == len(store)
    assert store.nbytes == sum(map(nbytes, kept))
    assert store.nbytes <= store.max_bytes
