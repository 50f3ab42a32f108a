"""Rows of a group are scheduled together, over a scheduler that does in small what vLLM's does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from gang_tools import STOP, Clock, FakeBench, FakeRequest, FakeScheduler, Layout, Scheduled, Trial

import nbce_rag.vllm_plugin.gang as gang
from nbce_rag.models.vllm.wire import GROUP, ROWS
from nbce_rag.vllm_plugin.gang import row_of
from nbce_rag.vllm_plugin.member import ROW

ROOMY = Layout(slots=16, budget=64, blocks=400)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gang, "time", clock)
    return clock


def add(bench: FakeBench, group: str, row: int, *, size: int = 3, tokens: int = 40, most: int = 5) -> str:
    id = f"cmpl-{group}-{row}-0123abcd"
    bench.add(id, list(range(100, 100 + tokens)), most, {GROUP: group, ROWS: size})
    return id


def step(bench: FakeBench, token: int = 50) -> Scheduled:
    """One step; every request that has read its prompt writes a token."""
    done = bench.schedule()
    writing = {id: token for id in done.rows if not bench.gangs.requests[id].is_prefill_chunk}
    done.output.ends = bench.update(done, writing)
    return done


@pytest.mark.parametrize("block", range(8))
@pytest.mark.parametrize(
    ("depth", "is_async"),
    [(1, False), (2, True), (2, False), (3, True)],
    ids=["plain", "async", "pp2", "async3"],
)
def test_groups_at_random(block: int, depth: int, is_async: bool, clock: Clock) -> None:
    for seed in range(40 * block, 40 * block + 40):
        trial = Trial(seed, clock, depth=depth, is_async=is_async)
        trial.run(FakeBench(trial.layout))


def test_without_the_mixin_the_trial_finds_groups_torn(clock: Clock) -> None:
    """The proof that a trial sees what it is made to see."""

    class Alone(FakeScheduler):
        gangs: dict[str, Any] = {}  # noqa: RUF012
        counts = SimpleNamespace(torn=0)

    torn = 0
    for seed in range(20):
        trial = Trial(seed, clock)
        bench = FakeBench(trial.layout)
        bench.gangs = Alone(trial.layout)  # type: ignore[assignment]
        try:
            trial.run(bench)
        except AssertionError:
            torn += bool(trial.torn)
    assert torn > 10


def test_rows_wait_for_those_that_come_late(clock: Clock) -> None:
    bench = FakeBench(ROOMY)
    first = [add(bench, "a", row) for row in (0, 2)]
    for _ in range(5):
        assert step(bench).rows == {}
    last = add(bench, "a", 1)
    steps = [step(bench).rows for _ in range(4)]
    # 64 tokens a step: two rows read all but their last token in two steps, the third in the next.
    assert max(sum(new for _, new in rows.values()) for rows in steps) <= 64
    assert set(steps[2]) == {*first, last}
    assert {bench.gangs.requests[id].num_tokens for id in (*first, last)} == {42}


def test_a_row_that_never_comes(clock: Clock) -> None:
    bench = FakeBench(ROOMY)
    add(bench, "a", 0)
    add(bench, "a", 1)
    plain = "p"
    bench.add(plain, [1, 2, 3], 2, None)
    clock.now += bench.gangs.join_seconds - 1
    step(bench)
    assert len(bench.gangs.requests) == 3
    clock.now += 2
    ends = step(bench).output.ends
    assert {reason for id, reason in ends if id != plain} == {"2 of 3 rows after 20 s"}
    add(bench, "a", 2)  # too late
    assert [reason for _, reason in step(bench).output.ends] == ["the group has ended"]
    assert not bench.gangs.gangs


def test_one_row_that_leaves_takes_the_others_along(clock: Clock) -> None:
    bench = FakeBench(ROOMY)
    ids = [add(bench, "a", row, most=20) for row in range(3)]
    for _ in range(4):
        step(bench)
    bench.abort(ids[:1])
    ends = step(bench).output.ends
    assert sorted(ends) == [(id, "a row left the group") for id in ids[1:]]
    assert not bench.has_requests()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 0, 3), ("a", 0, 3)], "does not belong"),
        ([("a", 0, 3), ("a", 1, 4)], "does not belong"),
        ([("a", 3, 3)], "does not belong"),
    ],
)
def test_rows_that_do_not_belong(rows: list[tuple[str, int, int]], message: str, clock: Clock) -> None:
    bench = FakeBench(ROOMY)
    for number, (group, row, size) in enumerate(rows):
        bench.add(f"{number}-{row}-0123abcd", [1, 2, 3], 4, {GROUP: group, ROWS: size})
    ends = step(bench).output.ends
    assert len(ends) == len(rows)
    assert all(message in reason for _, reason in ends)


def test_a_prompt_of_one_token(clock: Clock) -> None:
    bench = FakeBench(ROOMY)
    add(bench, "a", 0, size=1, tokens=1)
    assert "fewer than two tokens" in step(bench).output.ends[0][1]


@pytest.mark.parametrize(
    ("layout", "size", "most", "message"),
    [
        (ROOMY, 20, 5, "slots of 16"),
        (Layout(slots=16, budget=64, blocks=10), 3, 50, "blocks of 9"),
        (Layout(slots=16, budget=64, blocks=400, window=50), 3, 20, "50 tokens"),
    ],
)
def test_a_group_that_never_fits_is_refused(
    layout: Layout, size: int, most: int, message: str, clock: Clock
) -> None:
    bench = FakeBench(layout)
    for row in range(size):
        add(bench, "a", row, size=size, most=most)
    reasons = {reason for _ in range(3) for _, reason in step(bench).output.ends}
    assert len(reasons) == 1
    assert message in reasons.pop()


def test_a_group_that_fits_later_waits_and_is_not_overtaken_for_ever(clock: Clock) -> None:
    bench = FakeBench(Layout(slots=4, budget=64, blocks=400))
    for number in range(3):
        bench.add(f"p{number}", [1, 2, 3], 30, None)
    step(bench)
    for row in range(3):
        add(bench, "a", row)
    step(bench)
    assert bench.gangs.counts.admitted == 0
    clock.now += 2
    bench.add("p3", [1, 2, 3], 30, None)
    step(bench)
    assert len(bench.gangs.running) == 3, "nobody is let in before a group that waits"
    bench.abort(["p0", "p1", "p2"])
    step(bench)
    assert bench.gangs.counts.admitted == 1


def test_what_the_worker_is_told(clock: Clock) -> None:
    """The row's number is written into a copy: the rows of a call may have the same arguments."""
    bench = FakeBench(ROOMY)
    shared = SimpleNamespace(extra_args={GROUP: "a", ROWS: 2})
    for row in range(2):
        bench.gangs.add_request(FakeRequest(f"cmpl-x-{row}-0123abcd", [1, 2, 3], 4, shared))
    told = [bench.gangs.requests[f"cmpl-x-{row}-0123abcd"].sampling_params.extra_args for row in range(2)]
    assert [arguments[ROW] for arguments in told] == [0, 1]
    assert ROW not in shared.extra_args


def test_single_requests_are_left_alone(clock: Clock) -> None:
    bench, alone = FakeBench(ROOMY), FakeScheduler(ROOMY)
    for number in range(6):
        prompt, params = list(range(50 + number)), SimpleNamespace(extra_args=None)
        bench.add(f"p{number}", prompt, 4, None)
        alone.add_request(FakeRequest(f"p{number}", prompt, 4, params))
    bench.gangs.add_request(FakeRequest("q", [1, 2], 3, None))
    alone.add_request(FakeRequest("q", [1, 2], 3, None))
    for _ in range(20):
        ours, theirs = bench.gangs.schedule(), alone.schedule()
        assert ours.rows == theirs.rows
        tokens = {
            id: STOP if id == "p3" else 50 for id in ours.rows if not alone.requests[id].is_prefill_chunk
        }
        assert bench.gangs.update_from_output(ours, tokens) == alone.update_from_output(theirs, tokens)
    assert not alone.has_requests()


@pytest.mark.parametrize(
    ("id", "arguments", "row"),
    [
        ("cmpl-0a-b-3-0123abcd", {}, 3),
        ("cmpl-x-12-0123abcd", {}, 12),
        ("x", {}, -1),
        ("cmpl-x-y-0123abcd", {}, -1),
        ("cmpl-x-3-0123abcd", {ROW: 1}, 1),
    ],
)
def test_which_row_a_request_is(id: str, arguments: dict[str, Any], row: int) -> None:
    assert row_of(id, arguments) == row
