"""Rows that sleep change no token, no weight by more than 0.0001, and no log-prob by more than is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_reference import PASSAGES, QUESTION, TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import Table, TableModel
from tiny_models import FAMILIES
from torch import Tensor
from watched_model import watched

from nbce_rag import NBCE, Experts, FusionState, Max, Mean, MinEntropy, Options, Passage, Posterior
from nbce_rag.decoding import decoder as decoding
from nbce_rag.decoding import sleepers
from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.decoding.drafting import PromptLookup
from nbce_rag.decoding.group import Group
from nbce_rag.decoding.sampling import Sampler
from nbce_rag.decoding.sleepers import Sleepers
from nbce_rag.decoding.thought import ThoughtReader
from nbce_rag.decoding.turn import TurnSampler
from nbce_rag.errors import InputError
from nbce_rag.fusion import Rule
from nbce_rag.fusion.bounds import Doubt
from nbce_rag.models.model import Can, RowPrompt, Step

Make = Callable[..., NBCE]
Answers = list[list[Step]]
Known = dict[tuple[int, int], tuple[float, float]]
"""By question and place: between what the log-prob lies of a token that was chosen while rows slept."""
WORDS = 12
ROUNDING = 1e-4


def switching_table(seed: int, sure: float) -> Table:
    """All rows agree at some places; at others each goes its own way, and one row alone may be sure."""

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
    seed: int,
    questions: int,
    passages: int,
    tokens: int,
    sleep: bool,
    rule: Rule,
    options: Options,
    **of_group: Any,
) -> tuple[Answers, list[tuple[int, int]], Known]:
    """Steps of each question, its row-steps, and what was known of its log-probs."""
    rng = random.Random(seed)
    model = TableModel(switching_table(seed, 0.6), vocab_size=WORDS)
    prompts = [
        RowPrompt(tuple((100 * q + row + 20, 5) for row in range(passages + 1)), (3,))
        for q in range(questions)
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
    steps: Answers = [[] for _ in range(questions)]
    choosers = [group.chooser for group in groups]
    known: Known = {}
    sure = decoding._sure

    def noted(chooser: Any, scores: Tensor, low: Tensor, high: Tensor) -> int | None:
        question = choosers.index(chooser)
        place = question, len(steps[question])
        known.pop(place, None)  # more rows are read now
        token = sure(chooser, scores, low, high)
        if token is not None:
            known[place] = extremes(token, low, high)
        return token

    # Questions end at different places.
    ends = [tokens - 7 * question for question in range(questions)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_sure", noted)
        while decoder.active:
            for step in decoder.step():
                steps[step.question].append(step)
                if len(steps[step.question]) >= ends[step.question]:
                    decoder.finish(step.question)
    return steps, [decoder.row_steps(question) for question in range(questions)], known


def extremes(token: int, low: Tensor, high: Tensor) -> tuple[float, float]:
    """The least and the largest log-prob of a token whose scores, and the others', lie between bounds [V]."""
    least, most = high.double(), low.double()
    least[token], most[token] = low[token], high[token]
    return tuple(float(scores.log_softmax(-1)[token]) for scores in (least, most))  # type: ignore[return-value]


def assert_same(ours: Answers, theirs: Answers, known: Known) -> None:
    assert [[step.token for step in steps] for steps in ours] == [
        [step.token for step in steps] for steps in theirs
    ]
    for question, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for place, (a, b) in enumerate(zip(mine, other, strict=True)):
            assert a.evidence == pytest.approx(b.evidence, abs=1e-4)
            low, high = known.get((question, place), (b.log_prob, b.log_prob))
            for log_prob in (a.log_prob, b.log_prob):
                assert low - ROUNDING <= log_prob <= high + ROUNDING
            assert a.gain == pytest.approx(b.gain, abs=2e-3)


def counted_naps(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each time that rows fall asleep."""
    naps: list[list[int]] = []
    fall_asleep = Group.fall_asleep

    def counted(self: Group, rows: list[int]) -> None:
        naps.append(rows)
        fall_asleep(self, rows)

    monkeypatch.setattr(Group, "fall_asleep", counted)
    return naps


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


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    questions=st.integers(1, 3),
    passages=st.integers(2, 9),
    epsilon=st.sampled_from([0.0, 0.001, 0.05, 1.0]),
    cutoff=st.sampled_from([0.05, 0.3, 0.0]),
    beta=st.sampled_from([0.25, 0.0, -0.5]),
    sampling=st.sampled_from(SAMPLED),
    night=st.sampled_from([1, 4]),
    least=st.sampled_from([0.0, None]),
)
def test_sleep_changes_no_token(
    seed: int,
    questions: int,
    passages: int,
    epsilon: float,
    cutoff: float,
    beta: float,
    sampling: dict[str, Any],
    night: int,
    least: float | None,
) -> None:
    rule = Posterior(epsilon=epsilon, cutoff=cutoff, beta=beta, least=least)
    arguments = (seed, questions, passages, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sleepers, "_NIGHT", night)
        slept, steps, known = answers(*arguments, True, rule, Options(**sampling))
        awake, plain_steps, _ = answers(*arguments, False, rule, Options(**sampling))
    assert_same(slept, awake, known)
    for (read, spared), (every, none) in zip(steps, plain_steps, strict=True):
        assert read + spared == every + none
        assert least is None or none == 0


@pytest.mark.parametrize("sampling", [SAMPLED[0], SAMPLED[3], SAMPLED[7]], ids=str)
def test_rows_do_sleep_and_wake(sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleepers, "_NIGHT", 2)
    woken: list[Group] = []
    wake = Group.wake

    def counted(self: Group, rows: Any) -> None:
        woken.append(self)
        wake(self, rows)

    monkeypatch.setattr(Group, "wake", counted)
    spared = 0
    for seed in range(4):
        rule = Posterior(epsilon=0.001, least=0.0)
        slept, steps, known = answers(seed, 2, 8, 40, True, rule, Options(**sampling))
        awake, _, _ = answers(seed, 2, 8, 40, False, rule, Options(**sampling))
        assert_same(slept, awake, known)
        spared += sum(of_question for _, of_question in steps)
    assert spared > 20
    assert woken


@pytest.mark.parametrize("rule", [MinEntropy(), Mean(), Max(), Experts()], ids=lambda rule: rule.name)
def test_rules_that_know_no_bounds_read_all_rows(rule: Any) -> None:
    _, steps, _ = answers(3, 2, 6, 20, True, rule, Options())
    assert [slept for _, slept in steps] == [0, 0]


@pytest.mark.parametrize("of_group", [{"drop_after": 4}, {"entropies": True}], ids=str)
def test_what_needs_every_row_reads_every_row(
    of_group: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleepers, "_NIGHT", 0)
    _, steps, _ = answers(5, 1, 6, 20, True, Posterior(epsilon=0.0, least=0.0), Options(), **of_group)
    assert steps[0][1] == 0


@pytest.mark.parametrize("sampling", [SAMPLED[0], SAMPLED[3]], ids=str)
@pytest.mark.parametrize("sleep", [True, False])
@pytest.mark.parametrize(
    "rule", [Posterior(), Posterior(least=0.01), Posterior(least=1.0, epsilon=0.0)], ids=repr
)
def test_rows_without_weight_are_read_for_the_first_token_alone(
    rule: Posterior, sleep: bool, sampling: dict[str, Any]
) -> None:
    spared = 0
    for seed in range(3):
        few, steps, known = answers(seed, 2, 8, 40, sleep, rule, Options(**sampling))
        # The entropies of all rows are asked for, so that all are read.
        whole, every, _ = answers(seed, 2, 8, 40, False, rule, Options(**sampling), entropies=True)
        assert_same(few, whole, known)
        assert [read + slept for read, slept in steps] == [read for read, _ in every]
        assert [slept for _, slept in every] == [0, 0]
        spared += sum(slept for _, slept in steps)
        for mine, other in zip(few, whole, strict=True):
            for step, full in zip(mine[1:], other[1:], strict=True):
                for ours, theirs, share in zip(
                    step.row_log_probs[1:], full.row_log_probs[1:], full.evidence, strict=True
                ):
                    assert ours == pytest.approx(theirs, abs=1e-4) or (ours == -math.inf and share < 1e-4)
    assert spared > 300


def test_what_rows_that_sleep_may_say_is_bounded() -> None:
    evidence = torch.tensor([0.7, 0.3, 0.0, 0.0])
    restart = torch.tensor([0.025, 0.02, 0.005 - 1e-9, 1e-9])
    mine = Sleepers((0.95, restart), evidence, 1)
    assert mine.drowsy(set(), 0.0) == [3]
    assert mine.drowsy({3}, 0.0) == []
    assert mine.drowsy(set(), 0.4) == []  # not for long
    mine.sleep([3], 0)
    assert mine.awake == [0, 1, 2]
    assert mine.weights[3] == 0.0
    assert float(mine.weights.sum()) == pytest.approx(1.0)
    assert mine.doubt.rest == pytest.approx(1e-9)
    # A token that the others are sure of, and one that they hardly allow.
    for p, holds in ((0.9, True), (1e-6, False)):
        token = torch.tensor([p, p, p, 0.0]).log()
        assert mine.holds(token) is holds
    assert mine.heaviest(token) == [3]
    nobody = torch.full((4,), -torch.inf)
    assert not mine.holds(nobody)
    mine.take(torch.tensor([0.9, 0.9, 0.9, 0.0]).log())
    mine.wake([3], torch.tensor([[0.5]]).log())
    weights = 0.95 * evidence + restart
    exact = weights * torch.tensor([0.9, 0.9, 0.9, 0.5])
    assert mine.evidence.tolist() == pytest.approx((exact / exact.sum()).tolist(), abs=1e-6)
    assert mine.doubt.rest == 0.0


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cutoff=st.sampled_from([0.0, 0.05, 0.3]),
    beta=st.sampled_from([-0.5, 0.0, 0.25, 1.0]),
    rest=st.sampled_from([0.0, 1e-6, 1e-3, 0.05, 0.4]),
)
def test_scores_of_all_rows_lie_between_the_bounds(
    seed: int, cutoff: float, beta: float, rest: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rule = Posterior(beta=beta, cutoff=cutoff, epsilon=0.0)
    log_probs = (2 * torch.randn(1, 6, 20, generator=generator)).log_softmax(-1)
    log_probs[:, 0, 3] = -torch.inf  # unknown to row 0
    weights = torch.rand(1, 5, generator=generator).softmax(-1)
    weights[:, 3:] *= rest / weights[:, 3:].sum()
    weights[:, :3] *= (1 - rest) / weights[:, :3].sum()
    state = FusionState(evidence=weights, memory={"log_prior": torch.zeros(1, 5)})
    exact = rule.fuse(log_probs, state).log_probs[0]
    read = weights[:, :3] / weights[:, :3].sum()
    bounded = rule.bounded(log_probs[:, :4], read, Doubt(rest, 1e-6))
    low, high = bounded.low[0], bounded.high[0]
    assert bool((low <= exact + 1e-5).all())
    assert bool((exact <= high + 1e-5).all())
    alone = bounded.fused.log_probs[0]
    assert bool(((low <= alone + 1e-5) & (alone <= high + 1e-5)).all())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sampling=st.sampled_from(SAMPLED),
    width=st.sampled_from([1e-6, 1e-3, 0.1, 1.0]),
    banned=st.integers(0, 8),
)
def test_a_sure_choice_is_the_choice(seed: int, sampling: dict[str, Any], width: float, banned: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = (2 * torch.randn(WORDS, generator=generator)).log_softmax(-1)
    scores[torch.randperm(WORDS, generator=generator)[:banned]] = -torch.inf
    low = scores - width * torch.rand(WORDS, generator=generator)
    high = scores + width * torch.rand(WORDS, generator=generator)

    def sampler() -> Sampler:
        return Sampler(Options(seed=seed, **sampling), None, frozenset())  # type: ignore[arg-type]

    mine = sampler()
    token = mine.sure(low, scores, high)
    if token is None:
        return
    for share in (0.0, 0.3, 1.0, None):
        mix = torch.rand(WORDS, generator=generator) if share is None else share
        between = torch.where(scores == -torch.inf, scores, low + mix * (high - low))
        assert sampler().choose(between) == token
    assert mine.choose(scores) == token  # nothing was drawn to find it out


def test_what_a_turn_has_to_write_is_sure(tiny_tokenizer: Any) -> None:
    answer = Sampler(Options(), None, frozenset())  # type: ignore[arg-type]
    turn = TurnSampler(ThoughtReader(tiny_tokenizer), answer, answer, frozenset({1}), opening=(5,))
    scores = torch.arange(WORDS).float().log_softmax(-1)
    assert turn.sure(scores - 9.0, scores, scores + 9.0) == 5
    assert turn.choose(scores) == 5
    assert turn.sure(scores - 9.0, scores, scores + 9.0) is None
    assert turn.sure(scores - 0.1, scores, scores + 0.1) == WORDS - 1 == turn.choose(scores)


def test_most_choices_are_sure_where_little_is_open() -> None:
    for sampling in SAMPLED:
        sure = 0
        for seed in range(40):
            scores = (2 * torch.randn(WORDS, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
            sampler = Sampler(Options(seed=seed, **sampling), None, frozenset())  # type: ignore[arg-type]
            sure += sampler.sure(scores - 1e-6, scores, scores + 1e-6) is not None
        assert sure > 35


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sleep_changes_no_answer(
    family: str, sampled: bool, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = counted_naps(monkeypatch)
    monkeypatch.setattr(sleepers, "_NIGHT", 4)
    nbce = make_nbce(family, prompt=TEMPLATE)
    # A random model is sure of nothing, so rows sleep only if they begin far below the others.
    options: dict[str, Any] = {"max_tokens": 20, "fusion": Posterior(epsilon=1e-12, tau=0.01, least=0.0)}
    if sampled:
        options |= {"temperature": 1.2, "seed": 5, "top_p": 0.95}
    passages = [
        Passage(p.text, score=score)
        for p, score in zip(PASSAGES * 2, (0.9, 0.5, 0.6, 0.2, 0.1), strict=False)
    ]
    slept = nbce.answer(QUESTION, passages, **options)
    awake = nbce.answer(QUESTION, passages, sleep=False, **options)
    assert naps
    assert slept.usage.row_steps + slept.usage.slept_row_steps == awake.usage.row_steps
    assert awake.usage.slept_row_steps == 0
    assert slept.text == awake.text
    assert [token.id for token in slept.tokens] == [token.id for token in awake.tokens]
    for ours, theirs in zip(slept.tokens, awake.tokens, strict=True):
        assert ours.weights == pytest.approx(theirs.weights, abs=1e-4)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
    assert [(c.start, c.end, c.passage) for c in slept.citations] == [
        (c.start, c.end, c.passage) for c in awake.citations
    ]
    pieces = list(nbce.stream(QUESTION, passages, **options))
    assert "".join(piece.text for piece in pieces) == awake.text
    if len(awake.text) > 4:
        stop = awake.text[len(awake.text) // 2 :][:2]
        assert (
            nbce.answer(QUESTION, passages, stop=[stop], **options).text
            == nbce.answer(QUESTION, passages, stop=[stop], sleep=False, **options).text
        )


def test_a_model_that_takes_nothing_back_keeps_all_rows_awake(
    make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleepers, "_NIGHT", 0)
    naps = counted_naps(monkeypatch)
    nbce, model = watched(make_nbce("llama", prompt=TEMPLATE))
    options: dict[str, Any] = {
        "max_tokens": 8,
        "fusion": Posterior(epsilon=0.0, tau=0.01, focus=0.0, least=0.0),
    }
    passages = [Passage(p.text, score=score) for p, score in zip(PASSAGES, (0.9, 0.5, 0.2, 0.1), strict=True)]
    nbce.answer(QUESTION, passages, **options)
    assert naps
    naps.clear()
    monkeypatch.setattr(model, "can", Can(rewind=False), raising=False)
    nbce.answer(QUESTION, passages, **options)
    assert not naps


def test_a_choice_that_is_no_truth_value_is_refused() -> None:
    with pytest.raises(InputError, match="sleep="):
        Options(sleep=1)  # type: ignore[arg-type]
