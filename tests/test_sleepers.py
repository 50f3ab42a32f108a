"""Rows that sleep change no token, and no weight by more than 0.0001."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from engine_reference import PASSAGES, QUESTION, TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import Table, TableModel
from tiny_models import FAMILIES
from torch import Tensor

from nbce_rag import NBCE, Experts, FusionState, Max, Mean, MinEntropy, Options, Posterior
from nbce_rag.decoding import sleepers
from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.decoding.drafting import PromptLookup
from nbce_rag.decoding.group import Group
from nbce_rag.decoding.sampling import Sampler
from nbce_rag.decoding.sleepers import TOLERANCE, Sleepers
from nbce_rag.errors import InputError
from nbce_rag.fusion import Rule
from nbce_rag.models.model import Can, RowPrompt, Step

Make = Callable[..., NBCE]
WORDS = 12


def switching_table(seed: int, sure: float) -> Table:
    """All rows agree at some places; at others each goes its own way, and now and then one row alone is sure."""

    def log_probs(ids: tuple[int, ...]) -> Tensor:
        place = random.Random(f"{seed} {len(ids)}")
        if place.random() < sure:
            logits = torch.zeros(WORDS)
            logits[place.randrange(WORDS)] = 6.0
            return logits.log_softmax(-1)
        own = random.Random(f"{seed} {ids[0]} {len(ids)} {ids[-1]}")
        logits = torch.tensor([own.gauss(0, 2) for _ in range(WORDS)])
        if own.random() < 0.3:
            logits[own.randrange(WORDS)] += 8.0
        return logits.log_softmax(-1)

    return log_probs


def answers(
    seed: int, questions: int, passages: int, tokens: int, sleep: bool, rule: Rule, options: Options, **of_group: Any
) -> tuple[list[list[Step]], list[tuple[int, int]]]:
    """Steps of each question, and its row-steps."""
    rng = random.Random(seed)
    model = TableModel(switching_table(seed, 0.6), vocab_size=WORDS)
    prompts = [
        RowPrompt(tuple((100 * q + row + 20, 5) for row in range(passages + 1)), (3,)) for q in range(questions)
    ]
    rows, readings = model.open(prompts, tokens + 9)
    groups = []
    for question in range(questions):
        scores = torch.tensor([[rng.choice((0.9, 0.7, 0.1, -0.3, -0.9)) for _ in range(passages)]])
        first = question * (passages + 1)
        groups.append(
            Group(
                tuple(range(first, first + passages + 1)),
                rule,
                Sampler(options.updated(seed=question), None, frozenset()),  # type: ignore[arg-type]
                FusionState(scores=scores),
                lookup=PromptLookup([[rng.randrange(WORDS) for _ in range(30)]] * passages, 4),
                sleep=sleep,
                **of_group,
            )
        )
    decoder = LockstepDecoder(rows, torch.cat([r.log_probs for r in readings]), groups)
    steps: list[list[Step]] = [[] for _ in range(questions)]
    # Questions end at different places.
    ends = [tokens - 7 * question for question in range(questions)]
    while decoder.active:
        for step in decoder.step():
            steps[step.question].append(step)
            if len(steps[step.question]) >= ends[step.question]:
                decoder.finish(step.question)
    return steps, [decoder.row_steps(question) for question in range(questions)]


def assert_same(ours: Sequence[Sequence[Step]], theirs: Sequence[Sequence[Step]]) -> None:
    assert [[step.token for step in steps] for steps in ours] == [
        [step.token for step in steps] for steps in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert a.evidence == pytest.approx(b.evidence, abs=1e-4)
            assert a.log_prob == pytest.approx(b.log_prob, abs=2e-3)
            assert a.gain == pytest.approx(b.gain, abs=2e-3)


SAMPLED: tuple[dict[str, Any], ...] = (
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"temperature": 0.7},
    {"temperature": 1.5, "top_k": 3},
    {"temperature": 1.2, "top_p": 0.8, "repetition_penalty": 1.2},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    questions=st.integers(1, 3),
    passages=st.integers(2, 9),
    epsilon=st.sampled_from([0.0, 0.001, 0.05, 1.0]),
    cutoff=st.sampled_from([0.05, 0.3, 0.0]),
    beta=st.sampled_from([0.25, 0.0, -0.5]),
    sampling=st.sampled_from(SAMPLED),
    entering=st.sampled_from([1e-6, 2e-5]),
)
def test_sleep_changes_no_token(
    seed: int,
    questions: int,
    passages: int,
    epsilon: float,
    cutoff: float,
    beta: float,
    sampling: dict[str, Any],
    entering: float,
) -> None:
    rule = Posterior(epsilon=epsilon, cutoff=cutoff, beta=beta)
    arguments = (seed, questions, passages, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sleepers, "_ENTERING", entering)
        slept, steps = answers(*arguments, True, rule, Options(**sampling))
        awake, plain_steps = answers(*arguments, False, rule, Options(**sampling))
    assert_same(slept, awake)
    for (read, spared), (every, none) in zip(steps, plain_steps, strict=True):
        assert read + spared == every
        assert none == 0


@pytest.mark.parametrize("sampling", SAMPLED, ids=str)
def test_rows_do_sleep_and_wake(sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleepers, "_ENTERING", 1e-5)
    woken: list[int] = []
    wake = Group.wake
    monkeypatch.setattr(Group, "wake", lambda self, rows: (woken.append(1), wake(self, rows))[1])
    spared = 0
    for seed in range(6):
        rule = Posterior(epsilon=0.001)
        slept, steps = answers(seed, 2, 8, 40, True, rule, Options(**sampling))
        awake, _ = answers(seed, 2, 8, 40, False, rule, Options(**sampling))
        assert_same(slept, awake)
        spared += sum(of_question for _, of_question in steps)
    assert spared > 20
    assert woken
