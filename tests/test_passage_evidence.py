"""What rests on each passage, and which cited texts stand in their passage word for word."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st
from view_tools import a_citation, an_answer

from nbce_rag.evidence.citations import cite
from nbce_rag.evidence.evidence import Support, TokenEvidence
from nbce_rag.evidence.passage_evidence import PassageEvidence, evidence_by_passage, supports_among
from nbce_rag.evidence.verbatim import FoldedText
from nbce_rag.evidence.words import words
from nbce_rag.passages import Passage

PASSAGES = [Passage("One.", id="a"), Passage("Two.", id="b"), Passage("Three.", id="c")]


def token(start: int, end: int, *weights: float) -> TokenEvidence:
    return TokenEvidence(0, "x" * (end - start), start, end, -0.1, weights, 0.0)


def test_each_passage_has_its_evidence_once() -> None:
    text = "one two, three four"
    tokens = [token(0, 3, 0.5, 0.5, 0.0), token(3, 7, 0.0, 1.0, 0.0), token(7, 19, 0.25, 0.0, 0.75)]
    citations = [a_citation(text, 4, 8, 1, "b", 0.5), a_citation(text, 9, 19, 0, "a", 0.75)]
    total = len("onetwothreefour")
    assert evidence_by_passage(text, tokens, citations, 3) == (
        PassageEvidence(0, 2, 0.25, 1, 1, 9 / total, 0.75 * 10 / 19),
        PassageEvidence(1, 1, 0.5, 1, 1, 3 / total, 0.5 * 4 / 19),
        PassageEvidence(2, 3, 0.25, 1, 0, 0.0, 0.0),
    )


def test_a_stretch_of_two_passages_counts_whole_as_cited_and_by_share_as_support() -> None:
    text = "one two"
    both = replace(a_citation(text, 0, 7, 2, "c", 0.6), others=(Support(0, "a", 0.3, False),))
    gone = replace(a_citation(text, 0, 3, 0, "a", 0.5), others=(Support(9, "gone", 0.5, False),))
    first, second, third = evidence_by_passage(text, [], [both], 3)
    assert (third.number, third.citations, third.cited) == (1, 1, 1.0)
    assert (first.number, first.citations, first.cited) == (2, 1, 1.0)
    assert (third.support, first.support) == (0.6, 0.3)
    assert (second.number, second.citations, second.cited) == (3, 0, 0.0)
    assert [s.passage for s in supports_among(gone, 3)] == [0]
    assert supports_among(both, 2) == ()


def test_without_tokens_citations_or_passages() -> None:
    assert evidence_by_passage("", [], [], 0) == ()
    assert evidence_by_passage("text", [token(0, 4)], [], 0) == ()
    assert evidence_by_passage("", [], [], 2) == (
        PassageEvidence(0, 1, 0.0, 0, 0, 0.0, 0.0),
        PassageEvidence(1, 2, 0.0, 0, 0, 0.0, 0.0),
    )


def test_what_belongs_to_other_passages_is_left_out() -> None:
    text = "one two"
    tokens = [token(0, 3, 1.0), token(3, 7, 0.5, 0.5)]
    citations = [a_citation(text, 0, 3, 9, "gone"), a_citation(text, 4, 7, 0, "a")]
    (evidence,) = evidence_by_passage(text, tokens, citations, 1)
    assert (evidence.weight, evidence.tokens, evidence.number, evidence.citations) == (1.0, 1, 1, 1)
    assert evidence.cited == 0.5


def test_a_mean_that_rounding_lifts_over_one_is_one() -> None:
    (evidence,) = evidence_by_passage("one", [token(0, 3, 1.0000002)], [], 1)
    assert evidence.weight == 1.0
    (evidence,) = evidence_by_passage("one", [token(0, 3, math.nan)], [], 1)
    assert math.isnan(evidence.weight)


@st.composite
def weights_of_words(draw: st.DrawFn) -> tuple[str, list[tuple[float, ...]]]:
    count = draw(st.integers(1, 3))
    text = " ".join(draw(st.lists(st.sampled_from(["a", "to", "北京", "five,", "1,317", "..."]), max_size=8)))
    row = st.lists(st.integers(0, 9), min_size=count, max_size=count).filter(any)
    rows = draw(st.lists(row, min_size=1, max_size=8))
    return text, [tuple(value / sum(row) for value in row) for row in rows]


@given(weights_of_words())
def test_it_agrees_with_a_slow_account(case: tuple[str, list[tuple[float, ...]]]) -> None:
    text, weights = case
    passages = PASSAGES[: len(weights[0])]
    answer = an_answer(text, passages, weights)
    assert [e.passage for e in answer.passage_evidence] == list(range(len(passages)))
    assert sorted(e.number for e in answer.passage_evidence) == list(range(1, len(passages) + 1))
    assert [p.id for p in answer.cited_passages] == list(
        dict.fromkeys(c.passage_id for c in answer.citations)
    )
    spans = words(text)
    for e in answer.passage_evidence:
        own = [c for c in answer.citations if c.passage == e.passage]
        absent = [a for a in answer.unsupported if any(c.start <= a.start and a.end <= c.end for c in own)]
        within = [
            s
            for s in spans
            if any(c.start <= s[0] and s[1] <= c.end for c in own)
            and not any(a.start <= s[0] and s[1] <= a.end for a in absent)
        ]
        assert e.citations == len(own)
        assert e.tokens == sum(t.passage == e.passage for t in answer.tokens)
        assert e.cited == pytest.approx(
            sum(b - a for a, b in within) / max(1, sum(b - a for a, b in spans)), abs=1e-12
        )
        assert e.support == pytest.approx(
            sum(
                c.share
                * (
                    c.end
                    - c.start
                    - sum(a.end - a.start for a in absent if c.start <= a.start and a.end <= c.end)
                )
                for c in own
            )
            / max(1, len(text)),
            abs=1e-12,
        )
        assert bool(own) == (e.number <= len(answer.cited_passages))
        means = [t.weights[e.passage] for t in answer.tokens]
        assert e.weight == pytest.approx(sum(means) / len(means) if means else 0.0)


def test_an_answer_has_its_evidence_and_changed_copies_have_theirs() -> None:
    answer = an_answer("one two", PASSAGES[:2], [(1.0, 0.0), (0.5, 0.5)])
    assert [e.weight for e in answer.passage_evidence] == [0.75, 0.25]
    assert answer.passage_evidence is answer.passage_evidence
    shorter = replace(answer, tokens=answer.tokens[:1])
    assert [e.weight for e in shorter.passage_evidence] == [1.0, 0.0]
    with pytest.raises(TypeError, match="passage_evidence"):
        type(answer)(**{name: getattr(answer, name) for name in answer.__dataclass_fields__})


@pytest.mark.parametrize(
    ("text", "passage", "expected"),
    [
        ("Ada Fenwick", "The ferry is run by Ada Fenwick.", True),
        ("ADA  fenwick", "by Ada\nFenwick, who", True),
        ("１９３１", "in 1931", True),
        ("Straße", "in der STRASSE", True),
        ("caf\u00e9", "a cafe\u0301 by", True),
        ("art", "a party", False),  # within a word
        ("art", "a party of art", True),
        ("part", "a party", False),
        ("party", "a party", True),
        ("cafe", "a cafe\u0301 by", False),
        ("1,317", "of 11,317", False),
        ("1,317", "of 1,317.5", False),
        ("93%", "at 93%, and", True),
        ("93%", "at 93 percent", False),
        ("Ada who", "Ada, who", False),  # punctuation counts
        ("京是", "北京是首都", True),
        ("“said”", "he “said” so", True),
        ("", "text", False),
        (" \n", "a b", False),
        ("text", "", False),
    ],
)
def test_word_for_word(text: str, passage: str, expected: bool) -> None:
    assert FoldedText(passage).holds(text) == expected


@given(st.text(alphabet="aB1 é北.,-\n\u0301", max_size=20))
def test_every_run_of_whole_words_stands_in_its_text(text: str) -> None:
    folded = FoldedText(text)
    for (start, _), (_, end) in combinations_with_replacement(words(text), 2):
        part = text[start:end]
        assert folded.holds(part)
        assert folded.holds(part.upper().replace(" ", " \t"))


def test_a_citation_says_whether_it_is_word_for_word() -> None:
    text = "Ada ran it in 1931"
    passages = [Passage("Since 1931 the ferry was hers.", id="a"), Passage("ADA\nran it.", id="b")]
    tokens = [token(0, 10, 0.0, 1.0), token(10, 18, 1.0, 0.0)]
    first, second = cite(text, tokens, passages)
    assert (first.text, first.passage, first.passage_id, first.verbatim) == ("Ada ran it", 1, "b", True)
    assert (second.text, second.passage, second.verbatim) == ("in 1931", 0, False)


def test_of_passages_with_one_id_the_first_is_cited_and_compared() -> None:
    passages = [Passage("Nothing.", id="x"), Passage("Fish.", id="a"), Passage("Ada.", id="a")]
    (citation,) = cite("Ada", [token(0, 3, 0.2, 0.3, 0.5)], passages)
    assert (citation.passage, citation.passage_id, citation.verbatim) == (1, "a", False)
    assert citation.share == pytest.approx(0.8)
    answer = an_answer("Ada", passages, [(0.2, 0.3, 0.5)])
    assert [e.citations for e in answer.passage_evidence] == [0, 1, 0]
    assert [e.number for e in answer.passage_evidence] == [2, 1, 3]
    assert [e.weight for e in answer.passage_evidence] == pytest.approx([0.2, 0.3, 0.5])
    assert answer.cited_passages == (passages[1],)
