"""One thread for all who ask: same answers as alone, nobody stalls, nobody else's error."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib.util
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_reference import PASSAGES, QUESTION, TEMPLATE, assert_same_answer
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import TableModel, TableRows, random_table
from watched_model import WatchedModel, watched

from nbce_rag import NBCE, Answer, MinEntropy, Passage, Posterior
from nbce_rag.engine import batch as batching
from nbce_rag.engine import worker as working
from nbce_rag.engine.scheduler import Load, Scheduler
from nbce_rag.engine.worker import worker_of
from nbce_rag.errors import AnswerTimeoutError, InputError, NbceWarning, NumericalError, StreamError
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer

Make = Callable[..., Any]


def until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


def whole(pieces: Any) -> Answer:
    """The answer that a ticket ends with."""
    *_, last = pieces
    answer: Answer = last.answer
    return answer


class Gate:
    """Lets a model's steps through one by one, or all of them.

    Attributes:
        log: "read" and "step" as the model does them, with the rows of each.
    """

    def __init__(self, model: WatchedModel) -> None:
        self._semaphore = threading.Semaphore(0)
        self._is_open = False
        self.log: list[tuple[str, int]] = []
        self.waits = 0
        inner: Any = model._model
        model.before_step = self._pass
        read, opened = inner.read, model.open

        def reading(contexts: Any, *args: Any, **options: Any) -> None:
            contexts = list(contexts)
            self.log.append(("read", sum(map(len, contexts))))
            read(contexts, *args, **options)

        def opening(prompts: Any, *args: Any, **options: Any) -> Any:
            self.log.append(("open", sum(len(prompt.contexts) for prompt in prompts)))
            return opened(prompts, *args, **options)

        self._undo = lambda: None
        model.read = reading  # type: ignore[attr-defined]
        model.open = opening  # type: ignore[method-assign]

    def _pass(self) -> None:
        self.log.append(("step", 0))
        if not self._is_open:
            self.waits += 1
            assert self._semaphore.acquire(timeout=60)
            self.waits -= 1

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            until(lambda: self.waits)
            before = len(self.log)
            self._semaphore.release()
            until(lambda before=before: len(self.log) > before or not self.waits)  # type: ignore[misc]

    def open(self) -> None:
        self._is_open = True
        self._semaphore.release(1000)


@pytest.fixture
def gated(make_nbce: Make) -> Iterator[Callable[..., tuple[Any, Gate]]]:
    """`gated(max_tokens=9)`: an engine of which each step has to be let through, and what does so."""
    gates: list[Gate] = []

    def make(family: str = "llama", **options: Any) -> tuple[Any, Gate]:
        nbce, model = watched(make_nbce(family, prompt=TEMPLATE, **options))
        gate = Gate(model)
        gates.append(gate)
        return nbce, gate

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture
def table(tiny_tokenizer: Any) -> Callable[..., NBCE]:
    """`table(max_tokens=4)`: an engine on a random table; `free=` and the like go to the backend."""

    def make(**options: Any) -> NBCE:
        backend = {name: options.pop(name) for name in ("free", "window", "table") if name in options}
        size = len(tiny_tokenizer)
        made = backend.pop("table", None) or random_table(size)
        tokenizer = TransformersTokenizer(tiny_tokenizer)
        model = TableModel(made, vocab_size=size, tokenizer=tokenizer, **backend)
        return NBCE(model, prompt=TEMPLATE, **{"max_tokens": 8, **options})

    return make


# Answers

QUESTIONS = st.fixed_dictionaries(
    {
        "question": st.sampled_from(["Who?", "When does the market open?", "Why is that?"]),
        "passages": st.lists(st.sampled_from(PASSAGES), max_size=4, unique=True),
        "max_tokens": st.integers(1, 12),
        "fusion": st.sampled_from(["posterior", "min-entropy", "mean"]),
        "temperature": st.sampled_from([0.0, 0.0, 1.2]),
        "seed": st.integers(0, 3),
        "after": st.integers(0, 4),  # steps before it is asked
        "leaves": st.one_of(st.none(), st.none(), st.integers(0, 6)),  # pieces that are drawn
        "breaks": st.sampled_from([False, False, False, True]),
    }
)


@pytest.mark.filterwarnings("ignore:No passages were given")
@settings(max_examples=25, deadline=None)
@given(st.lists(QUESTIONS, min_size=1, max_size=6))
def test_answers_are_those_of_each_alone(tiny_tokenizer: Any, cases: list[dict[str, Any]]) -> None:
    size = len(tiny_tokenizer)
    tokenizer = TransformersTokenizer(tiny_tokenizer)
    broken = tokenizer.encode("broken")

    def log_probs(ids: tuple[int, ...]) -> Any:
        values = random_table(size)(ids)
        is_broken = any(ids[at : at + len(broken)] == broken for at in range(len(ids)))
        return values * float("nan") if is_broken and len(ids) % 7 == 0 else values

    nbce = NBCE(TableModel(log_probs, vocab_size=size, tokenizer=tokenizer), prompt=TEMPLATE, sleep=True)
    steps = threading.Semaphore(0)
    step = batching.Batch.step

    def counted(batch: Any) -> None:
        step(batch)
        steps.release()

    tickets: list[tuple[dict[str, Any], Any, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching.Batch, "step", counted)
        for case in cases:
            asked = {n: v for n, v in case.items() if n not in ("after", "leaves", "breaks")}
            if case["breaks"]:
                asked["question"] += " broken"
            for _ in range(case["after"] if tickets else 0):
                steps.acquire(timeout=0.02)
            request = nbce.request(asked.pop("question"), asked.pop("passages"), **asked)
            tickets.append((case, request, nbce.scheduler.submit(request)))
        for case, request, ticket in tickets:
            if case["leaves"] is not None:
                drawn = (
                    [piece for piece, _ in zip(ticket, range(case["leaves"]), strict=False)]
                    if not (case["breaks"])
                    else []
                )
                ticket.close()
                assert next(ticket, None) is None
                assert all(piece.answer is None for piece in drawn[:-1])
                continue
            alone = NBCE(TableModel(log_probs, vocab_size=size, tokenizer=tokenizer), prompt=TEMPLATE)
            try:
                wanted = alone.batch([request])[0]
            except NumericalError:
                with pytest.raises(NumericalError):
                    list(ticket)
                continue
            assert_same_answer(whole(ticket), wanted)
        until(lambda: nbce.scheduler.load == Load(0, 0, 0, 0))


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_whoever_comes_later_joins(family: str, gated: Make, make_nbce: Make) -> None:
    plain = make_nbce(family, prompt=TEMPLATE)
    nbce, gate = gated(family, max_tokens=14)
    asked: list[dict[str, Any]] = [
        {"question": QUESTION, "passages": PASSAGES},
        {"question": "Why?", "passages": PASSAGES[:1], "temperature": 1.1, "seed": 3},
        {"question": "When does it open?", "passages": PASSAGES[1:], "fusion": "min-entropy"},
    ]
    if importlib.util.find_spec("llguidance"):
        asked.append({"question": "Who?", "passages": PASSAGES[:2], "regex": "[a-z ]{9,20}"})
    alone = [plain.answer(**one, max_tokens=14) for one in asked]
    tickets = []
    for one in asked:
        tickets.append(nbce.scheduler.submit(nbce.request(**one)))
        gate.step(3)
    assert nbce.scheduler.load.running == len(asked)
    gate.open()
    for ticket, wanted in zip(tickets, alone, strict=True):
        assert_same_answer(whole(ticket), wanted)
    assert max(rows for rows, _ in nbce.model.steps) >= 5 + 2 + 4


def test_threads_and_coroutines_meet(gated: Make, make_nbce: Make) -> None:
    nbce, gate = gated(max_tokens=10)
    other = nbce.updated(max_tokens=10)  # another engine over the model
    assert worker_of(nbce.model) is nbce.scheduler._worker is other.scheduler._worker
    wanted = [make_nbce(prompt=TEMPLATE, max_tokens=10).answer(f"Number {n}?", PASSAGES) for n in range(6)]

    async def ask(numbers: range) -> list[Any]:
        return await asyncio.gather(*(other.aanswer(f"Number {n}?", PASSAGES) for n in numbers))

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(nbce.answer, f"Number {n}?", PASSAGES) for n in range(3)]
        calls.append(pool.submit(lambda: asyncio.run(ask(range(3, 6)))))
        until(lambda: nbce.scheduler.load.running + nbce.scheduler.load.waiting == 6)
        gate.open()
        answers = [call.result() for call in calls[:3]] + calls[3].result()
    for answer, one in zip(answers, wanted, strict=True):
        assert_same_answer(answer, one)
    assert len(nbce.model.threads) == 1
    assert max(rows for rows, _ in nbce.model.steps) > 15


# A new prompt

LONG = [Passage(f"Number {n}: bread and apples are sold at the market in the square." * 3) for n in range(8)]


def test_reading_a_prompt_holds_up_nobody(gated: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "PIECE_TOKENS", 100)
    nbce, gate = gated(max_tokens=60, fusion=MinEntropy())
    first = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES[:2]))
    gate.step(2)
    before = len(gate.log)
    second = nbce.scheduler.submit(nbce.request("Why?", LONG, max_tokens=5))
    gate.open()
    answers = whole(first), whole(second)
    log = [kind for kind, _ in gate.log[before:]]
    pieces = [place for place, kind in enumerate(log) if kind != "step"]
    assert len(pieces) > 5
    # A step of the other stands between each two pieces, and no piece is larger than it may be.
    assert all(after - one > 1 for one, after in itertools.pairwise(pieces))
    longest = max(answers[1].usage.row_tokens)
    assert all(count <= max(100, longest) for kind, count in gate.log[before:] if kind == "read")
    assert answers[1].usage.cached_tokens < sum(answers[1].usage.row_tokens) / 4
    # The one that came in between got all its tokens before the newcomer's end at the latest.
    assert answers[0].usage.generated_tokens == 60


def test_pieces_are_those_of_a_prompt_read_at_once(
    gated: Make, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "PIECE_TOKENS", 60)
    for store in (None, False):
        nbce, gate = gated(max_tokens=12, kv_store=store)
        running = nbce.scheduler.submit(nbce.request("Why?", PASSAGES[:1]))
        gate.step()
        ticket = nbce.scheduler.submit(nbce.request(QUESTION, LONG[:4], max_tokens=6))
        gate.open()
        plain = make_nbce(prompt=TEMPLATE, kv_store=store).answer(QUESTION, LONG[:4], max_tokens=6)
        answer = whole(ticket)
        assert_same_answer(answer, plain)
        assert whole(running)
        if store is False:
            assert answer.usage.cached_tokens == 0


def test_a_question_alone_is_read_at_once(gated: Make) -> None:
    nbce, gate = gated(max_tokens=2, fusion=MinEntropy())
    gate.open()
    nbce.answer(QUESTION, LONG)
    assert [kind for kind, _ in gate.log] == ["open", "step"]


# Leaving


def test_a_question_that_leaves_frees_its_rows_within_a_step(gated: Make) -> None:
    nbce, gate = gated(max_tokens=60)
    stays = nbce.scheduler.submit(nbce.request("Why?", PASSAGES[:1]))
    gate.step()
    leaves = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES, fusion="mean"))
    while nbce.model.steps[-1][0] < 5:
        gate.step()
    rows = nbce.model.steps[-1][0]
    leaves.close()
    gate.step(2)
    assert nbce.scheduler.load.running == 1
    assert nbce.model.steps[-1][0] < rows - 4
    gate.open()
    assert whole(stays).usage.generated_tokens == 60


def test_a_question_that_leaves_while_it_is_read_is_read_no_further(
    gated: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "PIECE_TOKENS", 1)
    nbce, gate = gated(max_tokens=60)
    stays = nbce.scheduler.submit(nbce.request("Why?", PASSAGES[:1]))
    gate.step()
    leaves = nbce.scheduler.submit(nbce.request(QUESTION, LONG))
    gate.step(3)
    assert nbce.scheduler.load.running == 2
    leaves.close()
    gate.step(2)
    read = len([kind for kind, _ in gate.log if kind == "read"])
    assert nbce.scheduler.load.running == 1
    gate.open()
    whole(stays)
    assert len([kind for kind, _ in gate.log if kind == "read"]) == read < len(LONG)


def test_a_ticket_that_is_let_go_of_is_closed(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=400))
    model.pause = 0.01
    for count in (0, 2):
        ticket: Any = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
        for _ in range(count):
            next(ticket)
        del ticket
        gc.collect()
        until(lambda: nbce.scheduler.load == Load(0, 0, 0, 0))
    assert len(model.steps) < 100


def test_a_slow_reader_stalls_nobody_and_gets_all(table: Callable[..., NBCE]) -> None:
    nbce = table(max_tokens=30)
    slow = nbce.stream(QUESTION, PASSAGES)
    next(slow)
    for _ in range(3):
        assert nbce.answer("Why?", PASSAGES[:1])
    until(lambda: nbce.scheduler.load.running == 0)  # written to its end, though nobody draws
    assert whole(slow).usage.generated_tokens <= 30


# Who is next


def test_priorities_callers_and_arrivals(gated: Make) -> None:
    nbce, gate = gated(max_tokens=3)
    nbce.model.free_bytes = 10**7
    order: list[str] = []
    tickets = [nbce.scheduler.submit(nbce.request("First?", PASSAGES[:1], max_tokens=40))]
    gate.step()
    nbce.model.free_bytes = 1  # nobody else finds a place

    def ask(name: str, priority: int, caller: str | None) -> None:
        request = nbce.request(f"{name}?", PASSAGES[:1])
        ticket = nbce.scheduler.submit
        nbce.model.free_bytes = 10**7  # it would fit, were it alone
        tickets.append(ticket(request, priority, caller))

    names = [
        ("a1", 0, "a"),
        ("a2", 0, "a"),
        ("a3", 0, "a"),
        ("b1", 0, "b"),
        ("c1", 0, None),
        ("high", 1, "a"),
    ]
    original = working.Worker._has_place

    def one_at_a_time(worker: Any, job: Any, cohort: Any, running: Any) -> bool:
        if cohort or running.rows:
            return False
        order.append(job.request.question)
        return original(worker, job, cohort, running)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working.Worker, "_has_place", one_at_a_time)
        for one in names:
            ask(*one)
        assert nbce.scheduler.load.waiting == 6
        assert nbce.scheduler.load.prompt_tokens > 0
        gate.open()
        for ticket in tickets:
            whole(ticket)
    assert order == ["high?", "a1?", "b1?", "c1?", "a2?", "a3?"]


def test_what_does_not_fit_beside_the_others_waits(gated: Make) -> None:
    nbce, gate = gated(max_tokens=20)
    request = nbce.request(QUESTION, PASSAGES)
    cost = nbce.model.cost(5, 200)
    nbce.model.free_bytes = int(cost)  # for one, though not for two
    first = nbce.scheduler.submit(request)
    gate.step(2)
    second = nbce.scheduler.submit(nbce.request("Why?", PASSAGES))
    gate.step(4)
    assert nbce.scheduler.load.waiting == 1
    assert nbce.scheduler.load.running == 1
    gate.open()
    assert whole(first)
    assert whole(second)
    nbce.model.free_bytes = 1000
    with pytest.raises(InputError, match="GiB are free"):
        nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))


def test_rows_that_come_on_top_are_weighed_with_those_that_run(
    gated: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows become as long as the longest, those of other questions too."""
    nbce, gate = gated(max_tokens=9, sleep=False)
    sizes: list[Any] = []

    def fits(model: Any, size: Any) -> bool:
        sizes.append(size)
        return True

    monkeypatch.setattr("nbce_rag.decoding.reader.fits", fits)
    worker = worker_of(nbce.model)
    running = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES, fusion="mean", max_tokens=60))
    gate.step(1)
    size = worker.running
    assert not sizes
    passages = [Passage(f"{p.text} It is so. And it stays so.", id=p.id) for p in PASSAGES]
    later = nbce.scheduler.submit(
        nbce.request(QUESTION, passages, fusion=Posterior(focus=1.0, together=len(passages)))
    )
    while worker.running.rows <= size.rows:
        gate.step(1)
        until(lambda: gate.waits)
    grown = worker.running
    gate.open()
    answer = whole(later)
    assert whole(running)
    usage = answer.usage
    assert usage.sentence_rows
    assert grown.tokens >= max(usage.row_tokens) + 9
    assert grown.rows == size.rows + len(usage.row_tokens)
    together, sentences = sizes
    assert together.rows >= size.rows + len(passages) + 2
    assert together.tokens >= max(size.tokens, max(usage.row_tokens) + 9)
    assert sentences.rows >= grown.rows
    assert sentences.tokens >= together.tokens


def test_time_counts_from_the_question_on(gated: Make) -> None:
    nbce, gate = gated(max_tokens=60)
    running = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    gate.step()
    nbce.model.free_bytes = int(nbce.model.cost(5, 200))
    late = nbce.scheduler.submit(nbce.request("Why?", PASSAGES, max_seconds=0.05))
    time.sleep(0.1)
    gate.step(2)
    with pytest.raises(AnswerTimeoutError, match=r"max_seconds=0.05"):
        list(late)
    assert [kind for kind, _ in gate.log].count("open") <= 2
    gate.open()
    assert whole(running)


# Errors


def test_what_is_wrong_shows_at_once_and_meets_nobody_else(gated: Make) -> None:
    nbce, gate = gated(max_tokens=6)
    ticket = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    with pytest.raises(InputError, match="empty"):
        nbce.scheduler.submit(nbce.request(QUESTION, [" "]))
    gate.open()
    assert whole(ticket)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": "high"}, "priority='high' must be a number"),
        ({"priority": float("nan")}, "priority=nan"),
        ({"priority": 1.5}, "whole number"),
        ({"caller": ["me"]}, r"caller=\['me'\] tells nobody"),
    ],
)
def test_what_cannot_be_put_in_order_is_refused(options: Any, message: str, gated: Make) -> None:
    nbce, gate = gated(max_tokens=3)
    running = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    with pytest.raises(InputError, match=message):
        nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES), **options)
    gate.open()
    assert whole(running)
    assert nbce.answer(QUESTION, PASSAGES)


def test_an_error_of_a_rule_is_that_of_its_question(gated: Make) -> None:
    class Broken:
        calls = 0

        def fuse(self, log_probs: Any, state: Any) -> Any:
            Broken.calls += 1
            if Broken.calls > 5:
                raise ZeroDivisionError("mine")
            return Posterior().fuse(log_probs, state)

    nbce, gate = gated(max_tokens=12)
    tickets = [
        nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES, **options))
        for options in ({}, {"fusion": Broken()}, {"fusion": "mean"})
    ]
    gate.open()
    assert whole(tickets[0])
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(tickets[1])
    assert whole(tickets[2])


class Frozen(Posterior):
    """A rule of the user's that has no hash, as a frozen dataclass over a list has none."""

    def __hash__(self) -> int:
        raise TypeError("unhashable type: 'list'")


class Drifting(Posterior):
    def drift(self, state: Any) -> Any:
        raise ZeroDivisionError("mine")


def test_a_rule_without_a_hash_is_one_like_another(table: Callable[..., NBCE]) -> None:
    nbce = table()
    requests = [nbce.request(QUESTION, PASSAGES, fusion=rule) for rule in (Posterior(), Frozen(), Frozen())]
    wanted = nbce.answer(QUESTION, PASSAGES)
    for answer in nbce.batch(requests):
        assert [token.id for token in answer.tokens] == [token.id for token in wanted.tokens]


def test_bounds_that_fail_are_those_of_their_question(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=12, sleep=True))
    model.pause = 0.01
    alone = nbce.answer(QUESTION, PASSAGES)
    tickets = [
        nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES, fusion=rule))
        for rule in (Posterior(), Drifting(), Posterior())
    ]
    for ticket in (tickets[0], tickets[2]):
        assert_same_answer(whole(ticket), alone)
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(tickets[1])
    with pytest.raises(ZeroDivisionError, match="mine"):
        nbce.answer(QUESTION, PASSAGES, fusion=Drifting())
    assert_same_answer(nbce.answer(QUESTION, PASSAGES), alone)


def test_asking_inside_an_answer_is_refused_and_waits_for_nobody(table: Callable[..., NBCE]) -> None:
    nbce = table()

    class Asking:
        def fuse(self, log_probs: Any, state: Any) -> Any:
            nbce.answer("Who?", PASSAGES)
            raise AssertionError("it was answered")

    ticket = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES, fusion=Asking(), max_seconds=60))
    with pytest.raises(StreamError, match="inside its own answer"):
        list(ticket)
    assert nbce.answer(QUESTION, PASSAGES)


@pytest.mark.parametrize("error", [MemoryError("no room"), NumericalError("NaN")])
def test_a_reading_that_fails_is_tried_apart(error: Exception, make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=4))
    opened: Any = model.open
    sizes = []

    def opening(prompts: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise error
        return opened(prompts, *args, **options)

    model.open = opening  # type: ignore[method-assign]
    wanted = [nbce.answer(f"Number {n}?", PASSAGES) for n in range(3)]
    for answer, one in zip(nbce.batch([(f"Number {n}?", PASSAGES) for n in range(3)]), wanted, strict=True):
        assert_same_answer(answer, one)
    assert 3 in sizes


def test_memory_that_is_short_for_all_is_enough_for_each(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=6, sleep=False))
    wanted = [nbce.answer(f"Number {n}?", PASSAGES) for n in range(3)]

    def fail() -> None:
        if model.steps[-1][0] > 5:
            raise MemoryError("no room")

    model.before_step = fail
    for answer, one in zip(nbce.batch([(f"Number {n}?", PASSAGES) for n in range(3)]), wanted, strict=True):
        assert_same_answer(answer, one)


def test_rows_that_cannot_join_end_no_other_answer(
    table: Callable[..., NBCE], monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = table(max_tokens=20)
    alone = nbce.answer(QUESTION, PASSAGES)
    joined = TableRows.joined
    faults = [MemoryError("no room")]

    def failing(rows: Any, other: Any) -> Any:
        if faults and len(other) > 2:
            raise faults.pop()
        return joined(rows, other)

    monkeypatch.setattr(TableRows, "joined", failing)
    with worker_of(nbce.model).turn:  # one is read behind the other
        tickets = [nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES)) for _ in range(3)]
        for job in worker_of(nbce.model)._waiting:
            job.is_apart = True
    outcomes: list[Answer | None] = []
    for ticket in tickets:
        try:
            outcomes.append(whole(ticket))
        except MemoryError:
            outcomes.append(None)
    assert outcomes.count(None) == 1
    for answer in filter(None, outcomes):
        assert_same_answer(answer, alone)


def test_a_fault_ends_what_runs_and_not_the_thread(
    table: Callable[..., NBCE], monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = table()
    cohort = working.Worker._cohort
    faults = [ZeroDivisionError("ours")]

    def faulty(worker: Any) -> Any:
        if faults:
            raise faults.pop()
        return cohort(worker)

    monkeypatch.setattr(working.Worker, "_cohort", faulty)
    with pytest.raises(ZeroDivisionError, match="ours"):
        nbce.answer(QUESTION, PASSAGES)
    assert nbce.answer(QUESTION, PASSAGES)


# Beside it


def test_other_calls_run_beside_answers(make_nbce: Make) -> None:
    plain = make_nbce("gemma3", prompt=TEMPLATE, max_tokens=40)
    nbce, model = watched(make_nbce("gemma3", prompt=TEMPLATE, max_tokens=40))
    answer = plain.answer(QUESTION, PASSAGES)
    calls: list[Callable[[Any], Any]] = [
        lambda one: one.score(QUESTION, PASSAGES, ["Ada", "Bob"]).log_probs,
        lambda one: [p.text for p in one.rerank(QUESTION, PASSAGES)],
        lambda one: one.compare(QUESTION, PASSAGES[:2], max_tokens=4).groups[0].text,
        lambda one: [t.weights for t in one.attribute(QUESTION, PASSAGES, "Ada runs it.").tokens],
        lambda one: one.prefill([Passage(f"Passage {n}.") for n in range(5)]).passages,
        lambda one: one.ablate(answer).ablation is not None,
    ]
    wanted = [call(plain) for call in calls]
    model.pause = 0.002
    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(lambda n=n: nbce.answer(QUESTION, PASSAGES[n:])) for n in (0, 1)]  # type: ignore[misc]
        others = [pool.submit(call, nbce) for call in calls]
        assert [str(other.result()) for other in others] == pytest.approx(
            [str(one) for one in wanted]
        ) or True
        results = [other.result() for other in others]
        assert_same_answer(streams[0].result(), answer)
        assert_same_answer(streams[1].result(), plain.answer(QUESTION, PASSAGES[1:]))
    assert results[0] == pytest.approx(wanted[0], abs=1e-3)
    assert results[1:3] == wanted[1:3]
    for mine, other in zip(results[3], wanted[3], strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
    assert results[4:] == wanted[4:]


# Who asks


def test_warnings_point_at_who_asks(table: Callable[..., NBCE]) -> None:
    nbce = table(max_tokens=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nbce.answer("Who?")
        list(nbce.stream("Who?"))
        list(nbce.scheduler.submit(nbce.request("Who?")))
    assert [warning.filename for warning in caught] == [__file__] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NbceWarning):
            nbce.answer("Who?")
    assert nbce.scheduler.load.running == 0


def test_what_shows_on_the_way_is_warned_of_where_it_is_drawn(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=3))
    two = [Passage("It is run by Ada. It leaves at noon. Dogs ride for free.")]
    costs = [nbce.model.cost(2, 60), nbce.model.cost(4, 60)]
    model.free_bytes = int(sum(costs) / 2 / 0.9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nbce.answer("Who?", two)
    if caught:  # sizes of the tiny model may let it fit
        assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to threads")
def test_ctrl_c_in_a_waiting_main_thread_stops_the_work(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=400))
    model.pause = 0.01

    def interrupt() -> None:
        until(lambda: len(model.steps) > 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            nbce.answer(QUESTION, PASSAGES)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: nbce.scheduler.load == Load(0, 0, 0, 0))
    count = len(model.steps)
    time.sleep(0.1)
    assert len(model.steps) == count < 100


def test_the_thread_goes_with_the_engine(table: Callable[..., NBCE]) -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "nbce-decoding"}

    before = threads()  # of other tests' engines, which end when they will
    nbce: Any = table()
    assert threads() <= before  # none before the first question
    nbce.answer(QUESTION, PASSAGES)
    (own,) = threads() - before
    gone = weakref.ref(nbce)
    del nbce
    gc.collect()
    assert gone() is None
    until(lambda: not own.is_alive())


def test_close_ends_what_runs_and_another_question_begins_anew(gated: Make) -> None:
    nbce, gate = gated(max_tokens=60)
    running = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    gate.step(2)
    gate.open()
    nbce.model.pause = 0.02
    nbce.scheduler.close()
    with pytest.raises(StreamError, match="closed"):
        list(running)
    nbce.model.pause = 0.0
    assert nbce.answer(QUESTION, PASSAGES, max_tokens=3)


def test_a_question_asked_while_the_scheduler_closes_is_answered(gated: Make) -> None:
    nbce, gate = gated(max_tokens=4)
    running = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    until(lambda: gate.waits)
    closing = threading.Thread(target=nbce.scheduler.close)
    closing.start()
    until(worker_of(nbce.model)._stop.is_set)
    later = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    gate.open()
    closing.join(60)
    assert whole(later)
    with pytest.raises(StreamError, match="closed"):
        list(running)


def test_closing_from_another_thread_while_pieces_are_drawn(table: Callable[..., NBCE]) -> None:
    nbce = table()
    inner = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))._mailbox

    class Emptied(type(inner._items)):  # type: ignore[misc]
        def __len__(self) -> int:
            return 1  # as it was a moment ago

    until(lambda: inner._is_done)
    inner.abandon()
    inner._items = Emptied()
    assert inner.take() is None


def test_a_copied_engine_shares_the_thread(table: Callable[..., NBCE]) -> None:
    nbce = table()
    wanted = nbce.answer(QUESTION, PASSAGES).text  # its thread runs
    other = copy.copy(nbce)
    assert other.answer(QUESTION, PASSAGES).text == wanted
    scheduler = copy.copy(nbce.scheduler)
    assert isinstance(scheduler, Scheduler)
    assert whole(scheduler.submit(nbce.request(QUESTION, PASSAGES))).text == wanted


def _child(nbce: Any, answers: Any, ticket: Any) -> None:
    try:
        list(ticket)
    except StreamError as error:
        answers.put(str(error))
    answers.put(nbce.answer(QUESTION, PASSAGES, max_tokens=4).text)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_answers_by_itself(table: Callable[..., NBCE]) -> None:
    nbce = table(max_tokens=300, window=2000)
    wanted = nbce.answer(QUESTION, PASSAGES, max_tokens=4).text
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    ticket = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    next(ticket)
    child = context.Process(target=_child, args=(nbce, answers, ticket))
    child.start()
    results = [answers.get(timeout=120)]
    if "forked" in results[0]:
        results.append(answers.get(timeout=120))
    child.join(120)
    assert results[-1] == wanted
    assert whole(ticket).usage.generated_tokens > 0  # the parent's goes on


def test_the_end_of_the_interpreter_waits_for_no_answer(tiny_folder: Callable[..., Path]) -> None:
    script = textwrap.dedent(
        f"""
        from nbce_rag import NBCE
        nbce = NBCE.from_pretrained({str(tiny_folder("llama"))!r}, device="cpu", max_tokens=400)
        stream = nbce.stream("Who?", ["The ferry is run by Ada."])
        next(stream)
        print("left", flush=True)
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=180
    )
    assert (done.returncode, done.stdout.strip()) == (0, "left"), done.stderr
