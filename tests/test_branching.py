"""Looking ahead: beginnings of an answer are followed, and the one that goes on most surely is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_reference import (
    PASSAGES,
    QUESTION,
    TEMPLATE,
    assert_same_answer,
    brute_state,
    record_samplers,
    row_prompts,
    slow_decode,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILIES

from nbce_rag.decoding import branching, decoder
from nbce_rag.errors import NbceWarning
from nbce_rag.fusion import Posterior

SURE = Posterior(gamma=0.0, cutoff=0.0, branches=4, depth=5, kappa=8.0, length=1.0)
SCORES = [0.4, 0.1, 0.3, 0.2]
SCORED = [replace(passage, score=score) for passage, score in zip(PASSAGES, SCORES, strict=True)]


@pytest.fixture
def follows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The first tokens of each look-ahead."""
    seen: list[tuple[int, ...]] = []
    original = branching.follow

    def follow(loaded: Any, cache: Any, rows: Any, firsts: Any, *rest: Any) -> Any:
        seen.append(tuple(firsts))
        return original(loaded, cache, rows, firsts, *rest)

    monkeypatch.setattr(decoder, "follow", follow)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", [SURE, Posterior(), Posterior(branches=2, depth=2)], ids=repr)
def test_the_answer_is_that_of_plain_forward_passes(
    family: str, rule: Posterior, make_nbce: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce(family, prompt=TEMPLATE, fusion=rule, max_tokens=7)
    samplers = record_samplers(monkeypatch)
    nbce.answer(QUESTION, SCORED)
    rows = row_prompts(nbce, QUESTION, PASSAGES)
    slow = slow_decode(nbce, rows, rule, 7, brute_state(nbce, rows, QUESTION, SCORES))
    assert samplers[0].ids == slow.tokens


def test_it_changes_how_an_answer_begins(make_nbce: Callable[..., Any]) -> None:
    """Else the comparison with plain passes would show nothing."""
    rules = (SURE, replace(SURE, branches=0))
    answers = [
        [
            make_nbce(family, prompt=TEMPLATE, max_tokens=4).answer(QUESTION, SCORED, fusion=rule).text
            for rule in rules
        ]
        for family in FAMILIES
    ]
    assert any(ahead != plain for ahead, plain in answers)


@pytest.mark.parametrize("lookup", [0, 8])
def test_a_branch_is_a_draft_that_changes_nothing(
    lookup: int, make_nbce: Callable[..., Any], follows: list[tuple[int, ...]]
) -> None:
    nbce = make_nbce("gemma3", prompt=TEMPLATE, fusion=SURE, max_tokens=12)
    plain = make_nbce("gemma3", prompt=TEMPLATE, fusion=SURE, max_tokens=12, prompt_lookup_num_tokens=0)
    assert_same_answer(
        nbce.answer(QUESTION, SCORED, prompt_lookup_num_tokens=lookup), plain.answer(QUESTION, SCORED)
    )
    assert len(follows) == 2


def test_questions_of_a_batch_look_ahead_together_and_alike(
    make_nbce: Callable[..., Any], follows: list[tuple[int, ...]]
) -> None:
    nbce = make_nbce("qwen3", prompt=TEMPLATE, fusion=SURE)
    requests = [
        nbce.request(QUESTION, SCORED, max_tokens=3),
        nbce.request("When does the market open?", SCORED, max_tokens=9),
    ]
    together = nbce.batch(requests)
    assert len(follows) == 1
    for request, answer in zip(requests, together, strict=True):
        assert_same_answer(answer, nbce.batch([request])[0])


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.8, "seed": 1}, {"fusion": "experts"}, {"fusion": Posterior(branches=1)}],
    ids=["sampled", "another rule", "one branch"],
)
def test_where_nothing_is_looked_ahead(
    options: dict[str, Any], make_nbce: Callable[..., Any], follows: list[tuple[int, ...]]
) -> None:
    nbce = make_nbce("llama", prompt=TEMPLATE, fusion=SURE, max_tokens=4)
    nbce.answer(QUESTION, SCORED, **options)
    with pytest.warns(NbceWarning, match="No passages"):
        nbce.answer(QUESTION)
    nbce.score(QUESTION, SCORED, ["Ada", "at noon"])
    assert follows == []


def test_no_beginning_is_white_space_or_an_end(
    make_nbce: Callable[..., Any], follows: list[tuple[int, ...]]
) -> None:
    nbce = make_nbce(
        "llama", prompt=TEMPLATE, fusion=Posterior(gamma=0.0, cutoff=0.0, branches=200), max_tokens=3
    )
    nbce.answer(QUESTION, SCORED)
    [firsts] = follows
    assert len(firsts) == len(set(firsts)) > 100
    assert not nbce.model.eos_ids & set(firsts)
    assert all(nbce.model.tokenizer.decode([token]).strip() for token in firsts)


def test_bad_words_do_not_begin_an_answer_either(
    make_nbce: Callable[..., Any], follows: list[tuple[int, ...]]
) -> None:
    nbce = make_nbce("llama", prompt=TEMPLATE, fusion=replace(SURE, branches=200), max_tokens=2)
    nbce.answer(QUESTION, SCORED)
    nbce.answer(QUESTION, SCORED, bad_words=["a"])
    free, banned = ({nbce.model.tokenizer.decode([token]).strip() for token in firsts} for firsts in follows)
    assert "a" in free
    assert "a" not in banned
    assert len(banned) > 100


@given(
    scores=st.lists(st.floats(-20, 0), min_size=1, max_size=5),
    shift=st.floats(-5, 5),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_preferences_do_not_depend_on_a_constant(
    scores: list[float], shift: float, data: st.DataObject
) -> None:
    log_probs = st.lists(st.floats(-10, 0), max_size=5)
    followed = [data.draw(log_probs) for _ in scores]
    plain = SURE.prefer(torch.tensor(scores, dtype=torch.float64), followed)
    moved = SURE.prefer(torch.tensor(scores, dtype=torch.float64) + shift, followed)
    torch.testing.assert_close(moved, plain + shift)
