"""Whose turn it is: the queue and its bounds, fairness, leaving it, and how often a key may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from nbce_rag.server.access import Caller
from nbce_rag.server.admission import Admission, Rates
from nbce_rag.server.limits import Limits
from nbce_rag.server.wire.errors import ServerError

ANN, BEN = Caller("ann"), Caller("ben")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Bench:
    """Questions that hold their turns until they are let go; `order` has those whose turn came."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, caller: Caller = ANN, tokens: int = 10) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._ask(name, caller, tokens))
        await settle()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks[name]
        await settle()

    async def _ask(self, name: str, caller: Caller, tokens: int) -> None:
        with self.admission.place(caller, tokens) as place:
            await place.turn()
            self.order.append(name)
            await self._ends[name].wait()


def bench(**limits: int) -> Bench:
    return Bench(Admission(Limits(**limits)))


async def test_so_many_run_and_the_others_wait_in_their_order() -> None:
    room = bench(max_running=2, max_waiting=3)
    for name in "abcd":
        await room.ask(name)
    assert room.order == ["a", "b"]
    assert (room.admission.running, room.admission.waiting) == (2, 2)
    await room.end("b")
    assert room.order == ["a", "b", "c"]
    await room.end("a")
    assert room.order == ["a", "b", "c", "d"]
    await room.end("c")
    await room.end("d")
    assert (room.admission.running, room.admission.waiting) == (0, 0)


async def test_keys_take_turns_however_many_questions_one_has() -> None:
    room = bench(max_running=1)
    for name in ("a1", "a2", "a3"):
        await room.ask(name, ANN)
    for name in ("b1", "b2"):
        await room.ask(name, BEN)
    for name in ("a1", "a2", "b1", "a3", "b2"):
        assert room.order[-1] == name
        await room.end(name)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    reasons: list[str] = []
    room = Bench(Admission(Limits(max_running=1, max_waiting=1), reasons.append))
    await room.ask("a")
    await room.ask("b")
    with (
        pytest.raises(ServerError, match="1 questions wait already") as caught,
        room.admission.place(ANN, 1),
    ):
        pass
    assert caught.value.status == 429
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    assert reasons == ["queue_full"]
    await room.end("a")
    await room.ask("c")  # there is room again
    assert room.admission.waiting == 1
    await room.end("b")
    await room.end("c")


async def test_prompt_tokens_that_wait_are_bounded_too() -> None:
    reasons: list[str] = []
    room = Bench(Admission(Limits(max_running=1, max_waiting_tokens=100), reasons.append))
    await room.ask("a", tokens=5000)
    await room.ask("b", tokens=5000)  # one may always wait, or it would never be answered
    with pytest.raises(ServerError) as caught, room.admission.place(ANN, 1):
        pass
    assert (caught.value.status, reasons) == (429, ["queue_tokens"])
    await room.end("a")
    await room.end("b")


async def test_nobody_waits_where_nobody_may() -> None:
    room = bench(max_running=1, max_waiting=0)
    await room.ask("a")
    with pytest.raises(ServerError), room.admission.place(ANN, 1):
        pass
    await room.end("a")


async def test_who_leaves_the_queue_leaves_no_gap() -> None:
    room = bench(max_running=1)
    for name in "abc":
        await room.ask(name)
    room.tasks["b"].cancel()
    await settle()
    assert room.admission.waiting == 1
    await room.end("a")
    assert room.order == ["a", "c"]
    await room.end("c")
    assert (room.admission.running, room.admission.waiting) == (0, 0)


async def test_who_leaves_in_the_moment_of_its_turn_hands_it_on() -> None:
    room = bench(max_running=1)
    for name in "abc":
        await room.ask(name)
    room._ends["a"].set()
    await asyncio.sleep(0)  # a is done and b's turn has come, but b does not know
    assert (room.admission.waiting, room.order) == (1, ["a"])
    room.tasks["b"].cancel()
    await settle()
    await settle()
    assert room.order == ["a", "c"]
    await room.end("c")
    assert (room.admission.running, room.admission.waiting) == (0, 0)


async def test_an_error_gives_the_turn_back() -> None:
    room = bench(max_running=1)
    with pytest.raises(ValueError, match="broken"), room.admission.place(ANN, 1):
        raise ValueError("broken")
    assert room.admission.running == 0


async def test_the_time_to_come_back_follows_how_long_answers_take() -> None:
    clock = Clock()
    admission = Admission(Limits(max_running=1, max_waiting=0), clock=clock)

    async def answer(seconds: float) -> None:
        with admission.place(ANN, 1):
            clock.now += seconds

    for _ in range(40):
        await answer(20.0)
    assert admission.retry_after() == pytest.approx(20.0, rel=0.01)
    for _ in range(40):
        await answer(0.01)
    assert admission.retry_after() == 1.0
    for _ in range(40):
        await answer(5000.0)
    assert admission.retry_after() == 120.0


async def test_a_turn_says_how_long_it_was_waited_for() -> None:
    clock = Clock()
    admission = Admission(Limits(max_running=1), clock=clock)
    waits: list[float] = []

    async def ask(seconds: float) -> None:
        with admission.place(ANN, 1) as place:
            await place.turn()
            waits.append(place.waited)
            await asyncio.sleep(0)
            clock.now += seconds

    await asyncio.gather(ask(3.0), ask(1.0))
    assert waits == [0.0, 3.0]


def refused(take: Callable[[Caller], None], caller: Caller) -> float | None:
    """After how long the caller may ask again; None where it may now."""
    try:
        take(caller)
    except ServerError as error:
        return error.retry_after
    return None


def test_a_key_may_ask_so_often_and_then_evenly() -> None:
    clock = Clock()
    rates = Rates(clock)
    caller = Caller("ann", requests_per_minute=6)
    assert [refused(rates.take, caller) for _ in range(6)] == [None] * 6
    assert refused(rates.take, caller) == 10
    clock.now = 9.0
    assert refused(rates.take, caller) == 1
    clock.now = 10.0
    assert refused(rates.take, caller) is None
    assert refused(rates.take, Caller("ben", requests_per_minute=1)) is None
    clock.now = 10_000.0  # no more than a minute's worth is saved up
    assert [refused(rates.take, caller) is None for _ in range(7)] == [True] * 6 + [False]


def test_a_key_without_a_rate_may_ask_as_it_likes() -> None:
    rates = Rates(Clock())
    assert all(refused(rates.take, ANN) is None for _ in range(1000))
