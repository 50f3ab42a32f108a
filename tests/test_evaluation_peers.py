from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from fusion_reference import normalise
from hypothesis import assume, given
from hypothesis import strategies as st

from nbce_rag.errors import InputError
from nbce_rag.evaluation.methods.peers import PEERS
from nbce_rag.evaluation.methods.peers.cad import Cad
from nbce_rag.evaluation.methods.peers.leens import LeEns
from nbce_rag.evaluation.methods.peers.replug import Replug
from nbce_rag.evaluation.methods.peers.robustrag import RobustRag
from nbce_rag.fusion import Fused, FusionRule, FusionState, Posterior

NEG_INF = -math.inf


def rows_of(vocabulary: int, rows: int) -> st.SearchStrategy[list[list[float]]]:
    logit = st.floats(-8, 8, width=32)
    return st.lists(
        st.lists(logit, min_size=vocabulary, max_size=vocabulary).map(normalise),
        min_size=rows,
        max_size=rows,
    )


blocks = st.tuples(st.integers(2, 6), st.integers(2, 5)).flatmap(lambda size: rows_of(*size))
numbers = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4)


def fuse(rule: FusionRule, rows: Sequence[Sequence[float]], **known: Sequence[float]) -> Fused:
    tensors: Any = {name: torch.tensor([values], dtype=torch.float64) for name, values in known.items()}
    state = FusionState(**tensors)
    return rule.fuse(torch.tensor([rows], dtype=torch.float64), state)


def same(fused: Fused, scores: Sequence[float], weights: Sequence[float]) -> None:
    """Up to a constant, which sampling does not see."""
    assert fused.log_probs[0].log_softmax(-1).tolist() == pytest.approx(normalise(scores), abs=1e-9)
    assert fused.weights[0].tolist() == pytest.approx(list(weights))
    assert sum(fused.weights[0].tolist()) == pytest.approx(1)


def softmax(values: Sequence[float]) -> list[float]:
    return [math.exp(x) for x in normalise(values)]


@given(blocks, numbers, st.sampled_from([0.1, 1.0, 3.0]))
def test_replug_is_the_mixture_by_the_scores(
    rows: list[list[float]], scores: list[float], tau: float
) -> None:
    passages = rows[1:]
    shares = softmax([score / tau for score in scores[: len(passages)]])
    mixture = [
        math.log(math.fsum(share * math.exp(row[v]) for share, row in zip(shares, passages, strict=True)))
        for v in range(len(rows[0]))
    ]
    same(fuse(Replug(tau), rows, scores=scores[: len(passages)]), mixture, shares)
    equal = [1 / len(passages)] * len(passages)
    assert fuse(Replug(tau), rows).weights[0].tolist() == pytest.approx(equal)


@given(blocks, numbers)
def test_replug_is_a_posterior_that_always_starts_anew(rows: list[list[float]], scores: list[float]) -> None:
    rule = Posterior(beta=0.0, gamma=0.0, tau=1.0, alpha=0.0, epsilon=1.0, cutoff=0.0)
    known = {"scores": scores[: len(rows) - 1]}
    one, other = fuse(Replug(), rows, **known), fuse(rule, rows, **known)
    assert one.log_probs.tolist()[0] == pytest.approx(other.log_probs.tolist()[0])


@given(blocks, st.sampled_from([0.1, 1.0, 10.0]))
def test_leens_weighs_rows_by_their_entropy(rows: list[list[float]], tau: float) -> None:
    entropies = [-math.fsum(math.exp(x) * x for x in row) for row in rows[1:]]
    shares = softmax([-h / tau for h in entropies])
    pooled = [
        math.fsum(w * row[v] for w, row in zip(shares, rows[1:], strict=True)) for v in range(len(rows[0]))
    ]
    same(fuse(LeEns(tau), rows), pooled, shares)


def test_leens_with_a_forbidden_token_and_a_weight_that_is_nothing() -> None:
    sure, flat = [0.0, NEG_INF, NEG_INF], [math.log(1 / 3)] * 3
    fused = fuse(LeEns(tau=1e-4), [flat, flat, sure])
    assert fused.weights.tolist() == [[0.0, 1.0]]
    assert fused.log_probs.tolist() == [[0.0, NEG_INF, NEG_INF]]


@given(rows_of(5, 2), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_cad_contrasts_the_whole_prompt(rows: list[list[float]], alpha: float) -> None:
    product = [math.exp(x) ** (1 + alpha) / math.exp(y) ** alpha for y, x in zip(*rows, strict=True)]
    same(fuse(Cad(alpha), rows), [math.log(p) for p in product], [1.0])


def test_cad_wants_one_row() -> None:
    with pytest.raises(InputError, match="in one row and there are 2"):
        fuse(Cad(), [normalise([0.0, 1.0])] * 3)


@given(blocks, numbers, st.sampled_from([0.3, 0.99]), st.sampled_from([0.0, 0.2, 1.0]))
def test_robustrag_drops_rows_that_refuse_and_counts_votes(
    rows: list[list[float]], refusals: list[float], gamma: float, eta: float
) -> None:
    passages, vocabulary = rows[1:], range(len(rows[0]))
    refusal = refusals[: len(passages)]
    kept = [k for k, r in enumerate(refusal) if not r >= gamma] or list(range(len(passages)))
    votes = [math.fsum(math.exp(passages[k][v]) for k in kept) for v in vocabulary]
    ranking = sorted(votes, reverse=True)
    lead = ranking[0] - ranking[1]
    assume(abs(lead - eta) > 1e-9)
    expected = [math.log(v) for v in votes] if lead > eta else rows[0]
    weights = [1 / len(kept) if k in kept else 0.0 for k in range(len(passages))]
    same(fuse(RobustRag(gamma, eta), rows, refusal=refusal), expected, weights)


def test_robustrag_without_a_refusal_in_the_wording_drops_nothing() -> None:
    rows = [normalise([0.0, 0.0, 3.0]), normalise([5.0, 0.0, 0.0]), normalise([0.0, 5.0, 0.0])]
    fused = fuse(RobustRag(), rows)
    assert fused.weights.tolist() == [[0.5, 0.5]]
    assert int(fused.log_probs.argmax()) == 2  # the vote is a tie, so the row without a passage speaks
    assert int(fuse(RobustRag(), [*rows[:2], rows[1]]).log_probs.argmax()) == 0


@pytest.mark.parametrize("name", PEERS)
def test_questions_are_fused_apart_and_input_stays(name: str) -> None:
    torch.manual_seed(0)
    rows = 2 if PEERS[name].layout == "together" else 4
    block = torch.randn(3, rows, 7).log_softmax(-1)
    before = block.clone()
    scores, refusal = torch.rand(3, rows - 1), torch.rand(3, rows - 1)
    rule = PEERS.make(name)
    together = rule.fuse(block, FusionState(scores=scores, refusal=refusal))
    for i in range(3):
        alone = rule.fuse(block[i : i + 1], FusionState(scores=scores[i : i + 1], refusal=refusal[i : i + 1]))
        torch.testing.assert_close(together.log_probs[i : i + 1], alone.log_probs)
    assert torch.equal(block, before)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("replug", {"tau": 0.0}),
        ("cad", {"alpha": -1.0}),
        ("robustrag", {"gamma": 1.5}),
        ("leens", {"eta": 1.0}),
    ],
)
def test_impossible_numbers(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        PEERS.make(name, **given)
