"""Passages by how much likelier they make the question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nbce_rag import Passage
from nbce_rag.errors import InputError

PASSAGES = ["The ferry is run by Ada.", "Bread is baked in Orme.", "The lamp is lit at dusk."]
QUESTION = "Who runs the ferry?"


def test_it_orders_by_what_answers_call_relevance(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce("llama", max_tokens=3)
    answer = nbce.answer(QUESTION, PASSAGES, relevance=True, fusion="mean")
    relevance = {passage.text: passage.relevance for passage in answer.passages}
    made = nbce.rerank(QUESTION, PASSAGES)
    assert [p.text for p in made] == sorted(PASSAGES, key=lambda text: -relevance[text])
    for passage in made:
        assert passage.relevance == pytest.approx(relevance[passage.text], abs=1e-4)
        assert 0 < passage.score < 1
        assert (passage.score > 0.5) == (passage.relevance > 0)


def test_many_passages_go_in_several_batches(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce("llama")
    many = [f"The ferry number {number} is run by Ada." for number in range(40)]
    made = nbce.rerank(QUESTION, many, 5)
    assert len(made) == 5
    alone = {p.text: p.relevance for text in many[:3] for p in nbce.rerank(QUESTION, [text])}
    by_text = {p.text: p.relevance for p in nbce.rerank(QUESTION, many)}
    assert all(by_text[text] == pytest.approx(value, abs=1e-3) for text, value in alone.items())


def test_what_stands_with_a_passage_stays(make_nbce: Callable[..., Any]) -> None:
    passage = Passage("The ferry is run by Ada.", id="a", title="Ferry", metadata={"x": 1}, score=0.2, rank=3)
    (made,) = make_nbce("llama").rerank(QUESTION, [passage])
    assert (made.id, made.title, made.metadata, made.rank) == ("a", "Ferry", {"x": 1}, None)


def test_wrong_arguments(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce("llama")
    assert nbce.rerank(QUESTION, []) == []
    with pytest.raises(InputError, match="k must"):
        nbce.rerank(QUESTION, PASSAGES, 0)
    with pytest.raises(InputError, match="empty"):
        nbce.rerank(" ", PASSAGES)
