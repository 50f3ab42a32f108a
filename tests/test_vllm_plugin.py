"""The rows of a group inside vLLM, without vLLM: what is chosen, what is told of it, and what shows when rows
are not in step."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from table_model import TableModel, random_table
from torch import Tensor
from vllm_tools import group_of_spec

import nbce_rag.vllm_plugin.host as host
from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.errors import InputError, MissingDependencyError
from nbce_rag.fusion import RULES, rule_fields
from nbce_rag.models.model import RowPrompt, Step
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.models.vllm.wire import (
    CHOSEN,
    FLOOR,
    GROUP,
    HELLO,
    ROWS,
    SPEC,
    GroupSpec,
    Hello,
    decode_step,
)
from nbce_rag.vllm_plugin.groups import Groups, Seat
from nbce_rag.vllm_plugin.host import check_hooks, check_host, check_version
from nbce_rag.vllm_plugin.member import ROW, Member, check_params, member_of
from nbce_rag.vllm_plugin.processor import ProcessorMixin

VOCABULARY = 60
EOS, POISON = 1, 3
ROWS_OF = 4


class Moves(enum.Enum):
    """Stands for vLLM's directions."""

    UNIDIRECTIONAL = 0
    SWAP = 1


@dataclass(frozen=True)
class Params:
    """Stands for vLLM's `SamplingParams`."""

    extra_args: dict[str, Any] | None
    temperature: float = 0.0
    n: int = 1
    logprobs: int | None = 30
    stop_token_ids: Sequence[int] = (EOS, POISON)
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    ignore_eos: bool = True


def spec_of(rule: str = "posterior", rows: int = ROWS_OF, **changes: Any) -> GroupSpec:
    fields: dict[str, Any] = {
        "scores": (0.5, 0.3, 0.9),
        "relevance": (0.1, 2.0, -1.0),
        "refusal": (0.2, 0.1, 0.6),
    }
    if rows != ROWS_OF:
        fields = {}
    numbers = rule_fields(RULES.make(rule))
    assert numbers is not None
    return GroupSpec(rows=rows, rule=numbers, eos=(EOS,), poison=POISON, **(fields | changes))


def arguments_of(spec: GroupSpec, group: str = "a", row: int | None = None) -> dict[str, Any]:
    arguments = {GROUP: group, ROWS: spec.rows, SPEC: spec.dumps()}
    return arguments if row is None else {**arguments, ROW: row}


def no_tokenizer() -> Any:
    raise AssertionError("no group here has a grammar")


def seats_of(spec: GroupSpec, place: int, *, group: str = "a", first: int = 0) -> list[Seat]:
    return [Seat(first + row, Member(group, row, spec), place) for row in range(spec.rows)]


def prompts(rows: int) -> list[tuple[int, ...]]:
    return [(10 + row, 20, 30) for row in range(rows)]


def logits_of(rows: Sequence[tuple[int, ...]], answer: Sequence[int]) -> Tensor:
    """What a model says behind some prompts and an answer: logits, shifted as a softmax does not notice."""
    table = random_table(VOCABULARY)
    return torch.stack([table((*ids, *answer)) + place for place, ids in enumerate(rows)])


def told(logits: Tensor, seats: Sequence[Seat], place: int) -> Step | None:
    """What a client reads of the logits of a step."""
    log_probs = logits.log_softmax(-1)
    spec = seats[0].member.spec
    rows = [log_probs[seat.at] for seat in seats]
    by_row = [{id: max(float(value), -9999.0) for id, value in enumerate(row)} for row in rows]
    return decode_step(0, place, [int(row.argmax()) for row in rows], by_row, spec.shape)


def by_plugin(spec: GroupSpec, tokens: int) -> list[Step]:
    """An answer of so many tokens by the plugin."""
    groups, steps = Groups(no_tokenizer), []
    answer: list[int] = []
    for place in range(tokens):
        logits = logits_of(prompts(spec.rows), answer)
        seats = seats_of(spec, place)
        groups.choose(logits, seats)
        step = told(logits, seats, place)
        assert step is not None
        steps.append(step)
        answer.append(step.token)
    return steps


def by_decoder(spec: GroupSpec, tokens: int) -> list[Step]:
    """The same by our own loop."""
    model = TableModel(random_table(VOCABULARY), vocab_size=VOCABULARY)
    contexts = tuple(ids[:1] for ids in prompts(spec.rows))
    rows, [reading] = model.open([RowPrompt(contexts=contexts, suffix=(20, 30))], tokens + 1)
    decoder = LockstepDecoder(rows, reading.log_probs, [group_of_spec(spec)])
    return [step for _ in range(tokens) for step in decoder.step()]


def assert_same(steps: Sequence[Step], expected: Sequence[Step]) -> None:
    assert [step.token for step in steps] == [step.token for step in expected]
    for step, other in zip(steps, expected, strict=True):
        assert step.log_prob == pytest.approx(other.log_prob, abs=1e-4)
        assert step.evidence == pytest.approx(other.evidence, abs=1e-4)
        assert step.gain == pytest.approx(other.gain, abs=1e-4)
        assert step.row_log_probs[0] == pytest.approx(other.row_log_probs[0], abs=1e-4)
        for ours, theirs, share in zip(
            step.row_log_probs[1:], other.row_log_probs[1:], other.evidence, strict=True
        ):  # rows without weight run along in vLLM; our own loop does not read them
            assert ours == pytest.approx(theirs, abs=1e-4) or (theirs == -math.inf and share == 0)
        assert step.entropies == pytest.approx(other.entropies, abs=1e-3)
        assert [token for token, _ in step.top] == [token for token, _ in other.top]


@pytest.mark.parametrize("rule", list(RULES))
def test_a_group_is_answered_as_by_our_own_loop(rule: str) -> None:
    spec = spec_of(rule, entropies=True, top=3)
    assert_same(by_plugin(spec, 12), by_decoder(spec, 12))


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.9},
        {"temperature": 1.0, "top_k": 7, "top_p": 0.9},
        {"temperature": 0.7, "min_p": 0.02, "repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
    ],
)
@pytest.mark.parametrize("rule", ["mean", "posterior"])
def test_a_draw_is_the_same_for_a_seed(rule: str, sampling: dict[str, Any]) -> None:
    spec = spec_of(rule, sampling=sampling, seed=11)
    steps = by_plugin(spec, 12)
    assert_same(steps, by_decoder(spec, 12))
    assert_same(steps, by_plugin(spec, 12))


def test_words_are_banned_by_the_spellings_that_came_along() -> None:
    plain = by_plugin(spec_of("mean"), 4)
    first = plain[1].token
    spec = spec_of("mean", bad_words=("no",), spellings={"no": (first,), " no": (first, 7)})
    steps = by_plugin(spec, 4)
    assert first not in [step.token for step in steps]
    assert_same(steps, by_decoder(spec, 4))


def test_a_question_without_passages_has_one_row() -> None:
    spec = spec_of("posterior", rows=1)
    steps = by_plugin(spec, 6)
    assert_same(steps, by_decoder(spec, 6))
    assert steps[0].evidence == ()


def test_a_grammar_holds(tiny_tokenizer: Any) -> None:
    pytest.importorskip("llguidance")
    from nbce_rag.decoding.grammar import Constraint

    tokenizer = TransformersTokenizer(tiny_tokenizer)
    width = len(tiny_tokenizer)
    eos = tiny_tokenizer.eos_token_id
    spec = GroupSpec(rows=2, rule={"rule": "mean"}, eos=(eos,), poison=eos, regex="(yes|no) [0-9]{3}")
    groups, place = Groups(lambda: tokenizer), 0
    answer: list[int] = []
    table = random_table(width)
    while not answer or answer[-1] != eos:
        logits = torch.stack([table((row, *answer)) for row in range(2)])
        seats = seats_of(spec, place)
        groups.choose(logits, seats)
        step = told(logits, seats, place)
        assert step is not None
        answer.append(step.token)
        place += 1
    text = tokenizer.decode(answer[:-1])
    constraint = Constraint(tokenizer, regex=spec.regex, vocab_size=width, eos_ids=frozenset([eos]))
    for token in answer:
        constraint.accept(token)  # raises where it may not come
    assert len(text) >= 6


def test_several_groups_and_others_rows_in_one_step() -> None:
    """Rows may stand anywhere; what belongs to nobody is left alone."""
    one, other = spec_of("posterior"), spec_of("mean", rows=3)
    groups, answers = Groups(no_tokenizer), {"a": [], "b": []}  # type: ignore[var-annotated]
    places = {"a": [6, 0, 3, 7], "b": [1, 5, 2]}
    for place in range(5):
        logits = torch.randn(8, VOCABULARY)
        for id, spec in (("a", one), ("b", other)):
            logits[places[id]] = logits_of(prompts(spec.rows), answers[id])
        plain = logits[4].clone()
        seats = [
            Seat(at, Member(id, row, spec), place)
            for id, spec in (("a", one), ("b", other))
            for row, at in enumerate(places[id])
        ]
        groups.choose(logits, seats[::-1])
        assert torch.equal(logits[4], plain)
        for id in ("a", "b"):
            step = told(logits, [seat for seat in seats if seat.member.group == id], place)
            assert step is not None
            answers[id].append(step.token)
    assert answers["a"] == [step.token for step in by_decoder(one, 5)]
    assert answers["b"] == [step.token for step in by_decoder(other, 5)]


def test_what_is_told_outlives_the_draws_of_others() -> None:
    """Where somebody else's row is cut by top_p, vLLM cuts all rows of the step, ours by 1."""
    spec = spec_of("posterior", entropies=True, top=3)
    logits = logits_of(prompts(ROWS_OF), ())
    seats = seats_of(spec, 0)
    Groups(no_tokenizer).choose(logits, seats)
    expected = told(logits, seats, 0)
    ascending, order = logits.sort(dim=-1)
    is_cut = ascending.softmax(-1).cumsum(-1) <= 0
    logits = ascending.masked_fill(is_cut, float("-inf")).scatter(
        -1, order, ascending.masked_fill(is_cut, float("-inf"))
    )
    assert bool(logits.isneginf().any())
    assert expected is not None
    assert told(logits, seats, 0) == expected


def poisoned(logits: Tensor, at: Sequence[int]) -> bool:
    return all(
        float(logits[row, POISON]) == CHOSEN and int((logits[row] == FLOOR).sum()) == VOCABULARY - 1
        for row in at
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda seats: seats[:-1],
        lambda seats: [seats[0], seats[0], *seats[2:]],
        lambda seats: [*seats[:-1], Seat(3, seats[3].member, 1)],
        lambda seats: [Seat(seat.at, seat.member, 2) for seat in seats],
    ],
    ids=["one is missing", "one is there twice", "one is a token ahead", "all have skipped one"],
)
def test_rows_that_are_not_in_step_are_poisoned(change: Callable[[list[Seat]], list[Seat]]) -> None:
    spec = spec_of("mean")
    groups = Groups(no_tokenizer)
    seats = change(seats_of(spec, 0))
    logits = logits_of(prompts(ROWS_OF), ())
    groups.choose(logits, seats)
    assert poisoned(logits, [seat.at for seat in seats])
    assert told(logits, seats_of(spec, 0), 0) is None
    assert len(groups) == 0


def test_a_first_token_that_was_thrown_away_is_chosen_anew() -> None:
    """In the middle of a prompt vLLM asks for a token that nobody sees, and does not say so."""
    spec = spec_of("posterior", sampling={"temperature": 1.0})
    groups = Groups(no_tokenizer)
    answer: list[int] = []
    for _ in range(3):
        groups.choose(torch.randn(ROWS_OF, VOCABULARY), seats_of(spec, 0))
    for place in range(6):
        logits = logits_of(prompts(ROWS_OF), answer)
        groups.choose(logits, seats_of(spec, place))
        step = told(logits, seats_of(spec, place), place)
        assert step is not None
        answer.append(step.token)
    assert answer == [step.token for step in by_decoder(spec, 6)]


def test_an_error_ends_its_group_alone(caplog: pytest.LogCaptureFixture) -> None:
    spec, other = spec_of("mean"), spec_of("mean")
    groups = Groups(no_tokenizer)
    logits = logits_of(prompts(2 * ROWS_OF), ())
    logits[1] = float("nan")
    seats = seats_of(spec, 0) + seats_of(other, 0, group="b", first=ROWS_OF)
    groups.choose(logits, seats)
    assert poisoned(logits, range(ROWS_OF))
    assert told(logits, seats[ROWS_OF:], 0) is not None
    assert "NaN" in caplog.text


def test_a_grammar_that_cannot_be_ends_its_group(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("llguidance")
    spec = spec_of("mean", json_schema='{"type": "nothing"}')
    logits = logits_of(prompts(ROWS_OF), ())
    Groups(lambda: TransformersTokenizer(tiny_tokenizer)).choose(logits, seats_of(spec, 0))
    assert poisoned(logits, range(ROWS_OF))
    assert "cannot be used" in caplog.text


def test_groups_that_are_over_are_forgotten() -> None:
    groups = Groups(no_tokenizer, most=3)
    spec = spec_of("mean")
    for number in range(10):
        groups.choose(logits_of(prompts(ROWS_OF), ()), seats_of(spec, 0, group=str(number)))
    assert len(groups) == 3


def processor(**parts: Any) -> ProcessorMixin:
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=8),
        model_config=SimpleNamespace(tokenizer="nowhere", trust_remote_code=False),
    )
    return ProcessorMixin(config, *parts.values())


def test_v1_requests_come_leave_and_change_places() -> None:
    spec = spec_of("posterior")
    there = processor(device="cpu", is_pin_memory=False)
    assert not there.is_argmax_invariant()
    outputs: list[list[int]] = [[] for _ in range(ROWS_OF)]
    added: list[Any] = [
        (row + 1, Params(arguments_of(spec, row=row)), [], outputs[row]) for row in range(ROWS_OF)
    ]
    there.update_state(SimpleNamespace(removed=[], added=[(0, Params(None), [], []), *added], moved=[]))
    at = [1, 2, 3, 4]
    for place in range(6):
        if place == 2:  # swapped with one of nobody's, and with one another
            there.update_state(
                SimpleNamespace(removed=[], added=[], moved=[(0, 1, Moves.SWAP), (3, 4, Moves.SWAP)])
            )
            at = [0, 2, 4, 3]
        if place == 4:  # the first left, and the last one moves up
            there.update_state(SimpleNamespace(removed=[1], added=[], moved=[(4, 1, Moves.UNIDIRECTIONAL)]))
            at = [0, 2, 1, 3]
        there.update_state(None)
        logits = torch.randn(5, VOCABULARY)
        logits[at] = logits_of(prompts(ROWS_OF), outputs[0])
        seats = [Seat(row, Member("a", number, spec), place) for number, row in enumerate(at)]
        assert there.apply(logits) is logits
        step = told(logits, seats, place)
        assert step is not None
        for tokens in outputs:
            tokens.append(step.token)
    assert outputs[0] == [step.token for step in by_decoder(spec, 6)]
    there.update_state(SimpleNamespace(removed=[0, 1, 2, 3], added=[], moved=[]))
    logits = torch.randn(5, VOCABULARY)
    assert torch.equal(there.apply(logits.clone()), logits)


def test_v2_tells_which_rows_count() -> None:
    spec = spec_of("posterior")
    numbers = SimpleNamespace(
        prompt_len=SimpleNamespace(np=np.zeros(8, dtype=int)),
        prefill_len=SimpleNamespace(np=np.zeros(8, dtype=int)),
    )
    there = processor(states=numbers)
    lengths, slots = [5, 9, 7, 6], [3, 7, 1, 4]
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        numbers.prompt_len.np[slot] = numbers.prefill_len.np[slot] = length
        assert there.add_request(slot, Params(arguments_of(spec, row=row)))
    assert not there.add_request(2, Params(None))
    there.apply_staged_writes()
    answer: list[int] = []

    def context(order: Sequence[int], lengths: Sequence[int]) -> Any:
        return SimpleNamespace(idx_mapping_np=np.array(order), seq_lens_upper_bound_np=np.array(lengths))

    # All in the middle of their prompts: nobody sees these.
    logits = torch.randn(5, VOCABULARY)
    before = logits.clone()
    there.apply(logits, context([7, 2, 3, 1, 4], [8, 4, 4, 6, 5]))
    assert torch.equal(logits, before)
    for place in range(5):
        logits = torch.randn(5, VOCABULARY)
        logits[[2, 0, 3, 4]] = logits_of(prompts(ROWS_OF), answer)
        there.apply(logits, context([7, 2, 3, 1, 4], [9 + place, 4, 5 + place, 7 + place, 6 + place]))
        seats = [Seat(at, Member("a", row, spec), place) for row, at in enumerate([2, 0, 3, 4])]
        step = told(logits, seats, place)
        assert step is not None
        answer.append(step.token)
    assert answer == [step.token for step in by_decoder(spec, 5)]
    # One row is still in its prompt: those that count are poisoned, it is left alone.
    logits = torch.randn(4, VOCABULARY)
    before = logits.clone()
    there.apply(logits, context(slots, [5, 8, 7, 6]))
    assert poisoned(logits, [0, 2, 3])
    assert torch.equal(logits[1], before[1])
    # Its slot goes to somebody else.
    there.add_request(7, Params({}))
    logits = torch.randn(1, VOCABULARY)
    assert torch.equal(there.apply(logits.clone(), context([7], [3])), logits)


def test_what_a_row_may_not_ask_for() -> None:
    spec = spec_of("posterior")
    check_params(Params(None))
    check_params(Params(None, temperature=1.0, repetition_penalty=2.0))
    check_params(Params(arguments_of(spec)))
    for changes, message in [
        ({"temperature": 0.5}, "temperature"),
        ({"n": 2}, "n=2"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"logit_bias": {3: 1.0}}, "logit_bias"),
        ({"ignore_eos": False}, "ignore_eos"),
        ({"stop_token_ids": [EOS]}, "stop_token_ids"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": None}, "logprobs"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_params(Params(arguments_of(spec), **changes))  # type: ignore[arg-type]


def test_arguments_that_are_none() -> None:
    spec = spec_of("posterior")
    assert member_of(None) is None
    assert member_of({"other": 1}) is None
    assert member_of(arguments_of(spec, row=2)) == Member("a", 2, spec)
    changes: list[tuple[dict[str, Any], str]] = [
        ({ROWS: 3}, "rows"),
        ({ROW: 4}, "is not within"),
        ({SPEC: "{}"}, "version"),
        ({SPEC: "no"}, "Expecting value"),
    ]
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            member_of({**arguments_of(spec), **change})
    with pytest.raises(ValueError, match="Unknown fusion rule"):
        check_params(Params(arguments_of(GroupSpec(rows=1, rule={"rule": "none"}, eos=(1,), poison=3))))


def test_the_plugin_says_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="plugin") as raised:
        check_params(Params({HELLO: 1}))
    hello = Hello.find(str(raised.value))
    assert hello is not None
    assert hello.rules == tuple(RULES)
    monkeypatch.setenv("NBCE_VLLM", "off")
    with pytest.raises(ValueError, match="no groups"):
        check_params(Params(arguments_of(spec_of())))


class Right:
    """A scheduler that keeps groups."""


def config_of(**changes: Any) -> Any:
    values = {
        "scheduler": Right,
        "mode": "processed_logprobs",
        "speculative": None,
        "sharded": False,
        "connector": None,
        "policy": "fcfs",
        "chunked": True,
    } | changes
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(
            get_scheduler_cls=lambda: values["scheduler"],
            policy=values["policy"],
            enable_chunked_prefill=values["chunked"],
        ),
        model_config=SimpleNamespace(logprobs_mode=values["mode"]),
        speculative_config=values["speculative"],
        kv_transfer_config=values["connector"],
        parallel_config=SimpleNamespace(enable_batch_sharded_sampling=values["sharded"]),
    )


def test_a_server_that_could_not_answer_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "vllm_version", lambda: f"{host.VLLM}.1")
    check_host(config_of(), Right)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"scheduler": object}, "--scheduler-cls nbce_rag.vllm_plugin"),
        ({"mode": "raw_logprobs"}, "processed_logprobs"),
        ({"speculative": object()}, "speculative"),
        ({"sharded": True}, "batch-sharded"),
        ({"connector": object()}, "kv-transfer-config"),
        ({"policy": "priority"}, "fcfs"),
        ({"chunked": False}, "chunked prefill"),
    ]
    for changes, message in wrong:
        with pytest.raises(InputError, match=message) as raised:
            check_host(config_of(**changes), Right)
        assert "NBCE_VLLM=off" in str(raised.value)


@pytest.mark.parametrize("version", ["", "0.31.2", "0.33.0", "1.0"])
def test_another_vllm_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "vllm_version", lambda: version)
    with pytest.raises(MissingDependencyError, match="pip install"):
        check_version()


def test_a_scheduler_without_the_methods_is_refused() -> None:
    class Other:
        def schedule(self) -> None: ...

    check_hooks(Other, ("schedule",))
    with pytest.raises(MissingDependencyError, match="has no _free_request"):
        check_hooks(Other, ("schedule", "_free_request"))
