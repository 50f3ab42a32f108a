"""Passages that matter for a long answer are read once more, all of them in one row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from engine_reference import (
    BARE,
    QUESTION,
    assert_same_answer,
    assert_shared_evidence,
    brute_state,
    prompt_ids,
    row_prompts,
    slow_decode,
)
from watched_model import watched

from nbce_rag.errors import NbceWarning
from nbce_rag.fusion import Experts, Posterior
from nbce_rag.passages import Passage

Make = Callable[..., Any]

SCORES = (0.3, 0.6, 0.1, 0.5)
PASSAGES = [
    Passage(text, id=text.split()[1], score=score)
    for text, score in zip(
        (
            "The ferry is run by Ada.",
            "The harbour opens at noon.",
            "The market sells fish.",
            "The pier is old.",
        ),
        SCORES,
        strict=True,
    )
]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_the_row_is_fused_like_the_others(family: str, make_nbce: Make) -> None:
    """Against plain passes over all rows, that of the two best behind the passages'."""
    nbce = make_nbce(family, prompt=BARE)
    rule = Posterior(focus=0.0, together=2, alpha=0.0)  # the scores alone tell which are best
    answer = nbce.answer(QUESTION, PASSAGES, fusion=rule, max_tokens=8)
    assert answer.usage.row_passages == ((), (0,), (1,), (2,), (3,), (1, 3))
    rows = [*row_prompts(nbce, QUESTION, PASSAGES), prompt_ids(nbce, QUESTION, [PASSAGES[1], PASSAGES[3]])]
    assert answer.usage.row_tokens == tuple(map(len, rows))
    state = brute_state(nbce, rows, QUESTION, [*SCORES, 0.6])
    state.relevance = None
    slow = slow_decode(nbce, rows, rule, 8, state)
    assert_shared_evidence(nbce, answer, slow, QUESTION, PASSAGES, (1, 3))


def test_long_answers_have_it_and_short_ones_do_not(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=4)

    def rows(**options: Any) -> tuple[tuple[int, ...], ...]:
        found: tuple[tuple[int, ...], ...] = nbce.answer(QUESTION, PASSAGES, **options).usage.row_passages
        return found

    assert len(rows(style="short", fusion=Posterior(focus=0.0))) == 5
    assert rows(style="long", fusion=Posterior(focus=0.0))[5:] == ((0, 1, 2, 3),)
    assert len(rows(style="long", fusion=Posterior(focus=0.0, together=0))) == 5
    assert len(rows(style="short", fusion=Posterior(focus=0.0, together=3))[5]) == 3
    assert len(rows(style="long", fusion=Experts())) == 5


@pytest.mark.parametrize("options", [{"joint_row": True}, {"passages_per_row": 2}])
def test_rows_of_several_passages_do_without(options: dict[str, Any], make_nbce: Make) -> None:
    plain = make_nbce(max_tokens=3).answer(QUESTION, PASSAGES, fusion=Posterior(together=0), **options)
    answer = make_nbce(max_tokens=3).answer(QUESTION, PASSAGES, fusion=Posterior(together=4), **options)
    assert answer.usage.row_passages == plain.usage.row_passages


def test_one_passage_and_choices_do_without(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=3, fusion=Posterior(focus=0.0, together=4))
    assert len(nbce.answer(QUESTION, PASSAGES[:1]).usage.row_tokens) == 2
    apart = nbce.score(QUESTION, PASSAGES, ["Ada", "Bo"], fusion=Posterior(focus=0.0, together=0))
    assert nbce.score(QUESTION, PASSAGES, ["Ada", "Bo"]) == apart


def test_what_does_not_fit_is_left_out(make_nbce: Make) -> None:
    """The window decides how many are read together; rows apart are not touched by it."""
    long = [
        Passage(f"The {word} is old. " * 12, id=word, score=s) for word, s in zip("abcd", SCORES, strict=True)
    ]
    rule = Posterior(focus=0.0, together=4, alpha=0.0)
    nbce = make_nbce(prompt=BARE, max_tokens=2, fusion=rule)
    lengths = [len(row) for row in row_prompts(nbce, QUESTION, long)]
    together = {
        window: make_nbce(prompt=BARE, max_tokens=2, fusion=rule, window=window)
        .answer(QUESTION, long)
        .usage.row_passages[5:]
        for window in (max(lengths) + 4, 2 * max(lengths), 3 * max(lengths))
    }
    assert list(together.values()) == [(), ((1, 3),), ((0, 1, 3),)]


def test_questions_of_a_batch_choose_for_themselves(make_nbce: Make) -> None:
    nbce = make_nbce("gemma3", prompt=BARE, max_tokens=6)
    turned = [dataclasses.replace(p, score=s) for p, s in zip(PASSAGES, SCORES[::-1], strict=True)]
    requests = [
        nbce.request(QUESTION, PASSAGES, fusion=Posterior(together=2)),
        nbce.request(QUESTION, PASSAGES, fusion=Posterior(together=0)),
        nbce.request("When?", turned, fusion=Posterior(focus=0.0, together=3)),
        nbce.request(QUESTION, PASSAGES, fusion=Posterior(together=2)),
    ]
    for request, answer in zip(requests, nbce.batch(requests), strict=True):
        [alone] = nbce.batch([request])
        assert_same_answer(answer, alone)


def test_it_is_not_kept(make_nbce: Make) -> None:
    """Its context is hardly ever the same again, and would take the place of passages."""
    nbce, model = watched(make_nbce(prompt=BARE, max_tokens=2, fusion=Posterior(focus=0.0, together=2)))
    nbce.answer(QUESTION, PASSAGES)
    [[apart], [together]] = model.opened
    assert len(together.contexts) == 2
    assert nbce.kv_store is not None
    store = nbce.kv_store.of(nbce.model)
    assert all(context in store for context in apart.contexts if context)
    assert together.contexts[1] not in store


def test_memory_decides(make_nbce: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nbce = make_nbce(prompt=BARE, max_tokens=2, fusion=Posterior(focus=0.0, together=4))
    monkeypatch.setattr("nbce_rag.decoding.reader.fits", lambda model, size: False)
    with pytest.warns(NbceWarning, match="No passages were read together"):
        answer = nbce.answer(QUESTION, PASSAGES)
    assert len(answer.usage.row_tokens) == 5
    assert any("together" in warning for warning in answer.warnings)
