from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbce_rag.documents.splitting import approximate_tokens, split_document, split_text
from nbce_rag.errors import InputError


def passages(
    text: str, max_tokens: int, overlap: int = 0, count_tokens: Callable[[str], int] | None = None
) -> list[str]:
    spans = split_text(text, max_tokens=max_tokens, overlap=overlap, count_tokens=count_tokens)
    return [text[start:end] for start, end in spans]


def words(text: str) -> int:
    return len(text.split())


def seams_cost(text: str) -> int:
    """Not additive: whitespace costs more than what it joins, as line ends do in some vocabularies."""
    return len(text) + 2 * sum(map(str.isspace, text))


def nothing(text: str) -> int:
    return 0


def sentences_of(text: str, expected: list[str]) -> list[str]:
    """The passages when only the expected sentences fit: any other cut is taken apart into characters."""
    return passages(text, 1, count_tokens=lambda part: 1 if part in expected else 2)


SAMPLES = st.sampled_from(
    [
        "One. ",
        "Two two two! ",
        "你好。",
        "很长的一句话，",
        "\n\n",
        "\r\n",
        "\r\n\r\n",
        "สวัสดีครับ ",
        "👩‍👩‍👧",
        "3.14",
        "...",
        '."',
        "a" * 30,
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(SAMPLES, max_size=40).map("".join))
COUNTERS = st.sampled_from([approximate_tokens, words, len, seams_cost, nothing])


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 40), st.integers(0, 39), COUNTERS)
@example("a b c", 1, 0, len)
@example("One. Two. Three. Four.", 6, 5, words)
def test_spans_cover_the_text_in_order_within_their_limits(
    text: str, max_tokens: int, overlap: int, count: Callable[[str], int]
) -> None:
    overlap = min(overlap, max_tokens - 1)
    spans = split_text(text, max_tokens=max_tokens, overlap=overlap, count_tokens=count)
    covered = 0
    previous = (-1, -1)
    for start, end in spans:
        piece = text[start:end]
        assert piece == piece.strip() != ""
        assert start > previous[0]
        assert end > previous[1]
        assert not text[covered : max(start, covered)].strip(), "text between passages is lost"
        assert count(piece) <= max_tokens or len(piece) == 1
        if start < previous[1]:
            assert count(text[start : previous[1]]) <= overlap
        covered = end
        previous = (start, end)
    assert not text[covered:].strip()


@pytest.mark.parametrize("text", ["", "  \n\n\t\u3000"])
def test_blank_text_gives_no_passage(text: str) -> None:
    assert split_text(text) == []


def test_a_short_text_is_one_passage_without_its_outer_whitespace() -> None:
    assert split_text("\n  Hello there. How are you?\n") == [(3, 28)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He came. She left! Why? Who knows.", ["He came.", "She left!", "Why?", "Who knows."]),
        ("今天下雨。我们去哪儿？在家吧！好", ["今天下雨。", "我们去哪儿？", "在家吧！", "好"]),
        ("他说：“走吧。”然后走了。", ["他说：“走吧。”", "然后走了。"]),
        ("「行こう。」彼は歩いた。", ["「行こう。」", "彼は歩いた。"]),
        ('She said "Go." He went (fast.) Then rest.', ['She said "Go."', "He went (fast.)", "Then rest."]),
        ("هل أنت هنا؟ نعم أنا هنا.", ["هل أنت هنا؟", "نعم أنا هنا."]),
        ("वह आया। वह गया।", ["वह आया।", "वह गया।"]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("I live. I love.", ["I live.", "I love."]),
        ("First\nline. Second\r\nline.", ["First\nline.", "Second\r\nline."]),
    ],
)
def test_sentences_end_where_readers_of_the_language_end_them(text: str, sentences: list[str]) -> None:
    assert sentences_of(text, sentences) == sentences


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met Prof. Jones",
        "J. K. Rowling wrote it",
        "The U.S. Army came",
        "Pi is 3.14 or so",
        "See e.g. Fig. 3 of it",
        "Visit example.org today",
        "He said no. but went",
        "1. The first point",
        '"Really?" she said',
    ],
)
def test_a_full_stop_within_a_sentence_does_not_end_it(text: str) -> None:
    sentences = [f"{text}.", "Then another."]
    assert sentences_of(" ".join(sentences), sentences) == sentences


def test_passages_end_at_paragraphs_when_they_are_half_full_there() -> None:
    text = "One two. Three four.\n\nFive six. Seven eight. Nine ten."
    assert passages(text, 6, count_tokens=words) == [
        "One two. Three four.",
        "Five six. Seven eight. Nine ten.",
    ]


def test_short_paragraphs_share_a_passage() -> None:
    text = "One.\n\nTwo.\n\nThree four five six. Seven eight nine ten."
    assert passages(text, 6, count_tokens=words) == [
        "One.\n\nTwo.\n\nThree four five six.",
        "Seven eight nine ten.",
    ]


@pytest.mark.parametrize("gap", ["\n\n", "\r\n\r\n", "\r\r", "\n \t\n", "\f", "\u2029"])
def test_blank_lines_pages_and_separators_end_a_paragraph(gap: str) -> None:
    # Without end marks only a paragraph's end can be the cut.
    text = f"One two{gap}three four five"
    assert passages(text, 4, count_tokens=words) == ["One two", "three four five"]


def test_a_windows_line_end_is_one_line_end() -> None:
    text = "One two\r\nthree four five six"
    assert passages(text, 5, count_tokens=words) == [
        "One two",
        "three four five six",
    ]  # cut as too long, at the line
    assert passages(text, 6, count_tokens=words) == [text]


def test_the_overlap_repeats_whole_sentences() -> None:
    text = "A b c. D e. F g. H i j."
    assert passages(text, 6, 4, words) == ["A b c. D e.", "D e. F g.", "F g. H i j."]


def test_a_sentence_longer_than_the_overlap_is_not_repeated() -> None:
    assert passages("A b c d. E f g h.", 4, 3, words) == ["A b c d.", "E f g h."]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one two\nthree four five\nsix seven", ["one two", "three four five", "six seven"]),
        ("one two, three four five; six seven", ["one two,", "three four five;", "six seven"]),
        ("one two three four five", ["one two three", "four five"]),
    ],
)
def test_a_long_sentence_is_cut_at_lines_then_clauses_then_words(text: str, parts: list[str]) -> None:
    assert passages(text, 3, count_tokens=words) == parts


def test_a_long_chinese_sentence_is_cut_at_its_commas() -> None:
    assert passages("我来了，我看见，我征服", 5) == ["我来了，", "我看见，", "我征服"]


def test_text_without_any_break_fills_its_passages_and_overlaps() -> None:
    text = "字" * 1000
    spans = split_text(text, max_tokens=100, overlap=20)
    assert all(end - start >= 88 for start, end in spans[:-1])
    overlaps = [before[1] - after[0] for before, after in pairwise(spans)]
    assert all(8 < overlap <= 20 for overlap in overlaps)


@pytest.mark.parametrize("cluster", ["👩‍👩‍👧", "👍🏽", "ที่", "e\u0301\u0302"])
@pytest.mark.parametrize("overlap", [0, 4])
def test_characters_that_belong_together_stay_together(cluster: str, overlap: int) -> None:
    for max_tokens in range(max(len(cluster), 5), 40):
        parts = passages("x" + cluster * 30, max_tokens, overlap, len)
        assert parts[0].startswith("x")
        assert all(part.removeprefix("x").replace(cluster, "") == "" for part in parts)


def test_more_marks_than_fit_are_cut() -> None:
    text = "e" + "\u0301" * 50
    assert max(map(len, passages(text, 10, count_tokens=len))) == 10
    assert "".join(passages(text, 10, count_tokens=len)) == text


def test_a_character_with_more_tokens_than_allowed_stays_whole() -> None:
    assert passages("👍👍", 1, count_tokens=lambda text: len(text.encode())) == ["👍", "👍"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" \n", 0),
        ("cat", 1),
        ("understanding", 3),
        ("你好。", 3),
        ("a, b!", 4),
        ("2024", 4),
        ("привет", 2),
    ],
)
def test_the_approximation_counts_as_documented(text: str, tokens: int) -> None:
    assert approximate_tokens(text) == tokens


@pytest.mark.parametrize("unit", ["Some words. ", "a" * 50, "...", "字", "\n \n", " x", ",a", "a. b", "x.)"])
def test_each_character_is_counted_a_bounded_number_of_times(unit: str) -> None:
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return approximate_tokens(text)

    text = unit * (20_000 // len(unit))
    split_text(text, count_tokens=count)
    # Sentence, line, clause, word and characters; then the passage and its overlap.
    assert counted <= 8 * len(text)


@pytest.mark.parametrize(
    ("max_tokens", "overlap", "message"),
    [(0, 0, "max_tokens must be at least 1, got 0"), (10, 10, "got 10: give a smaller"), (10, -1, "got -1")],
)
def test_impossible_windows_are_refused(max_tokens: int, overlap: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_text("a", max_tokens=max_tokens, overlap=overlap)


def test_a_document_becomes_passages_that_know_where_they_are_from() -> None:
    text = "One two three. Four five six."
    made = split_document(
        text, title="T", source="s.txt", max_tokens=4, overlap=0, count_tokens=words, metadata={"k": [1]}
    )
    assert [(p.text, p.title, p.source, p.metadata) for p in made] == [
        ("One two three.", "T", "s.txt", {"k": [1]}),
        ("Four five six.", "T", "s.txt", {"k": [1]}),
    ]
    assert all(text[p.start : p.end] == p.text for p in made)
    assert made[0].metadata is not made[1].metadata
    assert len({p.id for p in made}) == 2


def test_the_same_text_twice_in_a_document_gets_two_ids() -> None:
    made = split_document("Same. Same.", max_tokens=1, overlap=0, count_tokens=words)
    assert [p.text for p in made] == ["Same.", "Same."]
    assert made[0].id != made[1].id
