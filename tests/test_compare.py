"""Who says what: every passage answers for itself."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_model import ScriptedModel

from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError
from nbce_rag.evidence.claims import normalise
from nbce_rag.models.transformers.loading import wrap_model
from nbce_rag.passages import Passage

QUESTION = "What is the code of Zeta?"
NORTH = Passage("The code of Zeta is the blue apples.", id="north", title="North")
SOUTH = Passage("The code of Zeta is red bread.", id="south")
EAST = Passage("Many say so. The code of Zeta is Blue apples.", id="east")
FERRY = Passage("The ferry is run by Ada.", id="ferry")


@pytest.fixture(scope="module")
def nbce(chat_tokenizer: Any) -> NBCE:
    return NBCE(wrap_model(ScriptedModel(chat_tokenizer), chat_tokenizer), max_tokens=24)


def test_groups_of_equal_answers_and_silent_passages(nbce: NBCE) -> None:
    found = nbce.compare(QUESTION, [SOUTH, FERRY, NORTH, EAST])
    assert found.question == QUESTION
    assert not found.agree
    assert [[p.id for p in g.passages] for g in found.groups] == [["north", "east"], ["south"]]
    assert found.groups[0].text == "the blue apples"
    assert [a.text for a in found.groups[0].answers] == ["the blue apples", "Blue apples"]
    assert [p.id for p in found.silent] == ["ferry"]
    # Nothing else is known, so every passage weighs the same. A refusal is no reason to weigh less here.
    assert found.groups[0].weight == pytest.approx(0.5, abs=0.02)
    assert found.groups[1].weight == pytest.approx(0.25, abs=0.02)
    assert sum(g.weight for g in found.groups) + found.silent_weight == pytest.approx(1)
    text = str(found)
    assert "2 answers" in text
    assert "the blue apples" in text
    assert "North" in text
    assert "No answer: ferry" in text


def test_agreement(nbce: NBCE) -> None:
    found = nbce.compare(QUESTION, [NORTH, EAST, FERRY])
    assert found.agree
    assert len(found.groups) == 1
    assert "agree" in str(found)


def test_scores_weigh(nbce: NBCE) -> None:
    def scored(passage: Passage, score: float) -> Passage:
        return Passage(passage.text, id=passage.id, score=score)

    found = nbce.compare(QUESTION, [scored(NORTH, 0.3), scored(EAST, 0.3), scored(SOUTH, 0.6)])
    assert found.groups[0].passages[0].id == "south"
    assert found.groups[0].weight > 0.8


def test_nobody_answers(nbce: NBCE) -> None:
    found = nbce.compare(QUESTION, [FERRY, Passage("Fish.")])
    assert found.groups == ()
    assert found.agree
    assert len(found.silent) == 2
    assert found.silent_weight == pytest.approx(1)
    assert str(found) == "No passage answers this question."


@pytest.mark.parametrize("rule", ["min-entropy", "mean", "experts"])
def test_other_rules_compare_too(nbce: NBCE, rule: str) -> None:
    found = nbce.compare(QUESTION, [SOUTH, FERRY, NORTH], fusion=rule)
    assert {g.text for g in found.groups} == {"red bread", "the blue apples"}
    assert [p.id for p in found.silent] == ["ferry"]  # by its words: these rules do not score refusals


def test_each_passage_answers_as_if_alone(nbce: NBCE) -> None:
    passages = [SOUTH, NORTH, EAST]
    found = nbce.compare(QUESTION, passages, passages_per_row=3, joint_row=True, order_labels=True)
    by_id = {p.id: a for g in found.groups for p, a in zip(g.passages, g.answers, strict=True)}
    for passage in passages:
        alone = nbce.answer(QUESTION, [passage])
        assert by_id[passage.id].text == alone.text
        assert [t.id for t in by_id[passage.id].tokens] == [t.id for t in alone.tokens]


def test_it_needs_passages(nbce: NBCE) -> None:
    with pytest.raises(InputError, match="at least one passage"):
        nbce.compare(QUESTION, [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Ferry.", "ferry"),
        ("  an  apple!", "Apple"),
        ("１８９１", "1891"),
        ("Straße", "STRASSE"),
        ("艾达。", "艾达"),
    ],
)
def test_equal_answers(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_different_answers() -> None:
    assert normalise("1891") != normalise("1892")
    assert normalise("Ada") != normalise("艾达")
