"""Prompt lookup changes the speed alone; rows that do not matter may be dropped."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from engine_reference import PASSAGES, QUESTION, TEMPLATE, engine_of
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES
from watched_model import watched

from nbce_rag import NBCE, Experts, Fused, FusionState, Max, Mean, MinEntropy, Posterior
from nbce_rag.answers.answer import Answer
from nbce_rag.decoding.drafting import PromptLookup
from nbce_rag.decoding.group import Group
from nbce_rag.engine import generation
from nbce_rag.errors import InputError

Make = Callable[..., NBCE]

tokens = st.lists(st.integers(0, 3), max_size=12)


def trusted(contexts: Sequence[Sequence[int]], most: int) -> PromptLookup:
    lookup = PromptLookup(contexts, most)
    lookup.judge(1, 1)
    return lookup


@given(context=tokens, answer=tokens, room=st.integers(0, 9), most=st.integers(1, 9))
def test_a_draft_follows_the_longest_match(
    context: list[int], answer: list[int], room: int, most: int
) -> None:
    draft = trusted([[9], context], most).draft(answer, 1, room)
    assert len(draft) <= min(room, most)
    best = 0  # longest end of the answer, up to four tokens, that stands in the context before something
    for n in range(1, min(4, len(answer)) + 1):
        places = [i for i in range(len(context) - n) if context[i : i + n] == answer[-n:]]
        if len(places) > (0 if n > 1 else 1) or len(places) == 1:
            best = n if n > 1 or len(places) == 1 else best
    if not best:
        assert draft == ()
    elif room:
        assert draft
        starts = [
            i + best
            for i in range(len(context) - best)
            if context[i : i + best] == answer[len(answer) - best :]
        ]
        assert any(tuple(context[start : start + len(draft)]) == draft for start in starts)


def test_one_token_matches_only_while_drafts_are_right() -> None:
    context = [[5, 6, 7, 8, 1, 2]]
    lookup = PromptLookup(context, 8)
    assert lookup.draft([3, 5], 0, 9) == ()
    assert lookup.draft([5, 6], 0, 9) == (7, 8)
    lookup.judge(2, 2)
    assert lookup.draft([3, 5], 0, 9) == (6, 7, 8, 1)


def test_drafts_grow_while_they_are_right_and_pause_when_they_are_wrong() -> None:
    context = [list(range(40))]
    lookup = PromptLookup(context, 8)

    def length() -> int:
        return len(lookup.draft([0, 1], 0, 99))

    assert length() == 2
    for accepted, wanted in ((2, 4), (4, 8), (8, 8), (3, 4)):
        lookup.judge(length(), accepted)
        assert length() == wanted
    lookup.judge(4, 0)
    assert [length() for _ in range(2)] == [0, 2]  # one step without, then a short one
    lookup.judge(2, 0)
    assert [length() for _ in range(4)] == [0, 0, 0, 2]
    lookup.judge(2, 2)
    lookup.judge(4, 0)
    assert [length() for _ in range(2)] == [0, 2]  # a success is forgiving


class Oracle:
    """Drafts what the answer without drafts went on with, some of it spoiled."""

    def __init__(self, answer: Sequence[int], spoil: float, seed: int = 0) -> None:
        self.answer, self.spoil, self.rng = list(answer), spoil, random.Random(seed)
        self.accepted = self.drafted = 0

    def draft(self, answer: Sequence[int], leading: int, room: int) -> tuple[int, ...]:
        size = min(room, self.rng.randint(0, 5))
        right = self.answer[len(answer) : len(answer) + size]
        return tuple(3 if self.rng.random() < self.spoil else token for token in right)

    def judge(self, drafted: int, accepted: int) -> None:
        self.drafted += drafted
        self.accepted += accepted


def answer_with(
    nbce: NBCE, lookup: Oracle | None, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Answer, list[int], int]:
    """The answer, its token ids and the number of forward passes of the decoder."""
    chosen: list[int] = []
    notice = Group.notice
    nbce, model = watched(nbce)

    def noticed(self: Any, token: int, *of_token: Any) -> tuple[float, ...]:
        chosen.append(token)
        return notice(self, token, *of_token)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "notice", noticed)
        patch.setattr(generation, "PromptLookup", lambda contexts, most: lookup)
        drafts = 0 if lookup is None else 8
        answer = nbce.answer(QUESTION, PASSAGES, prompt_lookup_num_tokens=drafts, **options)
    return answer, chosen, len(model.steps)


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_drafts_change_no_token(
    family: str, sampled: bool, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce(family, prompt=TEMPLATE)
    options: dict[str, Any] = {"max_tokens": 24}
    if sampled:
        options |= {"temperature": 1.5, "seed": 5, "repetition_penalty": 1.2, "top_p": 0.95}
    plain, ids, passes = answer_with(nbce, None, monkeypatch, **options)
    assert passes == len(ids) - 1
    for spoil in (0.0, 0.3, 1.0):
        oracle = Oracle(ids, spoil, seed=len(ids))
        drafted, drafted_ids, fewer = answer_with(nbce, oracle, monkeypatch, **options)
        assert drafted_ids == ids
        assert drafted.text == plain.text
        assert drafted.finish_reason == plain.finish_reason
        for ours, theirs in zip(drafted.tokens, plain.tokens, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
            assert ours.weights == pytest.approx(theirs.weights, abs=1e-3)
        assert fewer <= passes - oracle.accepted  # the last draft is not judged
        assert fewer == passes if spoil == 1.0 else fewer < passes
        assert oracle.accepted == 0 if spoil == 1.0 else oracle.accepted > 0 or len(ids) < 6
    assert len(set(ids)) > 2  # a model that repeats one token would prove little


@pytest.mark.parametrize("rule", [MinEntropy(), Mean(), Max(), Experts(), Posterior()], ids=lambda r: r.name)
def test_drafts_change_no_token_of_any_rule(
    rule: Any, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce("gemma3", prompt=TEMPLATE, fusion=rule, max_tokens=16)
    _, ids, _ = answer_with(nbce, None, monkeypatch)
    oracle = Oracle(ids, 0.2)
    assert answer_with(nbce, oracle, monkeypatch)[1] == ids
    assert oracle.accepted


def test_real_lookups_are_accepted_where_an_answer_repeats_its_passage(make_nbce: Make) -> None:
    """A rule that quotes the first passage: passes are saved, and the text is the same."""
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=20))
    quoted = engine_of(nbce).plan(nbce.request(QUESTION, PASSAGES)).rows[1].context[3:]

    class Quote:
        name = "quote"

        def fuse(self, log_probs: torch.Tensor, state: FusionState) -> Fused:
            place = int(state.memory.get("place", torch.zeros(1)))
            state.memory["place"] = torch.tensor([place + 1.0])
            fused = torch.full_like(log_probs[:, 0], -10.0)
            fused[:, quoted[place % len(quoted)]] = 0.0
            weights = torch.zeros_like(log_probs[:, 1:, 0])
            weights[:, 0] = 1.0
            return Fused(fused, weights)

    plain = nbce.answer(QUESTION, PASSAGES, fusion=Quote(), prompt_lookup_num_tokens=0)
    assert {tokens for _, tokens in model.steps} == {1}
    without = len(model.steps)
    model.steps.clear()
    drafted = nbce.answer(QUESTION, PASSAGES, fusion=Quote())
    assert drafted.text == plain.text
    assert len(model.steps) < without / 2
    assert max(tokens for _, tokens in model.steps) > 4


def test_several_questions_are_drafted_for_only_when_one_is_left(
    make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce(prompt=TEMPLATE)
    requests = [nbce.request(QUESTION, PASSAGES, max_tokens=n) for n in (3, 9)]
    alone = [nbce.batch([request])[0].text for request in requests]
    asked: list[int] = []

    class Spy(PromptLookup):
        def draft(self, answer: Sequence[int], leading: int, room: int) -> tuple[int, ...]:
            asked.append(len(answer))
            return ()

    monkeypatch.setattr(generation, "PromptLookup", Spy)
    assert [answer.text for answer in nbce.batch(requests)] == alone
    assert asked == list(range(3, 9))


class First:
    """All weight on the first passage."""

    name = "first"

    def __init__(self) -> None:
        self.widths: list[int] = []

    def fuse(self, log_probs: torch.Tensor, state: FusionState) -> Fused:
        self.widths.append(log_probs.shape[1])
        weights = torch.zeros_like(log_probs[:, 1:, 0])
        weights[:, 0] = 1.0
        return Fused(log_probs[:, 1], weights)


def test_rows_that_do_not_matter_are_dropped_and_the_answer_says_so(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=12)
    whole, dropping = First(), First()
    n = len(PASSAGES)
    plain = nbce.answer(QUESTION, PASSAGES, fusion=whole)
    dropped = nbce.answer(QUESTION, PASSAGES, fusion=dropping, drop_rows_after=3)
    assert set(whole.widths) == {n + 1}
    assert dropping.widths == [n + 1] * 3 + [2] * (len(dropping.widths) - 3)
    assert dropped.text == plain.text
    assert all(token.weights == (1.0,) + (0.0,) * (n - 1) for token in dropped.tokens)
    assert not plain.warnings
    assert len(dropped.warnings) == 1
    assert f"{n - 1} of {n} passage rows were dropped" in dropped.warnings[0]


@pytest.mark.parametrize("rule", ["min-entropy", "mean", "max", "experts", "posterior"])
@pytest.mark.parametrize("drafts", [0, 8])
def test_every_rule_goes_on_with_fewer_rows(rule: str, drafts: int, make_nbce: Make) -> None:
    fusion = Posterior(least=0.0) if rule == "posterior" else rule  # its rows would not be read anyway
    nbce = make_nbce("gemma3", prompt=TEMPLATE, fusion=fusion, prompt_lookup_num_tokens=drafts)
    passages = [p for p in PASSAGES for _ in range(2)]
    scores = [0.9, 0.1, 0.2, 0.1] + [0.0] * len(passages)
    ranked = [
        type(p)(text=p.text, id=f"{i}", score=s)
        for i, (p, s) in enumerate(zip(passages, scores, strict=False))
    ]
    answer = nbce.answer(QUESTION, ranked, max_tokens=16, drop_rows_after=1)
    assert answer.tokens
    for token in answer.tokens:
        assert len(token.weights) == len(ranked)
        assert sum(token.weights) == pytest.approx(1.0, abs=1e-4)
    if rule == "posterior":
        assert answer.warnings  # the scores leave some without evidence at once


def test_impossible_numbers_are_refused(make_nbce: Make) -> None:
    for name in ("prompt_lookup_num_tokens", "drop_rows_after"):
        for value in (-1, 1.5, True, "8"):
            with pytest.raises(InputError, match=name):
                make_nbce(**{name: value})
