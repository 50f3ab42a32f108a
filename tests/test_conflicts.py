"""Conflicts told: an answer says where passages that matter give others."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scripted_model import ScriptedModel

from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.engine import compare as comparing
from nbce_rag.engine import conflicts as told
from nbce_rag.engine.nbce import NBCE
from nbce_rag.engine.tickets import answers_of
from nbce_rag.evidence.claims import are_alike, are_of_a_kind, grouped_claims, held_share, is_said
from nbce_rag.evidence.conflict import Claim, Conflict
from nbce_rag.models.transformers.loading import wrap_model
from nbce_rag.options import Options
from nbce_rag.passages import Passage
from nbce_rag.request import Request

QUESTION = "What is the code of Zeta?"
ONE = Passage("The code of Zeta is 1931.", id="one", title="First book")
TWO = Passage("Many say so. The code of Zeta is 1931.", id="two")
OTHER = Passage("The code of Zeta is 1934.", id="other")
FERRY = Passage("The ferry is run by Ada.", id="ferry")
LINE = '2 passages say "1931", 1 says "1934".'


@pytest.fixture(scope="module")
def nbce(chat_tokenizer: Any) -> NBCE:
    return NBCE(wrap_model(ScriptedModel(chat_tokenizer), chat_tokenizer), max_tokens=24)


def plain(answer: Answer) -> Answer:
    """Without what is told, and what time it took."""
    return replace(answer, conflicts=(), timings=type(answer.timings)(None, 0, None, 0, 0))


def test_who_says_what(nbce: NBCE) -> None:
    answer = nbce.answer(QUESTION, [OTHER, ONE, FERRY, TWO])
    assert answer.text == "1931"
    [conflict] = answer.conflicts
    assert conflict.question == QUESTION
    assert [(claim.text, claim.passage_ids) for claim in conflict.claims] == [
        ("1931", ("one", "two")),
        ("1934", ("other",)),
    ]
    assert [claim.passages for claim in conflict.claims] == [(1, 3), (0,)]
    assert [claim.weight for claim in conflict.claims] == pytest.approx([0.5, 0.25], abs=0.02)
    assert str(conflict) == LINE


def test_every_view_says_so(nbce: NBCE) -> None:
    answer = nbce.answer(QUESTION, [OTHER, ONE, TWO])
    assert f"\n{LINE}\n" in str(answer)
    escaped = LINE.replace('"', "&quot;")
    assert escaped in answer.to_html()
    assert escaped in answer._repr_html_()
    [report] = json.loads(json.dumps(answer.to_dict()))["conflicts"]
    assert report["line"] == LINE
    assert report["claims"][1] == {
        "text": "1934",
        "context_indexes": [0],
        "passage_ids": ["other"],
        "weight": pytest.approx(1 / 3, abs=0.05),
    }


def test_tokens_stay_as_they_are(nbce: NBCE) -> None:
    passages = [OTHER, ONE, TWO]
    silent = nbce.answer(QUESTION, passages, conflicts=False)
    assert silent.conflicts == ()
    assert plain(nbce.answer(QUESTION, passages)) == plain(silent)


def test_it_is_on_unless_switched_off(nbce: NBCE) -> None:
    assert Options().conflicts
    assert len(nbce.answer(QUESTION, [OTHER, ONE, TWO], conflicts=Options().conflicts).conflicts) == 1
    assert nbce.answer(QUESTION, [OTHER, ONE, TWO], conflicts=False).conflicts == ()


def test_a_stream_does_not_wait_with_its_text(nbce: NBCE, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Piece] = []
    is_whole = threading.Event()
    original = told._conflict

    def late(*args: Any) -> Conflict | None:
        assert is_whole.wait(60)
        return original(*args)

    monkeypatch.setattr(told, "_conflict", late)
    for piece in nbce.stream(QUESTION, [OTHER, ONE, TWO]):
        seen += [piece]
        if "".join(piece.text for piece in seen) == "1931":
            is_whole.set()
    answer = seen[-1].answer
    assert answer is not None
    assert len(answer.conflicts) == 1
    assert [piece.answer for piece in seen[:-1]] == [None] * (len(seen) - 1)
    assert tuple(token for piece in seen for token in piece.tokens) == answer.tokens
    assert tuple(citation for piece in seen for citation in piece.citations) == answer.citations != ()


@pytest.mark.filterwarnings("ignore:No passages were given")
@pytest.mark.parametrize(
    ("passages", "options"),
    [
        ([ONE, TWO], {}),  # nobody denies it
        ([ONE], {}),
        ([], {}),
        ([OTHER, ONE, TWO], {"conflicts": False}),
        ([OTHER, ONE, TWO], {"passages_per_row": 3}),
        ([OTHER, ONE, TWO], {"joint_row": True}),
        ([OTHER, ONE, TWO], {"order_labels": True}),
        ([OTHER, ONE, TWO], {"regex": "19[0-9]*"}),
        ([OTHER, ONE, TWO], {"max_tokens": 1}),  # cut off
    ],
)
def test_nothing_is_asked_where_it_cannot_mean_anything(
    nbce: NBCE, monkeypatch: pytest.MonkeyPatch, passages: list[Passage], options: dict[str, Any]
) -> None:
    monkeypatch.setattr(told, "requests_alone", lambda *_: pytest.fail("passages were asked"))
    if "regex" in options:
        pytest.importorskip("llguidance")
    assert nbce.answer(QUESTION, passages, **options).conflicts == ()


def test_passages_that_say_nothing_contradict_nobody(nbce: NBCE) -> None:
    assert nbce.answer(QUESTION, [ONE, TWO, FERRY]).conflicts == ()


def test_long_answers_are_left_alone(nbce: NBCE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "_TOKENS", 1)
    assert nbce.answer(QUESTION, [OTHER, ONE, TWO]).conflicts == ()


def test_a_passage_without_weight_is_not_asked(nbce: NBCE) -> None:
    scored = [replace(ONE, score=0.9), replace(TWO, score=0.9), replace(OTHER, score=0.1)]
    assert nbce.answer(QUESTION, scored).conflicts == ()


def test_a_passage_about_something_else_is_not_asked(nbce: NBCE, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = comparing.requests_alone

    def noted(engine: Any, request: Request) -> list[Request]:
        asked.extend(passage.id for passage in request.passages)
        return original(engine, request)

    monkeypatch.setattr(told, "requests_alone", noted)
    other = Passage("Eta is 1934.", id="eta")  # has nothing of the question
    assert nbce.answer(QUESTION, [other, ONE, TWO]).conflicts == ()
    assert "eta" not in asked
    assert len(nbce.answer(QUESTION, [other, OTHER, ONE, TWO]).conflicts) == 1
    assert sorted(asked) == ["one", "other", "two"]


def test_where_no_passage_is_about_the_question_none_is_asked(
    nbce: NBCE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "requests_alone", lambda *_: pytest.fail("passages were asked"))
    question = "What is the code of Zeta, according to Professor Abernathy's unpublished manuscript?"
    assert nbce.answer(question, [OTHER, ONE, TWO]).conflicts == ()


def test_an_answer_that_is_no_passage_s_own_tells_nothing(nbce: NBCE) -> None:
    engine = nbce._engine
    answer = nbce.answer(QUESTION, [OTHER, ONE, TWO])
    request = answer.request
    assert request is not None
    places = told._weighty(answer)
    asked = replace(request, passages=[request.passages[place] for place in places])
    alone = answers_of(engine, comparing.requests_alone(engine, asked))
    assert told._conflict(engine, answer, alone) is not None
    assert told._conflict(engine, replace(answer, text="1935"), alone) is None


def test_a_passage_that_has_both_contradicts_nobody(nbce: NBCE) -> None:
    both = Passage("The code of Zeta is 1934. It was 1931.", id="both")
    assert nbce.answer(QUESTION, [both, ONE, TWO]).conflicts == ()


def test_several_questions_and_parts(nbce: NBCE) -> None:
    answers = nbce.batch([(QUESTION, [ONE, TWO]), (QUESTION, [OTHER, ONE, TWO]), (QUESTION, [ONE, FERRY])])
    assert [len(answer.conflicts) for answer in answers] == [0, 1, 0]
    eta = Passage("The code of Eta is green.", id="eta")
    answer = nbce.answer(f"1. What is the code of Eta?\n2. {QUESTION}", [eta, OTHER, ONE, TWO])
    assert len(answer.parts) == 2
    [conflict] = answer.conflicts
    assert conflict.question == QUESTION
    assert conflict.claims[0].passages == (2, 3)
    assert LINE in str(answer)


def test_an_answer_in_time_is_not_lost(nbce: NBCE, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*args: Any) -> list[Request]:
        requests = comparing.requests_alone(*args)
        return [replace(one, options=one.options.updated(max_seconds=1e-9)) for one in requests]

    monkeypatch.setattr(told, "requests_alone", late)
    answer = nbce.answer(QUESTION, [OTHER, ONE, TWO], max_seconds=1000)
    assert answer.text == "1931"
    assert answer.conflicts == ()


@pytest.mark.parametrize("rule", ["min-entropy", "mean", "experts"])
def test_other_rules_tell_too(nbce: NBCE, rule: str) -> None:
    [conflict] = nbce.answer(QUESTION, [OTHER, ONE, TWO], fusion=rule, sleep=False).conflicts
    assert {claim.text for claim in conflict.claims} == {"1931", "1934"}


def test_tiny_models_write_the_same_tokens(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(max_tokens=6)
    texts = ["The ferry is run by Ada.", "The ferry is run by Bo.", "The market opens at eight."]
    one, other = (nbce.answer("Who runs the ferry?", texts, conflicts=on) for on in (True, False))
    assert one.tokens == other.tokens


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1931", "In 1931.", True),
        ("1,931", "1931", True),
        ("1931", "1934", False),
        ("19", "1931", False),
        ("The clock was completed in 571.", "571.", True),
        ("The Sea Gate clock was completed in 571.", "It was finished in 574.", False),
        ("Abel Marsh", "Merrin Stoat", False),
        ("Abel Marsh", "Marsh, Abel", True),
        ("景澜十七年八月。", "景澜十七年", True),
        ("景澜十七年", "景澜十九年", False),
    ],
)
def test_claims_that_say_the_same(one: str, other: str, same: bool) -> None:
    question = "When was the Sea Gate clock completed?"
    assert are_alike(one, other, question) is are_alike(other, one, question) is same


def test_claims_of_a_kind() -> None:
    assert are_of_a_kind("1931", "In 1934", "When?")
    assert are_of_a_kind("Ada", "Bo", "Who?")
    assert not are_of_a_kind("Ada", "In 1934", "Who?")
    assert not are_of_a_kind("从西市的灯笼铺烧起", "景澜十九年八月", "哪里？")


def test_claims_that_contradict_each_other() -> None:
    def grouped(*claims: str, passages: list[str]) -> list[tuple[str, list[int]]]:
        return grouped_claims("When was it lit?", list(enumerate(claims)), passages)

    one, other = "It was lit in 1931.", "It was lit in 1934."
    assert grouped("1931", "1934", passages=[one, other]) == [("1931", [0]), ("1934", [1])]
    assert grouped("1931", "in 1931", passages=[one, one]) == [("1931", [0, 1])]
    # A list, or a text that tells of both.
    assert grouped("1931", "1934", passages=[one, f"{one} {other}"]) == [("1931", [0])]
    assert grouped("1931", "1934", passages=[f"{one} {other}", other]) == [("1931", [0])]
    # One date in two forms, which both passages have.
    dates = ["Born on 24 January 1993 (1993-01-24).", "24 January 1993, 1993-01-24"]
    assert grouped("24 January 1993", "1993-01-24", passages=dates) == [("24 January 1993", [0, 1])]
    assert grouped("1931", "Ada Fenwick", passages=[one, "Ada Fenwick lit it."]) == [("1931", [0])]
    assert grouped(passages=[]) == []


@pytest.mark.parametrize(
    ("question", "passage", "share"),
    [
        ("Who is the most played artist on Spotify?", "Artists on Spotify", 13 / 19),
        ("Who is the most played artist on Spotify?", "Chris Martin sings.", 0),
        ("Who is it?", "Nobody.", 1),
        ("云磨城大火发生在哪一年？", "云磨城大火", 7 / 11),  # with the particles, which are not looked up
        ("云磨城大火发生在哪一年？", "The fire", 2 / 11),
    ],
)
def test_the_share_of_a_question_s_words_in_a_passage(question: str, passage: str, share: float) -> None:
    assert held_share(question, passage) == pytest.approx(share, abs=0.06)


def test_what_a_passage_says() -> None:
    assert is_said("It was Ada in 1908.", "Who?", "In 1908 came Ada.")
    assert not is_said("It was Ada in 1909.", "Who?", "In 1908 came Ada.")
    assert is_said("red bread.", "What?", "They eat red  Bread here")
    assert not is_said("blue bread", "What?", "They eat red bread")


def test_lines() -> None:
    claims = (Claim("a\nb", (0,), ("x",), 0.5), Claim("c", (1, 2), ("y", "z"), 0.4))
    conflict = Conflict("?", claims)
    assert str(conflict) == '1 passage says "a b", 2 say "c".'
    assert conflict.placed([4, 5, 6]).claims[1].passages == (5, 6)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It is 41 metres high. It is built of", "It is 41 metres high."),
        ("It was built in 1920, when", "It was built in 1920"),
        ("Dr. Dre Answer: Dr. Dre Answer: Dr", ""),
        ("It has 3,102 people and", ""),
        ("三百间，其中", "三百间"),
        ("", ""),
    ],
)
def test_what_is_whole_of_a_claim_that_was_cut_off(text: str, whole: str) -> None:
    assert told._whole(text) == whole
