"""What client and plugin of vLLM say to each other comes through as it was meant."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.errors import InputError
from nbce_rag.fusion import RULES, rule_fields
from nbce_rag.models.model import Step
from nbce_rag.models.vllm.wire import (
    CHOSEN,
    FLOOR,
    GroupSpec,
    Hello,
    StepShape,
    carrier_ids,
    decode_step,
    encode_step,
)
from nbce_rag.options import Options

# vLLM's API gives nothing below it.
_LOWEST = -9999.0


numbers = st.floats(-1000, 1000, width=32)
log_probs = st.one_of(st.just(-math.inf), st.floats(-200, 0, width=32))
entropies = st.one_of(st.just(math.nan), st.floats(0, 12, width=32))


@st.composite
def steps(draw: st.DrawFn) -> tuple[Step, StepShape]:
    rows = draw(st.integers(1, 12))
    shape = StepShape(rows, draw(st.booleans()), draw(st.integers(0, 20)))

    def some(values: st.SearchStrategy[float], count: int) -> tuple[float, ...]:
        return tuple(draw(st.lists(values, min_size=count, max_size=count)))

    top = draw(st.lists(st.tuples(st.integers(0, 300_000), st.floats(-200, 0, width=32)), max_size=shape.top))
    step = Step(
        question=3,
        token=draw(st.one_of(st.integers(0, 40), st.integers(0, 300_000))),
        log_prob=draw(log_probs),
        evidence=some(st.floats(0, 1, width=32), rows - 1),
        gain=draw(numbers),
        entropies=some(entropies, rows) if shape.entropies else (),
        row_log_probs=some(log_probs, rows),
        top=tuple(top),
    )
    return step, shape


def returned(step: Step, shape: StepShape, place: int, *, softmax: bool) -> list[dict[int, float]]:
    """The log-probs that come back of a vocabulary in which the numbers were written."""
    rows = []
    for values in encode_step(place, step, shape):
        written = dict(zip(carrier_ids(step.token, shape.carriers), values, strict=True))
        by_token = dict.fromkeys(range(80), FLOOR) | written | {step.token: CHOSEN}
        tokens = list(by_token)
        logits = torch.tensor([by_token[token] for token in tokens])
        best = logits.topk(shape.logprobs)
        assert tokens[int(best.indices[0])] == step.token  # what greedy choice takes
        values = (logits.log_softmax(-1) if softmax else logits)[best.indices].tolist()
        rows.append({tokens[int(at)]: max(v, _LOWEST) for at, v in zip(best.indices, values, strict=True)})
    return rows


@given(steps(), st.integers(0, 100_000), st.booleans())
def test_a_step_comes_back_as_it_was(case: tuple[Step, StepShape], place: int, softmax: bool) -> None:
    step, shape = case
    rows = returned(step, shape, place, softmax=softmax)
    back = decode_step(3, place, [step.token] * shape.rows, rows, shape)
    assert back is not None
    assert repr(back) == repr(step)  # NaN is not itself


@given(steps(), st.data())
def test_a_step_that_lacks_anything_is_none(case: tuple[Step, StepShape], data: st.DataObject) -> None:
    step, shape = case
    tokens, rows = [step.token] * shape.rows, returned(step, shape, 5, softmax=True)
    assert decode_step(3, 4, tokens, rows, shape) is None  # of another place
    row = data.draw(st.integers(0, shape.rows - 1))
    others = [*tokens[:row], step.token + 1, *tokens[row + 1 :]]
    if shape.rows > 1:
        assert decode_step(3, 5, others, rows, shape) is None
        assert decode_step(3, 5, tokens[1:], rows[1:], shape) is None
    # A poisoned row has nothing but its token.
    bare = [*rows[:row], {step.token: CHOSEN, 50: _LOWEST}, *rows[row + 1 :]]
    assert decode_step(3, 5, tokens, bare, shape) is None


def test_few_numbers_a_row_do_however_many_are_asked_for() -> None:
    assert StepShape(9).logprobs == 5
    assert StepShape(9, entropies=True, top=20).logprobs == 12
    assert StepShape(2, top=5).carriers == 12


def test_a_step_of_another_shape_is_a_mistake() -> None:
    step = Step(0, 5, -1.0, (1.0,), 0.0, (), (-1.0, -2.0))
    with pytest.raises(ValueError, match="6 numbers"):
        encode_step(0, step, StepShape(3))


optional = st.one_of(st.none(), st.just(True))


@st.composite
def specs(draw: st.DrawFn) -> GroupSpec:
    rows = draw(st.integers(1, 6))

    def maybe(values: st.SearchStrategy[float]) -> tuple[float, ...] | None:
        if draw(optional) is None:
            return None
        return tuple(draw(st.lists(values, min_size=rows - 1, max_size=rows - 1)))

    rule = rule_fields(RULES.make(draw(st.sampled_from(list(RULES)))))
    assert rule is not None
    return GroupSpec(
        rows=rows,
        rule=rule,
        eos=tuple(draw(st.lists(st.integers(0, 9), max_size=3))),
        poison=draw(st.integers(0, 9)),
        seed=draw(st.integers(0, 2**63)),
        sampling=draw(st.sampled_from([{}, {"temperature": 0.7, "top_k": 4}, {"repetition_penalty": 1.3}])),
        bad_words=tuple(draw(st.lists(st.text(min_size=1), max_size=2))),
        spellings={"no": (4, 5), " no": (6,)} if draw(st.booleans()) else {},
        json_schema=draw(st.one_of(st.none(), st.just('{"type": "object"}'))),
        scores=maybe(numbers),
        relevance=maybe(log_probs),
        refusal=maybe(st.floats(0, 1)),
        joint=maybe(st.sampled_from([0.0, 1.0])),
        entropies=draw(st.booleans()),
        top=draw(st.integers(0, 20)),
    )


@given(specs())
def test_a_group_comes_through_as_it_was(spec: GroupSpec) -> None:
    back = GroupSpec.loads(spec.dumps())
    assert back == spec
    options = back.options
    assert rule_fields(options.rule) == spec.rule
    assert options.seed == spec.seed
    assert options.bad_words == spec.bad_words


def test_numbers_of_a_rule_come_through() -> None:
    rule = RULES.make("posterior", epsilon=0.2, together=3)
    fields = rule_fields(rule)
    assert fields is not None
    spec = GroupSpec(rows=2, rule=fields, eos=(1,), poison=1)
    assert GroupSpec.loads(spec.dumps()).options.rule == Options(fusion=rule).rule


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99"),
        ({"unheard": 1}, "no unheard"),
        ({"scores": [0.5]}, "1 numbers for 2"),
        ({"rows": 0}, "rows=0"),
    ],
)
def test_what_is_no_group_is_refused(change: dict[str, object], message: str) -> None:
    spec = GroupSpec(rows=3, rule={"rule": "posterior"}, eos=(1,), poison=1)
    with pytest.raises(ValueError, match=message):
        GroupSpec.loads(json.dumps({**json.loads(spec.dumps()), **change}))
    with pytest.raises(ValueError, match="lacks"):
        GroupSpec.loads('{"version":1}')


def test_an_unknown_rule_shows_when_options_are_made() -> None:
    with pytest.raises(InputError, match="Unknown fusion rule 'vote'"):
        _ = GroupSpec(rows=2, rule={"rule": "vote"}, eos=(1,), poison=1).options


def test_a_plugin_says_what_it_is_within_an_error_of_the_server() -> None:
    hello = Hello("0.1.0", "0.33.0", ("posterior", "max"), grammar=True)
    assert Hello.find(f"Value error, {hello.dumps()} (and more)") == hello
    assert Hello.find("Unknown argument") is None
    assert Hello.find("nbce-rag plugin of an unknown kind") is None
