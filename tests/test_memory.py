"""The share of the model's memory in a token, and what each row gave it, against slow references."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import TableModel, random_table
from view_tools import Page, an_answer

from nbce_rag import NBCE, FusionState, Options, Passage
from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.decoding.group import Group
from nbce_rag.decoding.sampling import Sampler
from nbce_rag.evidence.evidence import TokenEvidence
from nbce_rag.fusion import Rule
from nbce_rag.fusion.registry import RULES, resolve_rule
from nbce_rag.models.model import RowPrompt, Step
from nbce_rag.view import answer_html

WORDS = 12
FERRY = Passage("The ferry is run by Ada.", id="f", title="Ferry")
BREAD = Passage("Bread.", id="b", title="Bread")


def steps_of(
    seed: int, rule: Rule, contexts: Sequence[tuple[int, ...]], tokens: int, **of_group: bool
) -> list[Step]:
    model = TableModel(random_table(WORDS, seed=seed), vocab_size=WORDS)
    rows, (reading,) = model.open([RowPrompt(tuple(contexts), (3,))], tokens + 1)
    sampler = Sampler(Options(), None, frozenset())  # type: ignore[arg-type]
    scores = torch.tensor([[random.Random(seed + k).uniform(-1, 1) for k in range(len(contexts) - 1)]])
    group = Group(tuple(range(len(contexts))), rule, sampler, FusionState(scores=scores), **of_group)  # type: ignore[arg-type]
    decoder = LockstepDecoder(rows, reading.log_probs, [group])
    return [decoder.step()[0] for _ in range(tokens)]


def evidence(step: Step) -> TokenEvidence:
    return TokenEvidence(
        step.token, "x", 0, 1, step.log_prob, step.evidence, step.gain, row_log_probs=step.row_log_probs
    )


@pytest.mark.parametrize("name", list(RULES))
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_memory_and_rows_by_the_definition(name: str, seed: int, passages: int) -> None:
    rule = resolve_rule(name)
    contexts = [(row + 20, 5) for row in range(passages + 1)]
    steps = steps_of(seed, rule, contexts, 6)
    table = random_table(WORDS, seed=seed)
    scores = torch.tensor([[random.Random(seed + k).uniform(-1, 1) for k in range(passages)]])
    state, ids = FusionState(scores=scores), [[*context, 3] for context in contexts]
    for step in steps:
        block = torch.stack([table(tuple(row)) for row in ids])
        weights = rule.fuse(block[None], state).weights[0].double()
        of_token = block[:, step.token].double()
        for ours, theirs, weight in zip(
            step.row_log_probs, of_token.tolist(), [1.0, *weights.tolist()], strict=True
        ):  # a row without weight is read for the first token alone
            assert ours == pytest.approx(theirs, abs=1e-4) or (
                ours == -math.inf and weight == 0 and state.evidence is not None
            )
        mixture = float((weights * of_token[1:].exp()).sum())
        alone = math.exp(float(of_token[0]))
        assert evidence(step).memory == pytest.approx(alone / (alone + mixture), abs=1e-4)
        assert sum(step.evidence) == pytest.approx(1, abs=1e-5)
        joint = weights * of_token[1:].exp()
        state.evidence = (joint / joint.sum()).float()[None]
        for row in ids:
            row.append(step.token)


def test_rows_that_sleep_or_were_dropped_give_nothing() -> None:
    contexts = [(row + 20, 5) for row in range(6)]
    whole = steps_of(3, resolve_rule("posterior", tau=0.02), contexts, 40)
    for options in ({"sleep": True}, {"drop_after": 2}):
        steps = steps_of(3, resolve_rule("posterior", tau=0.02), contexts, 40, **options)
        assert [step.token for step in steps] == [step.token for step in whole]
        unread = 0
        for step, other in zip(steps, whole, strict=True):
            assert len(step.row_log_probs) == 6
            for mine, theirs, share in zip(
                step.row_log_probs[1:], other.row_log_probs[1:], step.evidence, strict=True
            ):
                unread += mine == -math.inf
                assert mine == pytest.approx(theirs, abs=1e-4) or (mine == -math.inf and share == 0)
        assert unread or "sleep" in options


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.0, 0.5), (math.log(3), 0.25), (-math.log(3), 0.75), (900.0, 0.0), (-900.0, 1.0)]
)
def test_memory_of_a_gain(gain: float, expected: float) -> None:
    token = TokenEvidence(1, "a", 0, 1, -0.5, (0.5, 0.5), gain)
    assert token.memory == pytest.approx(expected)
    assert TokenEvidence(1, "a", 0, 1, -0.5, (), gain).memory is None


def test_an_answer_has_the_mean_and_none_without_passages() -> None:
    answer = an_answer("run by Ada", [FERRY, BREAD], [(0.5, 0.5)])
    assert answer.memory == pytest.approx(1 / (1 + math.e))
    assert an_answer("run by Ada", [], [()]).memory is None
    assert an_answer("", [FERRY], [(1.0,)]).memory is None
    assert answer.to_dict()["memory"] == pytest.approx(answer.memory)


def test_the_page_and_the_picture_show_it() -> None:
    answer = an_answer("run by Ada", [FERRY, BREAD], [(0.5, 0.5)])
    page = Page(answer_html(answer))
    assert all("the model's memory 27%" in a["title"] for a, _ in page.all("span", "nbce-t"))
    assert "the model's memory has 27%" in page.text
    pytest.importorskip("matplotlib")
    right = answer.plot().axes[-1]
    (line,) = right.get_lines()
    assert [float(y) for y in line.get_ydata()] == pytest.approx([1 / (1 + math.e)] * 3)  # type: ignore[union-attr, arg-type]
    assert "memory" in right.get_ylabel()


def test_what_a_row_gave_does_not_count_when_tokens_are_compared(make_nbce: Callable[..., NBCE]) -> None:
    answer = make_nbce(max_tokens=3).answer("Who?", [FERRY, BREAD])
    bare = [TokenEvidence(t.id, t.text, t.start, t.end, t.logprob, t.weights, t.gain) for t in answer.tokens]
    assert list(answer.tokens) == bare
    assert all(len(token.row_log_probs) == 3 for token in answer.tokens)
