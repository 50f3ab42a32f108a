"""Scores of a retrieval: what is a cosine, what is not, and what counts in its place."""

from __future__ import annotations

import math
from operator import mul
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.decoding.plan import filled_scores
from nbce_rag.errors import InputError
from nbce_rag.fusion import FusionState, Posterior
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.passages import Passage
from nbce_rag.prompts.conversation import Turn, resolve
from nbce_rag.prompts.marks import format_passage, format_passages, split_marks
from nbce_rag.prompts.scores import SCORE_SCALES, as_cosine, on_one_scale

Scores = list[float | None]


def passages(scores: Scores) -> list[Passage]:
    return [Passage(f"text {n}", score=s, rank=n + 1) for n, s in enumerate(scores)]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("scores", "scale", "right", "says"),
    [
        ([0.8, 0.3, -0.1], None, [0.8, 0.3, -0.1], None),
        ([0.3, 0.8, 0.1], None, [0.3, 0.8, 0.1], None),  # in an order of its own
        ([-1.0, -1.0, 1.0], None, [-1.0, -1.0, 1.0], None),  # no distance is negative
        ([0.5, 0.5, 0.5], None, [0.5, 0.5, 0.5], None),
        ([0.7], None, [0.7], None),
        ([0.4, 0.95], None, [None, None], "rise"),  # cosine distances
        ([0.0, 0.9, 1.4, 1.9], None, [None] * 4, "rise"),  # squared L2
        ([0.4, 0.95], "cosine", [0.4, 0.95], None),
        ([12.5, 3.0, 0.1], None, [None] * 3, "no known scale"),  # BM25
        ([4.0, -2.0], None, [logistic(4), logistic(-2)], None),  # a cross-encoder's logits
        ([0.4, -0.2], "logit", [logistic(0.4), logistic(-0.2)], None),
        ([0.9, 0.1], "rank", [None, None], None),
        ([0.2, 0.9, 2.0], "cosine_distance", [0.8, 0.1, -1.0], None),
        ([0.2, None, 2.0], "squared_euclidean", [0.9, None, 0.0], None),
        ([0.2, 2.0], "euclidean", [0.98, -1.0], None),
        ([0.9, 0.5, 0.0], "shifted_cosine", [0.8, 0.0, -1.0], None),
        ([-2e-7, 0.3, 0.9], None, [None] * 3, "rise"),  # a distance of nothing, rounded below it
        ([1.003, 0.3], None, [1.0, 0.3], None),  # the cosine of vectors in half precision
        ([-0.003, 0.5], "cosine_distance", [1.0, 0.5], None),
        ([0.8, None, 0.1], None, [0.8, None, 0.1], None),
        ([math.nan, 0.5, math.inf], None, [None, 0.5, None], None),
        ([None, None], None, [None, None], None),
        ([], None, [], None),
    ],
)
def test_scores_count_if_they_can_be_cosines(
    scores: Scores, scale: str | None, right: Scores, says: str | None
) -> None:
    scored, notes = on_one_scale(passages(scores), scale)
    assert [p.score for p in scored] == pytest.approx(right)
    assert [p.rank for p in scored] == list(range(1, len(scores) + 1))
    assert len(notes) == (says is not None)
    assert all(says in note and "score_scale" in note for note in notes if says)


def test_distances_rank_by_themselves() -> None:
    scored, _ = on_one_scale(passages([0.9, 0.2, None, 0.5]), "distance")
    assert [(p.score, p.rank) for p in scored] == [(None, 3), (None, 1), (None, 4), (None, 2)]


def test_wrong_scales_are_named() -> None:
    with pytest.raises(InputError, match=r"score_scale='cosines'.*cosine or distance or logit or rank"):
        on_one_scale([], "cosines")
    with pytest.raises(InputError, match=r"-3 to 12\.5 are no cosines.*logit"):
        on_one_scale(passages([12.5, -3.0]), "cosine")
    with pytest.raises(InputError, match=r"40 are no squared_euclidean of vectors of length 1.*distance"):
        on_one_scale(passages([0.2, 40.0]), "squared_euclidean")
    with pytest.raises(InputError, match="score_scale="):
        resolve([Turn("user", ["Who?"])], [], score_scale="l2")


@given(
    st.sampled_from(sorted(set(SCORE_SCALES) - {"distance", "logit", "rank"})),
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_a_cosine_comes_back_from_what_a_store_makes_of_it(scale: str, one: Any, other: Any) -> None:
    cosine = sum(map(mul, one, other)) / (math.hypot(*one) * math.hypot(*other) or 1)
    made = {
        "cosine": cosine,
        "cosine_distance": 1 - cosine,
        "squared_euclidean": 2 - 2 * cosine,
        "euclidean": math.sqrt(max(0.0, 2 - 2 * cosine)),
        "shifted_cosine": (1 + cosine) / 2,
        "exp_cosine_distance": math.exp(cosine - 1),
        "exp_squared_euclidean": math.exp(2 * cosine - 2),
    }[scale]
    assert as_cosine(made, scale) == pytest.approx(cosine, abs=1e-6)


def test_no_cosine_is_made_of_what_tells_none() -> None:
    for scale in ("distance", "logit", "rank"):
        with pytest.raises(InputError, match=f"{scale}.* tells no cosines; cosine or cosine_distance"):
            as_cosine(0.5, scale)
    with pytest.raises(InputError, match="Scores from 7 to 7 are no cosines"):
        as_cosine(7.0, "cosine")
    with pytest.raises(InputError, match="Scores from 0 to 0 are no exp_cosine_distance"):
        as_cosine(0.0, "exp_cosine_distance")


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6) | st.floats(-1, 1) | st.just(math.nan), max_size=6),
    st.none() | st.sampled_from(["distance", "logit", "rank"]),
)
def test_what_comes_out_is_always_cosines_and_stays_so(scores: Any, scale: str | None) -> None:
    scored, _ = on_one_scale(passages(scores), scale)
    assert [p.text for p in scored] == [p.text for p in passages(scores)]
    assert all(p.score is None or abs(p.score) <= 1 + 1e-6 for p in scored)
    assert sorted(p.rank for p in scored if p.rank) == list(range(1, len(scores) + 1))


def test_a_rank_alone_weighs_with_its_inverse() -> None:
    scores = filled_scores(passages([None] * 4))
    assert scores is not None
    prior = Posterior().log_prior(FusionState(scores=_tensor([scores])), _tensor([[0.0] * 4]))[0].exp()
    assert prior.tolist() == pytest.approx(
        [w / (1 + 1 / 2 + 1 / 3 + 1 / 4) for w in (1, 1 / 2, 1 / 3, 1 / 4)]
    )


def test_missing_scores_are_filled_in() -> None:
    assert filled_scores(passages([None, 0.6, 0.2])) == pytest.approx([0.6, 0.6, 0.2])
    assert filled_scores(passages([0.6, 0.2, None])) == pytest.approx([0.6, 0.2, 0.6 - 0.1 * math.log(3)])
    unranked = [Passage("a", score=0.6), Passage("b", score=0.2), Passage("c")]
    assert filled_scores(unranked) == pytest.approx([0.6, 0.2, 0.4])
    assert filled_scores([Passage("a"), Passage("b")]) is None


def _tensor(values: Any) -> Any:
    import torch

    return torch.tensor(values)


def test_marks_carry_ranks() -> None:
    (passage,) = split_marks(format_passage(Passage("Ada.", id="a", rank=3)))
    assert isinstance(passage, Passage)
    assert passage.rank == 3
    for rank in ("0", "-1", "x", "1e3", "9" * 40):
        text = format_passage(Passage("Ada.", id="a", rank=3)).replace("rank=3", f"rank={rank}")
        (passage,) = split_marks(text)
        assert isinstance(passage, Passage)
        assert passage.rank is None


def test_what_was_looked_for_and_not_found_is_known() -> None:
    cases: list[tuple[list[str | Passage], list[Passage] | None]] = [
        (["Who?"], []),
        ([PASSAGES, "Who?"], None),
        ([format_passages([]), "Who?"], None),
        (["Who?"], [Passage(" ")]),
        ([Passage(" "), "Who?"], None),
    ]
    for turns, contexts in cases:
        talk = resolve([Turn("user", turns)], contexts)
        assert talk.is_retrieved
        assert talk.passages == ()
        assert talk.texts == ("Who?",)
    assert not resolve([Turn("user", ["Who?"])]).is_retrieved
