from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nbce_rag.errors import InputError
from nbce_rag.evidence.citations import cite
from nbce_rag.evidence.evidence import Citation, TokenEvidence
from nbce_rag.evidence.units import LONG
from nbce_rag.evidence.words import word_count, words
from nbce_rag.passages import Passage

A, B, N = (0.9, 0.1), (0.1, 0.9), (0.45, 0.55)
Spec = list[tuple[str, tuple[float, ...]]]


def tokens_of(spec: Spec) -> tuple[str, list[TokenEvidence]]:
    text, tokens = "", []
    for piece, weights in spec:
        end = len(text) + len(piece)
        tokens.append(TokenEvidence(0, piece, len(text), end, -1.0, weights, 0.0))
        text += piece
    return text, tokens


def named(ids: Iterable[str]) -> list[Passage]:
    return [Passage("", id=id_) for id_ in ids]


def cited(spec: Spec, threshold: float = 0.6, ids: str = "ab") -> list[tuple[str, str]]:
    text, tokens = tokens_of(spec)
    return [(text[c.start : c.end], c.passage_id) for c in cite(text, tokens, named(ids), threshold)]


def word_texts(text: str) -> list[str]:
    return [text[start:end] for start, end in words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" ...\n", []),
        ("Ada wrote it.", ["Ada", "wrote", "it"]),
        ("I don't; l\u2019eau", ["I", "don't", "l\u2019eau"]),
        ("'quoted' dogs'", ["quoted", "dogs"]),
        ("twenty-one -- well- known", ["twenty-one", "well", "known"]),
        ("1,317.5 km, 3.", ["1,317.5", "km", "3"]),
        ("1\u202f317 and 2\u00a0000,5 but 4 5", ["1\u202f317", "and", "2\u00a0000,5", "but", "4", "5"]),
        ("end.Next a,b", ["end", "Next", "a", "b"]),
        ("snake_case 3rd", ["snake_case", "3rd"]),
        ("北京是2008年", ["北", "京", "是", "2008", "年"]),
        ("カナとかな", ["カ", "ナ", "と", "か", "な"]),
        ("서울은 수도", ["서울은", "수도"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301 か\u3099", ["cafe\u0301", "か\u3099"]),
        ("\U00020000\U00020001", ["\U00020000", "\U00020001"]),
        ("❤\ufe0f 👩\u200d🚀", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert word_texts(text) == expected


def test_a_run_of_words_with_one_passage_is_one_citation() -> None:
    spec: Spec = [
        ("Ada", A),
        (" Love", A),
        ("lace", A),
        (",", B),
        (" who", A),
        (" met", B),
        (" him", B),
        (".", A),
    ]
    assert cited(spec) == [("Ada Lovelace, who", "a"), ("met him", "b")]


def test_a_word_without_enough_evidence_ends_a_citation() -> None:
    assert cited([("one", A), (" two", N), (" three", A)]) == [("one", "a"), ("three", "a")]


def test_a_word_of_several_tokens_is_judged_as_a_whole_by_characters() -> None:
    text, tokens = tokens_of([("Lovel", (0.9, 0.1)), ("ace", (0.1, 0.9))])
    (citation,) = cite(text, tokens, named("ab"), 0.5)
    assert (citation.start, citation.end, citation.passage_id) == (0, 8, "a")
    assert citation.share == pytest.approx((5 * 0.9 + 3 * 0.1) / 8)


def test_only_the_characters_inside_of_the_word_count() -> None:
    # The second token has one character of the word and three that are not of it.
    text, tokens = tokens_of([("abc", (0.8, 0.2)), ("d...", (0.0, 1.0))])
    (citation,) = cite(text, tokens, named("ab"))
    assert citation.share == pytest.approx(3 * 0.8 / 4)
    assert text[citation.start : citation.end] == "abcd"


def test_one_token_over_several_words() -> None:
    assert cited([("New York is", A), (" big", B)]) == [("New York is", "a"), ("big", "b")]


def test_the_share_of_a_citation_is_the_mean_over_its_words_by_characters() -> None:
    text, tokens = tokens_of([("ab", (1.0, 0.0)), (" ", (0.0, 1.0)), ("cdefgh", (0.6, 0.4))])
    (citation,) = cite(text, tokens, named("ab"))
    assert (citation.start, citation.end) == (0, 9)
    assert citation.share == pytest.approx((2 * 1.0 + 6 * 0.6) / 8)


def test_chinese_is_cited_by_character() -> None:
    assert cited([("北京", A), ("是", B), ("首都", B), ("。", A)]) == [("北京", "a"), ("是首都", "b")]


def test_a_character_of_several_tokens() -> None:
    # Bytes of one character: the tokens before the last one have no text.
    assert cited([("", B), ("", B), ("龘", A), ("", B)]) == [("龘", "a")]


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (["1", ",", "317", ".", "5"], "1,317.5"),
        (["don", "'", "t"], "don't"),
        (["well", "-known"], "well-known"),
    ],
)
def test_numbers_apostrophes_and_hyphens_do_not_split_a_word(pieces: list[str], whole: str) -> None:
    spec: Spec = [("x ", B), *((piece, A) for piece in pieces), (" y", B)]
    assert cited(spec) == [("x", "b"), (whole, "a"), ("y", "b")]
    # The middle alone cannot take a part of the word away.
    spec[2] = (spec[2][0], (0.6, 0.4))
    assert (whole, "a") in cited(spec)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("93%, and", "93%"),
        ("21°C. So", "21°C"),
        ("5 (five). So", "5 (five)"),
        ("five) and", "five"),
        ('"five" and', "five"),
        ("he “said” so", "he “said”"),
        ("名为「京」的", "名为「京」"),
        ("$5 and", "$5"),
        ("5€.", "5€"),
    ],
)
def test_attached_signs_belong_to_the_citation(text: str, expected: str) -> None:
    last = words(expected)[-1][1]
    spec: Spec = [(char, A if at < text.find(expected) + last else B) for at, char in enumerate(text)]
    assert cited(spec)[0] == (expected, "a")


def test_a_sign_between_two_citations_is_given_to_one() -> None:
    assert cited([("5", A), ("$", A), ("6", B)]) == [("5$", "a"), ("6", "b")]


def test_on_a_tie_the_first_passage_is_cited() -> None:
    text, tokens = tokens_of([("one two", (0.0, 0.5, 0.5))])
    assert cite(text, tokens, named("abc"), 0.5) == (Citation(0, 7, "one two", 1, "b", 0.5, False),)
    assert cite(text, tokens, named("abc"), 0.51) == ()


def test_passages_with_one_id_are_one_passage() -> None:
    text, tokens = tokens_of([("one", (0.4, 0.35, 0.25))])
    (citation,) = cite(text, tokens, named("abb"))
    assert (citation.passage_id, citation.passage) == ("b", 1)
    assert citation.share == pytest.approx(0.6)


def test_nothing_to_cite() -> None:
    text, tokens = tokens_of([("one", ()), (" two", ())])
    assert cite(text, tokens, []) == ()
    assert cite("", [], named("a")) == ()
    assert cite("words without tokens", [], named("a"), 0.0) == ()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        cite("", [], named("a"), threshold)


def test_weights_for_other_passages_are_refused() -> None:
    text, tokens = tokens_of([("one", A)])
    with pytest.raises(InputError, match="2 weights for 3 passages"):
        cite(text, tokens, named("abc"))


# Of one line and few words: longer answers are cited by their units, as test_unit_citations.py has it.
ALPHABET = st.sampled_from([*"ab12 .,'-_$%()\"", "é", "e\u0301", "北", "京", "ह", "ि", "。", "❤\ufe0f"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[TokenEvidence], list[str]]:
    count = draw(st.integers(1, 4))
    weights = st.lists(st.integers(0, 20), min_size=count, max_size=count).filter(any)
    pieces = draw(st.lists(st.tuples(st.lists(ALPHABET, max_size=5).map("".join), weights), max_size=12))
    spec = [(piece, tuple(weight / sum(raw) for weight in raw)) for piece, raw in pieces]
    text, tokens = tokens_of(spec)
    assume(word_count(text) < LONG)
    return text, tokens, [f"p{k}" for k in range(count)]


@given(answers(), st.floats(0, 1))
def test_citations_are_ordered_disjoint_and_of_whole_words(
    answer: tuple[str, list[TokenEvidence], list[str]], threshold: float
) -> None:
    text, tokens, ids = answer
    citations = cite(text, tokens, named(ids), threshold)
    for citation in citations:
        assert 0 <= citation.start < citation.end <= len(text)
        assert ids[citation.passage] == citation.passage_id
        assert citation.text == text[citation.start : citation.end]
        assert threshold - 1e-9 <= citation.share <= 1
        for start, end in words(text):
            for edge in (citation.start, citation.end):
                assert not start < edge < end
        assert any(citation.start <= start and end <= citation.end for start, end in words(text))
    for before, after in pairwise(citations):
        assert before.end <= after.start
    assert citations == cite(text, tokens, named(ids), threshold)


@given(answers())
def test_what_is_cited_is_led_by_the_passage_and_the_rest_is_not(
    answer: tuple[str, list[TokenEvidence], list[str]],
) -> None:
    # A slow account of the same rule, character by character.
    text, tokens, ids = answer
    citations = cite(text, tokens, named(ids), 0.5)
    for start, end in words(text):
        by_char = [
            token.weights for at in range(start, end) for token in tokens if token.start <= at < token.end
        ]
        evidence = [sum(column) / len(by_char) for column in zip(*by_char, strict=True)]
        gap = sorted(evidence)[-1] - sorted([0.0, *evidence])[-2]
        assume(gap > 1e-9 and abs(max(evidence) - 0.5) > 1e-9)
        by = [
            citation.passage_id for citation in citations if citation.start <= start and end <= citation.end
        ]
        assert by == ([ids[evidence.index(max(evidence))]] if max(evidence) >= 0.5 else [])


@given(answers(), st.randoms(use_true_random=False))
def test_permuting_the_passages_permutes_the_ids(
    answer: tuple[str, list[TokenEvidence], list[str]], random: object
) -> None:
    text, tokens, ids = answer
    order = list(range(len(ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = [
        TokenEvidence(t.id, t.text, t.start, t.end, t.logprob, tuple(t.weights[k] for k in order), t.gain)
        for t in tokens
    ]
    # Above one half a tie is impossible, so that the order of the passages cannot matter.
    found = cite(text, moved, named(ids[k] for k in order), 0.51)
    expected = cite(text, tokens, named(ids), 0.51)
    assert [order[citation.passage] for citation in found] == [citation.passage for citation in expected]
    assert tuple(replace(a, passage=b.passage) for a, b in zip(found, expected, strict=True)) == expected


@given(st.text())
def test_words_cover_every_letter_and_digit_and_nothing_else_at_their_edges(text: str) -> None:
    spans = words(text)
    covered = {at for start, end in spans for at in range(start, end)}
    assert {match.start() for match in re.finditer(r"\w", text)} <= covered
    for start, end in spans:
        # Blocks of Han characters, of which Python's tables may not know the newest.
        assert re.match(r"[\w\uf900-\ufaff\U00020000-\U0003ffff]", text[start])
        assert text[end - 1] not in ".,-' "
    for before, after in pairwise(spans):
        assert before[1] <= after[0]
