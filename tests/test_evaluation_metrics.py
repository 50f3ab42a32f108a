from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from evaluation_tools import squad_exact, squad_f1, squad_found, squad_words
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.evaluation.intervals import bootstrap_ci
from nbce_rag.evaluation.metrics import (
    answer_found,
    exact_match,
    f1,
    is_cjk,
    normalise,
    paired_differences,
    retrieval_scores,
    score_method,
    score_row,
)

texts = st.lists(
    st.sampled_from(
        ["The", "a", "an", "cat", "Cat's", "308", "U.S.", "—", "the–cat", "\u00e9t\u00e9", " ", "\n", "!"]
    ),
    max_size=8,
).map(" ".join)


def row(question_id: str = "q1", **changes: Any) -> dict[str, Any]:
    return {
        "question_id": question_id,
        "question": "Who?",
        "answers": ["Ada"],
        "gold_ids": ["g"],
        "answer": "It was Ada.",
        "finish_reason": "stop",
        "leading": "g",
        "cited": ["g"],
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "seconds": 1.0,
        "ttft_s": 0.5,
        "error": None,
    } | changes


@pytest.mark.parametrize(
    ("answer", "golds", "found", "exact", "score"),
    [
        ("The Denver Broncos.", ["Denver Broncos"], True, True, 1.0),
        ("Denver", ["Denver Broncos"], False, False, 2 / 3),
        ("It was Denver Broncos", ["Denver Broncos"], True, False, 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("1308 points", ["308"], False, False, 0.0),  # whole words only
        ("308 points", ["12", "308"], True, False, 2 / 3),
        ("", ["Ada"], False, False, 0.0),
        ("the", ["an"], False, True, 1.0),  # nothing is left of either, as in SQuAD's scorer
        ("cat cat", ["cat"], True, False, 2 / 3),
        ("Ada's", ["Adas"], True, True, 1.0),
        ("anything", [], False, False, 0.0),
    ],
)
def test_worked_cases(answer: str, golds: list[str], found: bool, exact: bool, score: float) -> None:
    assert answer_found(answer, golds) is found
    assert exact_match(answer, golds) is exact
    assert f1(answer, golds) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "golds", "found", "exact", "score"),
    [
        ("失去了 308分。", ["308分"], True, False, 2 * 4 / (7 + 4)),
        ("３０８分", ["308 分"], True, True, 1.0),  # full-width digits, a blank
        ("丹佛", ["丹佛野马"], False, False, 2 * 2 / (2 + 4)),
        ("《丹佛》", ["丹佛"], True, True, 1.0),
        ("", ["丹佛"], False, False, 0.0),
    ],
)
def test_worked_cases_in_characters(
    answer: str, golds: list[str], found: bool, exact: bool, score: float
) -> None:
    assert answer_found(answer, golds, characters=True) is found
    assert exact_match(answer, golds, characters=True) is exact
    assert f1(answer, golds, characters=True) == pytest.approx(score)


@settings(max_examples=300, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_as_an_independent_scorer(answer: str, golds: list[str]) -> None:
    assert normalise(answer).split() == squad_words(answer)
    assert answer_found(answer, golds) == squad_found(answer, golds)
    assert exact_match(answer, golds) == squad_exact(answer, golds)
    assert f1(answer, golds) == pytest.approx(squad_f1(answer, golds))


def test_what_counts_as_characters() -> None:
    assert is_cjk("Who?", "丹佛")
    assert is_cjk("ペン")
    assert not is_cjk("Zürich, 12 — été")


def test_the_question_decides_how_a_number_is_looked_for() -> None:
    assert (
        score_row(row(question="黑豹队丢了多少分？", answers=["308"], answer="丢了308分"))["answer_found"]
        == 1
    )
    assert score_row(row(question="How many?", answers=["308"], answer="308points"))["answer_found"] == 0


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"finish_reason": "no_evidence", "answer": "The passages do not say."}, True),
        ({"answer": "I don't know"}, True),
        ({"answer": " . "}, True),
        ({"answer": "Ada"}, False),
        ({"answer": "", "error": "does not fit"}, False),
    ],
)
def test_a_question_without_an_answer_wants_an_abstention(changes: dict[str, Any], right: bool) -> None:
    scores = score_row(row(answers=[], gold_ids=[], **changes), refusal="I don't know.")
    assert scores == dict.fromkeys(("answer_found", "exact_match", "f1"), float(right))


def test_an_interval_covers_what_a_normal_one_does() -> None:
    values = [1.0] * 60 + [0.0] * 140
    low, high = bootstrap_ci(values) or (0.0, 0.0)
    wide = 1.96 * math.sqrt(0.3 * 0.7 / 200)
    assert low == pytest.approx(0.3 - wide, abs=0.01)
    assert high == pytest.approx(0.3 + wide, abs=0.01)
    assert bootstrap_ci(values) == [low, high]
    assert bootstrap_ci(values, seed=1) != [low, high]
    assert bootstrap_ci([]) is None
    assert bootstrap_ci([0.5]) == [0.5, 0.5]


def test_an_interval_by_brute_force() -> None:
    values = [0.0, 0.1, 0.6, 1.0]
    means = [sum(resample) / 4 for resample in itertools.product(values, repeat=4)]  # all, weighted alike
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    assert bootstrap_ci(values) == pytest.approx([low, high], abs=0.03)


def test_retrieval() -> None:
    rows: list[dict[str, Any]] = [
        {"gold_ranks": [1]},
        {"gold_ranks": [4]},
        {"gold_ranks": [None]},
        {"gold_ranks": [2, 10]},
        {"gold_ranks": []},  # unanswerable: does not count
    ]
    assert retrieval_scores(rows) == {
        "recall@1": 1 / 4,
        "recall@3": (1 + 0.5) / 4,
        "recall@5": (1 + 1 + 0.5) / 4,
        "recall@10": (1 + 1 + 1) / 4,
        "mrr": (1 + 1 / 4 + 0 + 1 / 2) / 4,
    }
    assert retrieval_scores([])["mrr"] is None


def test_citations_by_hand() -> None:
    rows = [
        row("1", cited=["g", "x"], leading="g"),  # right; half of what is cited is gold
        row("2", cited=["x"], leading="x"),  # right, from elsewhere
        row("3", cited=[], leading=None),  # right, nothing cited
        row("4", cited=["g"], leading="g", answer="Bob"),  # wrong
        row("5", cited=["h", "g"], leading="h", gold_ids=["g", "h"], answer="Bob"),
        row("6", cited=["x"], leading="x", gold_ids=[]),  # no gold passage is known
    ]
    figures = score_method(rows)
    assert figures["citation_precision"] == {"leading": 3 / 4, "any": (0.5 + 0 + 1 + 1) / 4}
    assert figures["citation_recall"] == {
        "leading": (1 + 0 + 0 + 1 + 0.5) / 5,
        "any": (1 + 0 + 0 + 1 + 1) / 5,
    }
    assert figures["leading_is_gold_when_right"] == pytest.approx(1 / 3)


def test_a_method_that_never_cites_has_no_citation_figures() -> None:
    figures = score_method([row("1", cited=[], leading=None)])
    assert figures["citation_precision"] == figures["citation_recall"] == {"leading": None, "any": None}
    assert figures["leading_is_gold_when_right"] is None


def test_citations_at_k_by_hand() -> None:
    two = {"gold_ids": ["g", "h"]}
    rows = [
        row("1", cited=["x", "g"], cited_most=["g", "x"]),  # right: the gold passage is cited most
        row("2", cited=["g", "x"], cited_most=["x", "g"], answer="Bob"),  # cited, but not most
        row("3", cited=[], leading=None, cited_most=[]),  # right, nothing cited
        row("4", cited=["x", "h", "g"], cited_most=["h", "g", "x"], **two),  # right, both hops
        row("5", cited=["g"], cited_most=["g"], answer="Bob", **two),  # one of two, and nothing else
        row("6", cited=["x"], answers=[], cited_most=["x"]),  # without an answer no citation is right
        row("7", cited=["x", "h"], leading="h", **two),  # of an older log: the leading one, then in order
    ]
    figures = score_method(rows)["citations_at_k"]
    recalls = [1, 0, 0, 1, 0.5, 0.5]
    assert figures["questions"] == 6
    assert figures["recall"] == pytest.approx(sum(recalls) / 6)
    assert figures["recall_ci95"] == bootstrap_ci(recalls)
    assert figures["precision"] == pytest.approx((1 + 0 + 1 + 1 + 0.5) / 5)
    assert figures["when_right"]["questions"] == 4
    assert figures["when_right"]["recall"] == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert list(figures["by_hops"]) == ["1", "2"]
    assert figures["by_hops"]["1"]["recall"] == pytest.approx(1 / 3)
    assert figures["by_hops"]["2"]["recall"] == pytest.approx(2 / 3)
    assert figures["by_hops"]["2"]["when_right"]["precision"] == pytest.approx(3 / 4)
    assert score_method([row(cited=[], leading=None)])["citations_at_k"] is None


def test_questions_without_an_answer_by_hand() -> None:
    rows = [
        row("1", answers=[], answer="", finish_reason="no_evidence"),
        row("2", answers=[], answer="I don't know"),
        row("3", answers=[], answer="Bob"),
        row("4", answers=[], answer="", error="does not fit"),  # neither silent nor answered
        row("5"),
        row("6", answer="", finish_reason="no_evidence"),
        row("7", answers=[], keys=[["Limits"]], identifiers={}, answer="Limits"),
    ]
    figures = score_method(rows, refusal="I don't know.")
    silent = [1.0, 1.0, 0.0]
    assert figures["unanswerable"] == {
        "questions": 3,
        "silent": pytest.approx(2 / 3),
        "silent_ci95": bootstrap_ci(silent),
        "answered": 1,
    }
    assert (figures["answerable"]["questions"], figures["answerable"]["answered"]) == (3, 2)
    assert figures["answerable"]["silent"] == pytest.approx(1 / 3)
    assert "unanswerable" not in score_method(rows[4:])


def test_rows_and_what_else_a_line_may_have_by_hand() -> None:
    rows = [row("1", rows=9, necessity=2.0), row("2", rows=25, necessity=-1.0), row("3", necessity=None)]
    figures = score_method(rows)
    assert figures["rows"] == 17
    assert figures["necessity"] == {"mean": 0.5, "ci95": bootstrap_ci([2.0, -1.0])}
    assert "sufficiency" not in figures
    assert score_method([row()])["rows"] is None


def test_figures_by_hand() -> None:
    rows = [
        row("1", seconds=1.0, ttft_s=0.5),
        row("2", seconds=9.0, ttft_s=None, answer="Bob", prompt_tokens=20, finish_reason="no_evidence"),
        row("3", seconds=2.0, ttft_s=0.7, answer="Ada"),
        row("4", answer="", error="does not fit", seconds=0.0, ttft_s=None, prompt_tokens=0, cached_tokens=0),
    ]
    baseline = [row("1", answer="Bob"), row("2", answer="Bob"), row("3", answer="Bob"), row("4")]
    figures = score_method(rows, baseline)
    assert figures["questions"] == 4
    assert figures["answer_found"] == 2 / 4
    assert figures["exact_match"] == 1 / 4
    assert figures["f1"] == pytest.approx((2 * 1 / 4 + 0 + 1 + 0) / 4)
    assert figures["did_not_fit"] == 1
    assert figures["abstained"] == 1 / 3
    assert figures["seconds_per_question"] == 2.0
    assert figures["ttft_s"] == 0.6
    assert figures["prompt_tokens"] == 40 / 3
    assert figures["cached_tokens"] == 4
    difference = figures["difference_to_concat"]["answer_found"]
    assert difference["mean"] == (1 + 0 + 1 - 1) / 4
    assert difference["ci95"] == bootstrap_ci([1.0, 0.0, 1.0, -1.0])


def test_differences_are_of_the_questions_that_both_were_asked() -> None:
    rows = [row("1"), row("2", answer="Bob"), row("3")]
    others = [row("2"), row("3"), row("4", answer="Bob")]
    found = paired_differences(rows, others)["answer_found"]
    assert found == {"mean": -0.5, "ci95": bootstrap_ci([-1.0, 0.0])}
    assert paired_differences(rows, [])["f1"] == {"mean": None, "ci95": None}


def test_an_abstention_may_be_said_in_the_words_of_the_prompt() -> None:
    rows = [
        row("1", answer="I don't know"),
        row("2"),
        row("3", answer=""),
        row("4", finish_reason="no_evidence"),
    ]
    assert score_method(rows, refusal="I don't know.")["abstained"] == 3 / 4
    assert score_method(rows)["abstained"] == 2 / 4


def test_a_difference_to_itself_is_surely_nothing() -> None:
    rows = [row(str(i), answer="Ada" if i % 3 else "Bob") for i in range(30)]
    difference = score_method(rows, rows)["difference_to_concat"]
    assert difference["f1"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
