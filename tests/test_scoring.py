"""Log-probs of given answers, against plain passes over each row and choice."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engine_reference import (
    PASSAGES,
    QUESTION,
    TEMPLATE,
    brute_state,
    encode,
    row_prompts,
    sequence_log_prob,
    slow_decode,
)

from nbce_rag.errors import InputError, NbceWarning
from nbce_rag.fusion import Experts, Max, Mean, MinEntropy, Posterior

Make = Callable[..., Any]


def _next(ids: Iterator[int], fused: torch.Tensor) -> int:
    return next(ids)


CHOICES = ["Ada", "the old harbour of the island", "面包和苹果", "1891"]


@pytest.mark.parametrize("rule", [Posterior(), MinEntropy(), Mean(), Max(), Experts()], ids=lambda r: r.name)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_scores_are_those_of_forced_decoding(family: str, rule: Any, make_nbce: Make) -> None:
    passages = [dataclasses.replace(p, score=0.2 * i) for i, p in enumerate(PASSAGES)]
    nbce = make_nbce(family, prompt=TEMPLATE, fusion=rule)
    found = nbce.score(QUESTION, passages, CHOICES)
    assert found.choices == tuple(CHOICES)
    rows = row_prompts(nbce, QUESTION, passages)
    for choice, log_prob, count in zip(CHOICES, found.log_probs, found.tokens, strict=True):
        ids = encode(nbce, " " + choice)
        assert count == len(ids)
        forced = functools.partial(_next, iter(ids))
        state = brute_state(nbce, rows, QUESTION, [p.score for p in passages])
        if not rule.uses_relevance:
            state.relevance = None
        slow = slow_decode(nbce, rows, rule.untruncated(), count, state, choose=forced)
        assert slow.tokens == ids
        assert log_prob == pytest.approx(sum(slow.log_probs), abs=1e-3)
    assert found.per_token == pytest.approx(
        [a / b for a, b in zip(found.log_probs, found.tokens, strict=True)]
    )
    assert found.best == CHOICES[max(range(4), key=found.log_probs.__getitem__)]
    assert found.best_per_token == CHOICES[max(range(4), key=found.per_token.__getitem__)]
    assert found.probabilities == pytest.approx(torch.tensor(found.log_probs).softmax(-1).tolist(), abs=1e-6)


def test_choices_do_not_disturb_each_other(make_nbce: Make) -> None:
    nbce = make_nbce("mistral", prompt=TEMPLATE)
    together = nbce.score(QUESTION, PASSAGES, CHOICES)
    for choice, log_prob in zip(CHOICES, together.log_probs, strict=True):
        assert nbce.score(QUESTION, PASSAGES, [choice]).log_probs == (pytest.approx(log_prob, abs=1e-3),)
    assert nbce.score(QUESTION, PASSAGES, CHOICES[::-1]).log_probs == pytest.approx(
        together.log_probs[::-1], abs=1e-3
    )


def test_the_answer_given_greedily_scores_what_its_tokens_said(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, fusion=Posterior(gamma=0, cutoff=0, least=0), max_tokens=5)
    compared = 0
    for number in range(60):
        question = f"What is {number}?"
        answer = nbce.answer(question, PASSAGES, max_tokens=1 + number % 2)
        ids = encode(nbce, " " + answer.text)
        if ids and ids == [t.id for t in answer.tokens]:  # else its text is spelled by other tokens
            compared += 1
            found = nbce.score(question, PASSAGES, [answer.text])
            assert found.log_probs[0] == pytest.approx(sum(t.logprob for t in answer.tokens), abs=1e-3)
    assert compared


def test_without_passages_it_is_the_model_alone(make_nbce: Make) -> None:
    nbce = make_nbce("gpt2", prompt=TEMPLATE)
    with pytest.warns(NbceWarning, match="question alone"):
        found = nbce.score(QUESTION, [], CHOICES)
    [row] = row_prompts(nbce, QUESTION, [])
    for choice, log_prob in zip(CHOICES, found.log_probs, strict=True):
        ids = encode(nbce, " " + choice)
        assert log_prob == pytest.approx(sequence_log_prob(nbce.model.model, row, ids), abs=1e-3)


def test_sampling_options_have_no_effect(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE)
    plain = nbce.score(QUESTION, PASSAGES, CHOICES)
    other = nbce.score(QUESTION, PASSAGES, CHOICES, temperature=2.0, top_k=1, seed=1, max_tokens=1)
    assert other.log_probs == pytest.approx(plain.log_probs, abs=1e-4)


def test_equal_choices_tie_to_the_first(make_nbce: Make) -> None:
    found = make_nbce(prompt=TEMPLATE).score(QUESTION, PASSAGES, ["Ada", "Ada"])
    assert found.best == "Ada"
    assert found.probabilities == pytest.approx((0.5, 0.5))


def test_wrong_choices(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE)
    choices: Any
    for choices in ([], "Ada", ["Ada", " "], ["Ada", ""]):
        with pytest.raises(InputError, match="choice"):
            nbce.score(QUESTION, PASSAGES, choices)
