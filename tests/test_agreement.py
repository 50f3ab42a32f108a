"""Passages that say the same are cited together: however many there are, no less is cited."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag import NBCE
from nbce_rag.evidence.citations import cite
from nbce_rag.evidence.evidence import TokenEvidence
from nbce_rag.passages import Passage

FERRY = "The ferry across the Lune is run by Ada Fenwick."
Spec = Sequence[tuple[str, Sequence[float], Sequence[float]]]


def tokens_of(spec: Spec) -> tuple[str, list[TokenEvidence]]:
    """Text and tokens from (text, weights, log-probs by row, row 0 first)."""
    text, tokens = "", []
    for piece, weights, log_probs in spec:
        end = len(text) + len(piece)
        mixture = (
            sum(w * math.exp(p) for w, p in zip(weights, log_probs[1:], strict=True)) if log_probs else 0
        )
        gain = math.log(mixture) - log_probs[0] if log_probs else 1.0
        tokens.append(
            TokenEvidence(
                0, piece, len(text), end, -1.0, tuple(weights), gain, row_log_probs=tuple(log_probs)
            )
        )
        text += piece
    return text, tokens


def cited(spec: Spec, texts: Sequence[str], threshold: float = 0.6) -> list[tuple[str, str]]:
    text, tokens = tokens_of(spec)
    passages = [Passage(one, id="abcdefgh"[k]) for k, one in enumerate(texts)]
    return [
        (c.text, "".join(one.passage_id for one in c.supports))
        for c in cite(text, tokens, passages, threshold)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    "answer", ["Ada Fenwick", f"{FERRY} It runs every day of the week, and at night too."]
)
def test_copies_are_cited_together_however_many(count: int, answer: str) -> None:
    share = 0.98 / count
    spec = [(part, [share] * count + [0.02], ()) for part in answer.replace(" ", "\0 ").split("\0")]
    texts = [FERRY.replace(" ", "  " if k % 2 else " ").upper() if k else FERRY for k in range(count)]
    text, tokens = tokens_of(spec)
    passages = [Passage(one, source=f"{k}.txt") for k, one in enumerate([*texts, "Bread."])]
    citations = cite(text, tokens, passages)
    assert citations
    for citation in citations:
        assert [one.passage for one in citation.supports] == list(range(count))
        assert sum(one.share for one in citation.supports) == pytest.approx(0.98)
        assert {one.verbatim for one in citation.supports} == {citation.text.lower() in FERRY.lower()}


def test_passages_of_unknown_text_are_no_copies() -> None:
    assert cited([("Ada", (0.5, 0.5), ())], ["", ""]) == []


def test_the_best_comes_first() -> None:
    spec: Spec = [("Ada", (0.2, 0.5, 0.3), ())]
    assert cited(spec, [FERRY, FERRY, FERRY]) == [("Ada", "bca")]


def test_rows_that_give_a_stretch_alike_say_the_same() -> None:
    spec: Spec = [
        ("Ada", (0.4, 0.35, 0.25), (-6.0, -0.4, -0.5, -0.8)),
        (" Fenwick", (0.4, 0.36, 0.24), (-4.0, -0.1, -0.1, -0.2)),
    ]
    assert cited(spec, ["Ada Fenwick runs it.", "It is Ada Fenwick's.", "Ada's it is."]) == [
        ("Ada Fenwick", "abc")
    ]


def test_what_every_row_gives_like_the_one_without_a_passage_joins_none() -> None:
    spec: Spec = [("there", (0.4, 0.35, 0.25), (-0.5, -0.4, -0.5, -0.6))]
    assert cited(spec, ["One.", "Two.", "Three."]) == []
    # But where the name stands in the passages they say it, though the model knows it as well.
    spec = [("Paris", (0.4, 0.35, 0.25), (-0.5, -0.4, -0.5, -0.6))]
    assert cited(spec, ["Paris.", "To Paris!", "To Rome!"]) == [("Paris", "ab")]


def test_a_passage_that_parts_ways_is_named_no_further() -> None:
    spec: Spec = [
        ("Paris", (0.55, 0.45), (-5.0, -0.3, -0.4)),
        (" and", (0.55, 0.45), (-1.0, -0.9, -0.9)),
        (" 1931", (0.97, 0.03), (-7.0, -0.3, -6.0)),
    ]
    assert cited(spec, ["Paris, 1931.", "Paris."]) == [("Paris and", "ab"), ("1931", "a")]


def test_a_name_is_not_parted() -> None:
    spec: Spec = [
        ("Oslo,", (0.55, 0.45), (-5.0, -0.3, -0.4)),
        (" Ada", (0.6, 0.4), (-5.0, -0.3, -0.4)),
        (" Fenwick", (0.97, 0.03), (-7.0, -0.3, -6.0)),
    ]
    assert cited(spec, ["Oslo, Ada Fenwick.", "Oslo: Ada."], 0.5) == [("Oslo", "ab"), ("Ada Fenwick", "a")]


def test_a_passage_of_next_to_no_evidence_is_not_named() -> None:
    spec: Spec = [("Ada", (0.9995, 0.0005), (-6.0, -0.4, -0.5))]
    assert cited(spec, [FERRY, FERRY]) == [("Ada", "a")]


def test_a_row_that_was_not_read_says_nothing() -> None:
    spec: Spec = [("Ada", (0.7, 0.3), (-6.0, -0.4, -math.inf))]
    assert cited(spec, ["Ada.", "Ada!"]) == [("Ada", "a")]


def test_units_of_long_answers_are_cited_by_groups() -> None:
    words = "The ferry across the river is run by a woman who is called Ada Fenwick.".replace(" ", "\0 ")
    spec: Spec = [(part, (0.2,) * 5, (-2.0, -0.2, -0.3, -0.25, -0.2, -2.5)) for part in words.split("\0")]
    texts = ["Ada runs it.", "By Ada.", "She is Ada.", "It is Ada.", "Bread."]
    text, tokens = tokens_of(spec)
    (citation,) = cite(text, tokens, [Passage(one, id="abcde"[k]) for k, one in enumerate(texts)])
    assert citation.text == text
    assert [one.passage_id for one in citation.supports] == ["a", "b", "c", "d"]


@st.composite
def copied_answers(draw: st.DrawFn) -> tuple[list[tuple[str, list[float]]], list[int]]:
    """Words with weights over up to three passages, and how often each passage is there."""
    count = draw(st.integers(1, 3))
    row = st.lists(st.integers(0, 9), min_size=count, max_size=count).filter(any)
    pieces = draw(st.lists(st.tuples(st.sampled_from(["Ada ", "runs ", "it "]), row), min_size=1, max_size=8))
    spec = [(piece, [value / sum(raw) for value in raw]) for piece, raw in pieces]
    return spec, draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))


@given(copied_answers())
def test_copies_take_nothing_off(case: tuple[list[tuple[str, list[float]]], list[int]]) -> None:
    spec, times = case
    texts = ["first text", "second text", "third text"]
    text, tokens = tokens_of([(piece, weights, ()) for piece, weights in spec])
    once = cite(text, tokens, [Passage(texts[k], id=f"{k}") for k in range(len(times))], 0.55)
    of = [k for k, n in enumerate(times) for _ in range(n)]
    text, tokens = tokens_of([(piece, [weights[k] / times[k] for k in of], ()) for piece, weights in spec])
    many = cite(text, tokens, [Passage(texts[k], id=f"{k}-{n}") for n, k in enumerate(of)], 0.55)
    assert [(c.start, c.end, c.passage_id) for c in once] == [(c.start, c.end, c.passage_id[0]) for c in many]
    for one, other in zip(once, many, strict=True):
        assert one.share == pytest.approx(sum(s.share for s in other.supports))
        assert len(other.supports) == times[one.passage]


def test_an_engine_cites_all_copies_and_notes_what_each_row_gave(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(max_tokens=6, citation_threshold=0.3)
    passages = [Passage(FERRY, source=f"{k}.txt", score=0.5) for k in range(4)]
    answer = nbce.answer("Who runs the ferry?", passages)
    for citation in answer.citations:
        assert [one.passage for one in citation.supports] == [0, 1, 2, 3]
    for token in answer.tokens:
        base, *rows = token.row_log_probs
        assert len(rows) == len(passages)
        assert rows == pytest.approx([rows[0]] * 4, abs=1e-4)
        mixture = math.log(sum(math.exp(row) for row in rows) / 4)
        # Rows of sentences beside the passages' own change the mixture, but not beyond the best of them.
        assert token.gain <= mixture - base + 1e-3


def test_windows_that_overlap_are_one_support_of_the_words_that_both_hold() -> None:
    source = f"{FERRY} It is a good ferry. {FERRY}"

    def window(start: int, end: int, name: str) -> Passage:
        return Passage(source[start:end], id=f"{start}", source=name, start=start, end=end)

    first, later = len(FERRY), source.rindex(FERRY)
    passages = [window(0, first, "a.txt"), window(4, first, "a.txt"), window(later, len(source), "a.txt")]
    (citation,) = cite(
        *tokens_of([("Ada Fenwick", (0.5, 0.3, 0.2), (-9.0, -0.1, -0.1, -0.2))]), passages, 0.9
    )
    assert [one.passage for one in citation.supports] == [0, 2]
    assert [one.share for one in citation.supports] == pytest.approx([0.8, 0.2])
    assert [one.quote_start for one in citation.supports] == [FERRY.index("Ada")] * 2
