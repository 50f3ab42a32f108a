"""Cells of sequences, counted: against the plain sets of cells that llama.cpp would have."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.models.llama_cpp.cells import Held

Change = tuple[str, int, int]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(["grow", "cut", "copy", "clear"]), st.integers(0, 9), st.integers(0, 5))
    )
)
def test_never_fewer_than_there_are(changes: list[Change]) -> None:
    """Cells that several sequences hold count once; a piece cut off what is shared may count for longer."""
    held, cells, used, fresh = [Held()], [[]], 0, iter(range(10_000))  # type: ignore[var-annotated]
    for kind, place, tokens in changes:
        at = place % len(held)
        if kind == "grow":
            used += held[at].grow(tokens)
            cells[at] = [*cells[at], *(next(fresh) for _ in range(tokens))]
        elif kind == "cut":
            tokens = min(tokens, len(cells[at]))
            used += held[at].cut(tokens)
            cells[at] = cells[at][: len(cells[at]) - tokens]
        elif kind == "copy":
            held.append(held[at].copied())
            cells.append(cells[at])
        else:
            used += held[at].clear()
            cells[at] = []
        assert used >= len({cell for row in cells for cell in row})
    assert used + sum(row.clear() for row in held) == 0


def test_exact_where_nothing_shared_is_cut() -> None:
    one = Held()
    assert one.grow(5) == 5
    two = one.copied()
    assert two.grow(3) == 3
    assert one.grow(2) == 2
    assert two.cut(2) == -2
    assert one.clear() == -2  # the five are the copy's still
    assert two.cut(1) == -1
    assert two.clear() == -5
