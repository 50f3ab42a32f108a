"""The most probable tokens at each place of an answer, kept on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PASSAGES = ["The ferry is run by Ada.", "Bread is baked in Orme.", "The lamp is lit at dusk."]


@pytest.mark.parametrize("rule", ["posterior", "mean"])
def test_the_chosen_token_is_the_best_of_them(make_nbce: Callable[..., Any], rule: str) -> None:
    nbce = make_nbce("llama", max_tokens=6, fusion=rule)
    without = nbce.answer("Who runs the ferry?", PASSAGES)
    answer = nbce.answer("Who runs the ferry?", PASSAGES, top_logprobs=3)
    assert [token.id for token in answer.tokens] == [token.id for token in without.tokens]
    assert all(token.top == () for token in without.tokens)
    for token in answer.tokens:
        assert 1 <= len(token.top) <= 3
        values = [value for _, value in token.top]
        assert values == sorted(values, reverse=True)
        assert values[0] == pytest.approx(token.logprob, abs=1e-4)
        spelled = token.top[0][0]
        assert token.text.endswith(spelled.strip()) or "\ufffd" in spelled  # a part of a character


def test_what_a_grammar_forbids_is_not_among_them(make_nbce: Callable[..., Any]) -> None:
    pytest.importorskip("llguidance")
    nbce = make_nbce("llama", max_tokens=6)
    answer = nbce.answer("Who?", PASSAGES, regex="[0-9]{3}", top_logprobs=20)
    assert answer.text.isdigit()
    assert all(text.strip().isdigit() for text, _ in answer.tokens[0].top)


def test_more_than_there_are(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce("llama", max_tokens=1, fusion="mean")
    (token,) = nbce.answer("Who?", PASSAGES, regex="a", top_logprobs=10**9, max_tokens=1).tokens
    assert token.top == (("a", 0.0),)
    (token, *_) = nbce.answer("Who?", PASSAGES, top_logprobs=10**9, max_tokens=8).tokens
    assert 1 < len(token.top) <= nbce.model.vocab_size
