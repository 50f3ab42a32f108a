"""Choosing tokens: penalties against their definitions, draws against the whole vocabulary's distribution."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nbce_rag.decoding.sampling import ForcedTokens, Sampler, TokenChooser
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.options import Options

NEG_INF = -math.inf
VOCAB = 40


class Letters:
    """Spells a word by its letters, a blank being token 0; enough of a tokenizer for bad words."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(" abcdefghijklmnopqrstuvwxyz".index(letter) for letter in text)


LETTERS: Any = Letters()


def sampler(constraint: Any = None, eos: frozenset[int] = frozenset({39}), **options: Any) -> Sampler:
    return Sampler(Options(**options), LETTERS, eos, constraint)


def written(words: list[int], **options: Any) -> Sampler:
    """A sampler whose answer so far is `words`."""
    chooser = sampler(**options)
    for word in words:
        chooser.choose(one_hot(word))
    return chooser


def one_hot(token: int) -> Tensor:
    scores = torch.full((VOCAB,), NEG_INF)
    scores[token] = 0.0
    return scores


def random_scores(seed: int, kept: int = VOCAB) -> Tensor:
    """Scores over the vocabulary, no two alike, -inf but for `kept` of them."""
    rng = np.random.default_rng(seed)
    values = rng.permutation(np.linspace(-9.0, 0.0, VOCAB) + rng.uniform(0, 0.05, VOCAB))
    scores = torch.tensor(values, dtype=torch.float32).log_softmax(-1)
    scores[torch.tensor(rng.permutation(VOCAB)[kept:].copy(), dtype=torch.long)] = NEG_INF
    return scores


# ---------------------------------------------------------------------------------------------------------
# Penalties and bans


def test_without_penalties_scores_pass_unchanged() -> None:
    scores = random_scores(0, kept=7)
    assert sampler().process(scores) is scores


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, VOCAB),
    st.lists(st.integers(0, VOCAB - 1), max_size=8),
    st.floats(0.2, 5),
)
def test_the_repetition_penalty(seed: int, kept: int, answer: list[int], penalty: float) -> None:
    scores = random_scores(seed, kept) + 2.0  # some above 0
    before = scores.clone()
    got = written(answer, repetition_penalty=penalty).process(scores)
    want = scores.clone()
    for token in set(answer):
        want[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    assert torch.allclose(got, want)
    assert torch.equal(scores, before)  # the input is not changed


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_no_ngram_comes_twice(answer: list[int], size: int) -> None:
    scores = random_scores(1)
    got = written(answer, no_repeat_ngram_size=size).process(scores)
    ngrams = {tuple(answer[i : i + size]) for i in range(len(answer) - size + 1)}
    last = tuple(answer[len(answer) - size + 1 :])
    for token in range(VOCAB):
        banned = len(last) == size - 1 and (*last, token) in ngrams
        assert got[token] == (NEG_INF if banned else scores[token])


@pytest.mark.parametrize(
    ("answer", "banned"),
    [
        ("", ""),
        ("b", ""),
        ("xba", "d"),
        ("ba", "d"),
        ("bad", ""),
        ("ab", ""),
        ("x ", "z"),
        ("b bab", ""),
        ("bba", "d"),
    ],
)
def test_bad_words(answer: str, banned: str) -> None:
    ids = LETTERS.encode(answer)
    scores = random_scores(2)
    got = written(ids, bad_words=("bad", "z")).process(scores)
    want = scores.clone()
    for letter in {*banned, "z"}:  # a word of one token is banned everywhere
        want[list(LETTERS.encode(letter))] = NEG_INF
    assert torch.equal(got, want)


def test_an_end_token_is_never_banned() -> None:
    (end,) = LETTERS.encode("z")
    scores = random_scores(3)
    got = sampler(eos=frozenset({end}), bad_words=("z", "y")).process(scores)
    assert got[end] == scores[end]
    assert got[LETTERS.encode("y")[0]] == NEG_INF


def test_bad_words_are_spelled_with_and_without_a_blank(tiny_tokenizer: Any) -> None:
    chooser = Sampler(Options(bad_words=("ferry",)), TransformersTokenizer(tiny_tokenizer), frozenset({1}))
    for form in ("ferry", " ferry"):
        ids = tiny_tokenizer(form, add_special_tokens=False)["input_ids"]
        vocab = len(tiny_tokenizer)
        for token in ids[:-1]:
            chooser.choose(torch.full((vocab,), NEG_INF).index_fill(0, torch.tensor([token]), 0.0))
        assert chooser.process(torch.zeros(vocab))[ids[-1]] == NEG_INF


def test_penalties_and_bans_together() -> None:
    chooser = written([1, 2, 1], repetition_penalty=2.0, no_repeat_ngram_size=2, bad_words=("ac",))
    scores = random_scores(4)
    want = scores.clone()
    want[[1, 2]] *= 2.0
    want[2] = NEG_INF  # 1 2 again
    want[3] = NEG_INF  # "ac"
    assert torch.allclose(chooser.process(scores), want)


# ---------------------------------------------------------------------------------------------------------
# The draw


def distribution(chooser: Sampler, scores: Tensor, patch: pytest.MonkeyPatch) -> Tensor:
    """Probability of each token, exactly: each index that torch.multinomial might return is tried once."""
    result = torch.zeros(VOCAB)
    seen: list[Tensor] = []
    with patch.context() as context:
        index = 0

        def draw(p: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
            assert count == 1
            assert generator is not torch.default_generator
            seen.append(p)
            return torch.tensor([index])

        context.setattr(torch, "multinomial", draw)
        chooser.choose(scores)
        for index in range(len(seen[0])):  # `draw` reads it
            result[chooser.choose(scores)] += seen[0][index]
    return result


WARPERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_k": 1000},
    {"top_p": 0.7},
    {"top_p": 0.01},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
]


def reference(scores: Tensor, options: dict[str, Any]) -> Tensor:
    """What transformers gives over the whole vocabulary."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(options.get("temperature", 1.0)))])
    if "top_k" in options:
        warpers.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        warpers.append(MinPLogitsWarper(options["min_p"]))
    no_ids: Any = torch.zeros((1, 0), dtype=torch.long)
    result: Any = warpers(no_ids, scores[None].clone())
    return torch.softmax(result[0], -1)


@pytest.mark.parametrize("options", WARPERS, ids=str)
@pytest.mark.parametrize("kept", [1, 2, 12, VOCAB])
def test_tokens_left_by_fusion_are_drawn_as_from_the_whole_vocabulary(
    options: dict[str, Any], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        scores = random_scores(seed, kept)
        got = distribution(sampler(**({"temperature": 1.0} | options)), scores, monkeypatch)
        assert torch.allclose(got, reference(scores, options), atol=1e-6)


def test_top_p_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.full((VOCAB,), NEG_INF)
    scores[[5, 6, 7, 8]] = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    got = distribution(sampler(temperature=1, top_p=0.6), scores, monkeypatch)
    assert got[[5, 6, 7, 8]].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    got = distribution(sampler(temperature=1, min_p=0.25), scores, monkeypatch)
    assert got[[5, 6, 7, 8]].tolist() == pytest.approx([5 / 9, 2.5 / 9, 1.5 / 9, 0])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 4}], ids=str)
def test_draws_have_the_distribution(options: dict[str, Any]) -> None:
    scores = random_scores(7, 6) / 2
    chooser = sampler(**({"temperature": 1.0, "seed": 3} | options))
    count = 3000
    drawn = Counter(chooser.choose(scores) for _ in range(count))
    want = reference(scores, options)
    assert set(drawn) <= set(want.nonzero()[:, 0].tolist())
    expected = [(drawn[i], count * float(p)) for i, p in enumerate(want) if p > 0]
    chi_square = sum((got - wanted) ** 2 / wanted for got, wanted in expected)
    assert chi_square < 30  # at most 5 degrees of freedom: p < 1e-4


def test_scores_need_not_be_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = random_scores(8, 9)
    one = distribution(sampler(temperature=0.7), scores, monkeypatch)
    other = distribution(sampler(temperature=0.7), scores - 12.0, monkeypatch)
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    scores = random_scores(9, 5)
    chooser = sampler(temperature=1.0, seed=1)
    assert scores[chooser.choose(scores.to(dtype))] > NEG_INF


@pytest.mark.parametrize("options", [{}, {"top_k": 3, "top_p": 0.5, "min_p": 0.5, "seed": 1}])
def test_greedy_takes_the_best(options: dict[str, Any]) -> None:
    for seed in range(5):
        scores = random_scores(seed, 9)
        assert sampler(temperature=0, **options).choose(scores) == int(scores.argmax())


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-39, 1e-300])
def test_the_lowest_temperatures_are_greedy(temperature: float) -> None:
    scores = random_scores(5) * 10
    assert sampler(temperature=temperature, seed=0).choose(scores) == int(scores.argmax())


# ---------------------------------------------------------------------------------------------------------
# Seeds and generators


def draws(chooser: Sampler, count: int = 40) -> list[int]:
    return [chooser.choose(random_scores(i) / 4) for i in range(count)]


def test_the_same_seed_draws_the_same() -> None:
    first = draws(sampler(temperature=1.0, seed=11))
    assert draws(sampler(temperature=1.0, seed=11)) == first
    assert draws(sampler(temperature=1.0, seed=12)) != first
    assert draws(sampler(temperature=1.0, seed=0)) != draws(sampler(temperature=1.0, seed=-1))


def test_without_a_seed_every_call_draws_anew() -> None:
    torch.manual_seed(0)
    first = draws(sampler(temperature=1.0))
    torch.manual_seed(0)
    assert draws(sampler(temperature=1.0)) != first


def test_other_random_numbers_are_left_alone() -> None:
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    want = draws(sampler(temperature=1.0, seed=11))
    draws(sampler(temperature=1.0))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    torch.rand(7)  # and others' draws do not change ours
    assert draws(sampler(temperature=1.0, seed=11)) == want


def test_samplers_do_not_share_their_generator() -> None:
    want = draws(sampler(temperature=1.0, seed=5))
    one, other = sampler(temperature=1.0, seed=5), sampler(temperature=1.0, seed=6)
    got = []
    for i in range(40):
        got.append(one.choose(random_scores(i) / 4))
        other.choose(random_scores(i))
    assert got == want


# ---------------------------------------------------------------------------------------------------------
# Bookkeeping, constraints, forced tokens


class Countdown:
    """Allows only the next lower number, from 3 to 0."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    @property
    def finished(self) -> bool:
        return self.accepted[-1:] == [0]

    def allowed(self) -> Tensor:
        return torch.arange(VOCAB) == 3 - len(self.accepted)

    def accept(self, token: int) -> None:
        self.accepted.append(token)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_constraint_is_asked_and_told(temperature: float) -> None:
    constraint = Countdown()
    chooser = sampler(constraint, temperature=temperature)
    while not chooser.finished:
        allowed = chooser.allowed()
        assert allowed is not None
        chooser.choose(torch.where(allowed, random_scores(0), NEG_INF))
    assert chooser.ids == constraint.accepted == [3, 2, 1, 0]


def test_without_a_constraint_everything_is_allowed() -> None:
    chooser = sampler()
    chooser.choose(one_hot(4))
    chooser.choose(one_hot(9))
    assert chooser.ids == [4, 9]
    assert chooser.allowed() is None
    assert not chooser.finished


def test_forced_tokens() -> None:
    forced: TokenChooser = ForcedTokens((7, 3))
    assert forced.allowed() is None
    scores = one_hot(1)
    assert forced.process(scores) is scores
    left = ForcedTokens((7, 3))
    seen = [(left.choose(scores), left.finished) for _ in range(2)]
    assert seen == [(7, False), (3, True)]
    assert ForcedTokens(()).finished
