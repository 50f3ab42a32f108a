"""Passages that are cut inside a table take its head along, and their spans stay true."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.documents.splitting import approximate_tokens, split_document, split_text
from nbce_rag.documents.tables import pipe_table
from nbce_rag.passages import Passage


def words(text: str) -> int:
    return len(text.split())


def own_text(passage: Passage) -> str:
    """Without the head that it took along."""
    return passage.text[passage.metadata.get("table_head", 0) :]


HEAD = "| Boat | Winter |\n| --- | --- |\n"
ROWS = [f"| Yawl no. {n}. Old | {n} |" for n in range(40)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("overlap", [0, 20])
def test_each_row_stands_under_its_head(end: str, overlap: int) -> None:
    text = ("The fees. They are new.\n\n" + HEAD + "\n".join(ROWS) + "\n\nAll in crowns.").replace("\n", end)
    passages = split_document(text, max_tokens=60, overlap=overlap, metadata={"k": 1})
    head = HEAD.replace("\n", end)
    assert len(passages) > 5
    for row in ROWS:
        holders = [passage for passage in passages if row in passage.text]
        assert holders
        assert all(passage.text.count(head) == 1 for passage in holders)
    for passage in passages:
        assert own_text(passage) == text[passage.start : passage.end]
        assert approximate_tokens(passage.text) <= 60
        assert passage.metadata["k"] == 1
        # No row is parted, though sentences end within.
        assert all(line.count("|") in (0, 3) for line in passage.text.splitlines())
    assert [(p.start, p.end) for p in passages] == split_text(text, max_tokens=60, overlap=overlap)
    assert passages[-1].text.endswith("All in crowns.")


def test_rows_are_one_row_longer_than_a_passage_may_be() -> None:
    text = HEAD + "| " + "long " * 60 + "| 1 |\n| Dinghy | 2 |"
    passages = split_document(text, max_tokens=30, overlap=0, count_tokens=words)
    assert all(words(passage.text) <= 30 for passage in passages)
    assert all(HEAD in passage.text for passage in passages if passage.start)
    assert "".join(own_text(passage) for passage in passages).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    "head",
    [
        "|  |  |\n| --- | --- |\n",  # it names nothing
        f"| {'word ' * 20} | b |\n| --- | --- |\n",  # it takes more than half of a passage
        "no table\n| --- | --- |\n",
        "| a | b |\n\n| --- | --- |\n",
    ],
)
def test_heads_that_say_nothing_or_too_much_stay_behind(head: str) -> None:
    text = head + "\n".join(ROWS)
    passages = split_document(text, max_tokens=30, overlap=0)
    assert all("table_head" not in passage.metadata for passage in passages)
    assert all(passage.text == text[passage.start : passage.end] for passage in passages)


@pytest.mark.parametrize("head", ["a | b\n--- | ---\n", "| a | b |\n|:-|-:|\n", "  | a | b |\n  |---|---|\n"])
def test_markdown_writes_tables_in_several_ways(head: str) -> None:
    text = "Before:\n\n" + head + "\n".join(f"one {n} | two" for n in range(30))
    passages = split_document(text, max_tokens=40, overlap=0)
    assert sum("table_head" in passage.metadata for passage in passages) == len(passages) - 1 > 3
    assert all(head in passage.text for passage in passages)


def test_each_table_has_its_own_head() -> None:
    tables = [pipe_table([[f"Head {t}", "x"], *([f"row {t} {n}", "y"] for n in range(20))]) for t in range(3)]
    for gap in ("\n\n", "\n\nSome words between. More of them.\n\n"):
        passages = split_document(gap.join(tables), max_tokens=50, overlap=10)
        for passage in passages:
            for t in range(3):
                if f"row {t} " in passage.text:
                    assert f"Head {t}" in passage.text


def test_lines_of_dashes_take_time_in_proportion() -> None:
    for unit in ("|---|\n", "| a |\n|---|\n", "-" * 50 + "|", "|\n", "a|b\n|-|-|\nc|d\n", "\n", " |", "|-"):
        text = unit * (200_000 // len(unit))
        start = time.perf_counter()
        split_text(text, count_tokens=lambda part: len(part) // 4 + 1)
        assert time.perf_counter() - start < 20


LINES = st.sampled_from(
    [
        "| a | b |",
        "| --- | --- |",
        "---|---",
        "|  |  |",
        "|---|",
        "one. Two three",
        "c | d",
        "",
        "x" * 30,
        "|",
        "\r",
    ]
)
COUNTERS: list[Callable[[str], int]] = [approximate_tokens, words, len]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(LINES, max_size=30),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 60),
    st.sampled_from(COUNTERS),
)
def test_spans_are_those_of_the_text_whatever_it_is(
    lines: list[str], end: str, max_tokens: int, count: Callable[[str], int]
) -> None:
    text = end.join(lines)
    passages = split_document(text, max_tokens=max_tokens, overlap=max_tokens // 3, count_tokens=count)
    covered: set[int] = set()
    for passage in passages:
        assert passage.start is not None
        assert passage.end is not None
        assert own_text(passage) == text[passage.start : passage.end]
        assert count(passage.text) <= max_tokens or len(own_text(passage)) == 1
        covered.update(range(passage.start, passage.end))
    assert all(i in covered for i, character in enumerate(text) if not character.isspace())
    assert [(p.start, p.end) for p in passages] == split_text(
        text, max_tokens=max_tokens, overlap=max_tokens // 3, count_tokens=count
    )
