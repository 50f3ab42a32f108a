"""How sure each row was, kept on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nbce_rag.fusion import Fused, FusionState, Posterior

PASSAGES = ["The ferry is run by Ada.", "Bread is baked in Orme.", "The lamp is lit at dusk."]


class Watched:
    """`Posterior`, with the rows that it saw."""

    def __init__(self) -> None:
        self.rule = Posterior()
        self.seen: list[torch.Tensor] = []

    def fuse(self, log_probs: torch.Tensor, state: FusionState) -> Fused:
        self.seen.append(log_probs[0].double())
        return self.rule.fuse(log_probs, state)


@pytest.mark.parametrize("layout", [{}, {"passages_per_row": 2}, {"joint_row": True}])
def test_each_token_has_the_entropy_of_each_row(
    make_nbce: Callable[..., Any], layout: dict[str, Any]
) -> None:
    rule = Watched()
    nbce = make_nbce("llama", max_tokens=5)
    answer = nbce.answer("Who runs the ferry?", PASSAGES, fusion=rule, entropies=True, **layout)
    expected = [torch.special.entr(rows.exp()).sum(-1).tolist() for rows in rule.seen]
    rows = len(answer.usage.row_tokens)
    assert answer.tokens
    for token in answer.tokens:
        assert len(token.entropies) == rows
        assert any(token.entropies == pytest.approx(step, abs=1e-4) for step in expected)


def test_they_change_nothing_else_and_are_off(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce("llama", max_tokens=5)
    without = nbce.answer("Who runs the ferry?", PASSAGES)
    kept = nbce.answer("Who runs the ferry?", PASSAGES, entropies=True)
    assert all(token.entropies == () for token in without.tokens)
    assert [t.id for t in without.tokens] == [t.id for t in kept.tokens]


def test_without_passages_it_is_the_one_row(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce("llama", max_tokens=3)
    with pytest.warns(UserWarning, match="No passages"):
        answer = nbce.answer("Who runs the ferry?", entropies=True)
    assert all(len(token.entropies) == 1 for token in answer.tokens)
