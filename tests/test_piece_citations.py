"""Pieces of a stream carry the citations that are certain with them; together they are the answer's."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from thinking_tools import make_thinker
from written_answers import FERRY, LONG, MARKET, PASSAGES, make_writer

from nbce_rag import NBCE, NbceWarning
from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.evidence.citations import cite

QUESTION = "What is there?"


def checked(pieces: list[Piece]) -> Answer:
    """The answer of a stream, whose pieces fit together."""
    answer = pieces[-1].answer
    assert answer is not None
    assert [piece.answer for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert "".join(piece.text for piece in pieces) == answer.text
    assert "".join(piece.thought for piece in pieces) == answer.thought
    assert tuple(citation for piece in pieces for citation in piece.citations) == answer.citations
    assert tuple(word for piece in pieces for word in piece.unsupported) == answer.unsupported
    shown = ""
    for piece in pieces:
        shown += piece.text
        assert all(citation.end <= len(shown) for citation in piece.citations)
    return answer


def timeless(answer: Answer) -> Answer:
    """An answer without what the clock says."""
    parts = tuple(map(timeless, answer.parts))
    return replace(answer, timings=replace(answer.timings, **dict.fromkeys(
        ("retrieve", "prefill", "first_token", "decode", "total"), 0.0)), parts=parts)  # fmt: skip


def asked(nbce: NBCE, **options: Any) -> tuple[Answer, list[Piece]]:
    """A streamed answer, which is the one that does not stream, and its pieces."""
    pieces = list(nbce.stream(QUESTION, PASSAGES, **options))
    answer = checked(pieces)
    assert timeless(answer) == timeless(nbce.answer(QUESTION, PASSAGES, **options))
    if answer.tokens and not answer.parts:
        threshold = options.get("citation_threshold", 0.5)
        assert answer.citations == cite(answer.text, answer.tokens, answer.passages, threshold)
    return answer, pieces


def test_citations_come_behind_their_stretch() -> None:
    answer, pieces = asked(make_writer())
    assert [citation.text for citation in answer.citations] == [FERRY, MARKET, FERRY, MARKET]
    shown, came = "", []
    for piece in pieces:
        shown += piece.text
        came += [(citation.passage, shown) for citation in piece.citations]
    list_, last = LONG.index("- "), LONG.index("All")
    # The first waits for the next sentence, which shares its paragraph; the others for the next block.
    assert [passage for passage, _ in came] == [0, 1, 0, 1]
    assert [text for _, text in came] == [LONG[: list_ + 1]] * 2 + [
        LONG[: LONG.index("- ", list_ + 1) + 3]
    ] + [LONG[: last + 1]]


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 100},
        {"stop": ["eight"]},
        {"stop": ["\n\n-", "noon"]},
        {"citation_threshold": 0.1},
        {"temperature": 1.5, "seed": 3, "citation_threshold": 0.01},
        {"prompt_lookup_num_tokens": 4},
        {"regex": re.escape(LONG)},
        {"drop_rows_after": 8},
    ],
)
def test_streamed_or_not_the_answer_is_the_same(options: dict[str, Any]) -> None:
    if "regex" in options:
        pytest.importorskip("llguidance")
    answer, _ = asked(make_writer(), **options)
    assert answer.citations or "temperature" in options


def test_a_short_answer_has_its_citations_on_the_last_piece() -> None:
    answer, pieces = asked(make_writer("Ada Fenwick and her son."))
    assert answer.citations == pieces[-1].citations
    assert not any(piece.citations for piece in pieces[:-1])


def test_an_answer_that_may_be_taken_back_has_one_piece() -> None:
    answer, pieces = asked(make_writer(), abstain_below=0.0)
    assert len(pieces) == 1
    assert len(pieces[0].citations) == len(answer.citations) == 4
    silent, pieces = asked(make_writer(), abstain_below=1e6)
    assert (silent.finish_reason, silent.citations, pieces[0].citations) == ("no_evidence", (), ())


def test_of_a_question_with_parts_each_part_is_cited_in_its_place() -> None:
    nbce = make_writer()
    pieces = list(nbce.stream("Who runs the ferry?\nWhen does the market open?", PASSAGES))
    answer = checked(pieces)
    assert [citation.text for citation in answer.citations] == [FERRY, MARKET, FERRY, MARKET] * 2
    assert all(answer.text[c.start : c.end] == c.text for c in answer.citations)
    assert sum(bool(piece.citations) for piece in pieces) >= 4
    assert any(piece.citations for piece in pieces[: len(pieces) // 2])
    whole = nbce.answer("Who runs the ferry?\nWhen does the market open?", PASSAGES)
    assert timeless(answer) == timeless(whole)


def test_of_conflicts_none_is_cited_twice() -> None:
    asked(make_writer(), conflicts=True)
    asked(make_writer("Ada Fenwick."), conflicts=True)


def test_words_that_stand_in_no_cited_passage_come_with_their_citation() -> None:
    hale, brill = (
        "The ferry over the Lune is run by Bartholomew Tench.",
        "The market on the quay is in Brill.",
    )
    text = f"{hale}\n\n{MARKET} {brill}"
    answer, pieces = asked(make_writer(text))
    assert [word.text for word in answer.unsupported] == ["Bartholomew Tench", "Brill"]
    assert [word.text for piece in pieces[:-1] for word in piece.unsupported] == ["Bartholomew Tench"]
    pieces = list(make_writer(text).stream("Who runs the ferry?\nWhen does the market open?", PASSAGES))
    assert [word.text for word in checked(pieces).unsupported] == ["Bartholomew Tench", "Brill"] * 2


def test_a_thought_is_not_cited() -> None:
    nbce, _ = make_thinker("qwen3", f"It says: {FERRY}\n\n{MARKET}", f"{FERRY} {MARKET}", kv_store=False)
    answer, _ = asked(nbce, thinking=True, max_tokens=400)
    assert answer.thought


def test_without_passages_nothing_is_cited() -> None:
    with pytest.warns(NbceWarning, match="No passages"):
        pieces = list(make_writer().stream(QUESTION, []))
    assert checked(pieces).citations == ()


def test_a_given_text_is_cited_as_if_it_had_been_decoded() -> None:
    nbce = make_writer()
    decoded, given_text = nbce.answer(QUESTION, PASSAGES), nbce.attribute(QUESTION, PASSAGES, LONG)
    assert [(c.text, c.passage) for c in given_text.citations] == [
        (c.text, c.passage) for c in decoded.citations
    ]
    assert len(decoded.citations) == 4
