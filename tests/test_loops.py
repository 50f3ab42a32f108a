"""Loops of answers, against a definition that is slow and obvious."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.decoding.loops import is_loop


def reference(ids: list[int]) -> bool:
    """Some piece of up to 64 tokens, written often enough, is the end of it."""
    for period in range(1, 65):
        copies = max(4, -(-32 // period))
        piece = ids[-period:]
        if len(piece) == period and ids[-period * copies :] == piece * copies:
            return True
    return False


@given(
    st.lists(st.integers(0, 3), max_size=12),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(0, 40),
    st.lists(st.integers(0, 3), max_size=3),
)
def test_it_is_as_defined(before: list[int], piece: list[int], copies: int, after: list[int]) -> None:
    ids = before + piece * copies + after
    assert is_loop(ids) == reference(ids)


def test_what_is_no_loop() -> None:
    assert not is_loop([])
    assert not is_loop([1] * 31)
    assert is_loop([1] * 32)
    assert not is_loop([5, *range(40)] * 3)  # three times only
    assert is_loop([5, *range(40)] * 4)
    assert not is_loop(list(range(65)) * 4)  # a piece longer than is looked for
    counted = [token for n in range(10) for token in (1, 2, 3, 4, 5, 6, 7, 100 + n)]
    assert not is_loop(counted)
