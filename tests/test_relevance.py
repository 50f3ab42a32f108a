"""The question's likelihood on a shortlist against the one over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag import NBCE, Passage, Posterior
from nbce_rag.models.transformers import likelihood as relevance
from nbce_rag.models.transformers import suffix as prefill
from nbce_rag.models.transformers.likelihood import QuestionEstimate, worth_estimating

Make = Callable[..., NBCE]
PASSAGES = [Passage("The ferry is run by Ada."), Passage("Bread is baked in the morning."), Passage("Z")]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 4), positions=st.integers(1, 5))
def test_a_shortlist_of_everything_is_exact(seed: int, rows: int, positions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vocab, width = 50, 8
    weight = torch.randn(vocab, width, generator=generator)
    hidden = torch.randn(rows, positions, width, generator=generator)
    targets = torch.randint(0, vocab, (positions,), generator=generator)
    exact = (hidden @ weight.T).log_softmax(-1).gather(-1, targets.expand(rows, -1)[..., None])[..., 0]
    estimate = QuestionEstimate(weight, hidden[0], (hidden[0] @ weight.T).log_softmax(-1), targets, [])
    torch.testing.assert_close(estimate.rows(hidden), exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(estimate.row_0, exact[0], atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), keep=st.integers(4, 60))
def test_the_error_is_that_of_the_missed_share(seed: int, keep: int) -> None:
    """Exactly log p_k(C) - log p_0(C), by which the docstring's formula is off."""
    generator = torch.Generator().manual_seed(seed)
    vocab, width, rows, positions = 300, 6, 3, 4
    weight = torch.randn(vocab, width, generator=generator)
    hidden = torch.randn(rows, positions, width, generator=generator)
    targets = torch.randint(0, vocab, (positions,), generator=generator)
    log_probs = (hidden @ weight.T).log_softmax(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relevance, "SHORTLIST", keep)
        estimate = QuestionEstimate(weight, hidden[0], log_probs[0], targets, range(10))
    top = {int(token) for row in log_probs[0] for token in row.topk(keep).indices}
    shortlist = sorted(top | set(targets.tolist()) | set(range(10)))
    covered = log_probs[..., shortlist].double().exp().sum(-1).log()
    exact = log_probs.gather(-1, targets.expand(rows, -1)[..., None])[..., 0]
    error = estimate.rows(hidden) - exact
    torch.testing.assert_close(error.double(), covered[:1] - covered, atol=1e-4, rtol=1e-4)


def test_only_large_vocabularies_are_cut_short() -> None:
    assert worth_estimating(262_144, 16)
    assert worth_estimating(151_936, 40)
    assert not worth_estimating(4_000, 4)


def test_the_engine_estimates_what_it_would_have_computed(
    make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce("gemma3", max_tokens=3, kv_store=False)
    exact = nbce.answer("Who runs the ferry?", PASSAGES)
    # The tiny vocabulary, and a shortlist that covers all of it: the same numbers by the other way.
    monkeypatch.setattr(prefill, "worth_estimating", lambda vocab_size, positions: True)
    for budget in (1, 8192):  # rows one by one, and together
        estimating = make_nbce("gemma3", max_tokens=3, kv_store=False, max_batch_tokens=budget)
        estimated = estimating.answer("Who runs the ferry?", PASSAGES)
        assert estimated.text == exact.text
        assert [p.relevance for p in estimated.passages] == pytest.approx(
            [p.relevance for p in exact.passages], abs=1e-3
        )
    # And a real shortlist is near it.
    monkeypatch.setattr(relevance, "SHORTLIST", nbce.model.vocab_size // 2)
    for near, true in zip(nbce.answer("Who runs the ferry?", PASSAGES).passages, exact.passages, strict=True):
        assert near.relevance != true.relevance
        assert near.relevance == pytest.approx(true.relevance, abs=0.2)


@pytest.mark.parametrize("rule", [Posterior(focus=1.0), Posterior(focus=0.0, together=2)], ids=repr)
def test_further_rows_are_measured_as_the_first_ones_were(
    rule: Posterior, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce("gemma3", max_tokens=2, kv_store=False, fusion=rule, conflicts=False)
    passages = [replace(one, text=f"{one.text} There is a mill too.") for one in PASSAGES]
    exact = nbce.answer("Who runs the ferry?", passages)
    monkeypatch.setattr(prefill, "worth_estimating", lambda vocab_size, positions: True)
    made: list[int] = []
    make = QuestionEstimate.__init__

    def counted(self: QuestionEstimate, *arguments: Any) -> None:
        made.append(1)
        make(self, *arguments)

    monkeypatch.setattr(QuestionEstimate, "__init__", counted)
    estimated = nbce.answer("Who runs the ferry?", passages)
    assert len(estimated.usage.row_tokens) > 1 + len(passages)  # there are further rows
    assert len(made) == 1
    assert estimated.text == exact.text
    assert [p.relevance for p in estimated.passages] == pytest.approx(
        [p.relevance for p in exact.passages], abs=1e-3
    )
