"""An answer ends when its time is over, wherever that finds it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from nbce_rag.deadline import Deadline, check_deadline, kept_deadline
from nbce_rag.errors import AnswerTimeoutError, NbceWarning

PASSAGES = ["The ferry is run by Ada.", "Bread is baked in Orme.", "The lamp is lit at dusk."]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by whenever somebody looks."""
    ticks = itertools.count()
    monkeypatch.setattr("nbce_rag.deadline.monotonic", lambda: float(next(ticks)))


def test_a_deadline_is_kept_in_its_place(clock: None) -> None:
    check_deadline()  # nobody waits
    with kept_deadline(Deadline(1, 0)):
        check_deadline()
        check_deadline()
        with pytest.raises(TimeoutError, match="max_seconds=1;"):
            check_deadline()
    check_deadline()
    with kept_deadline(Deadline(None, -1000)):
        check_deadline()


def test_reading_passages_ends(make_nbce: Callable[..., Any], clock: None) -> None:
    nbce = make_nbce("llama", max_tokens=5)
    with pytest.raises(AnswerTimeoutError, match="lower max_tokens"):
        nbce.answer("Who runs the ferry?", PASSAGES, max_seconds=2)
    stream = nbce.stream("Who runs the ferry?", PASSAGES, max_seconds=2)
    with pytest.raises(AnswerTimeoutError):
        next(stream)
    with pytest.raises(AnswerTimeoutError):
        asyncio.run(nbce.aanswer("Who runs the ferry?", PASSAGES, max_seconds=2))
    assert nbce.answer("Who runs the ferry?", PASSAGES, max_seconds=10_000).tokens


def test_what_was_read_is_not_read_again(make_nbce: Callable[..., Any], clock: None) -> None:
    nbce = make_nbce("llama", max_tokens=5, max_batch_tokens=1)  # a context to a pass
    for seconds in itertools.count(2):
        before = len(nbce.kv_store)
        try:
            answer = nbce.answer("Who runs the ferry?", PASSAGES, max_seconds=seconds)
            break
        except AnswerTimeoutError:
            assert len(nbce.kv_store) >= before
    assert answer.usage.cached_tokens > 0
    assert answer.text == make_nbce("llama", max_tokens=5).answer("Who runs the ferry?", PASSAGES).text


def test_decoding_ends(make_nbce: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    nbce = make_nbce("llama", max_tokens=50)
    now = [0.0]
    monkeypatch.setattr("nbce_rag.deadline.monotonic", lambda: now[0])
    stream = nbce.stream("Who runs the ferry?", PASSAGES, max_seconds=5)
    next(stream)
    now[0] = 6.0
    with pytest.raises(AnswerTimeoutError):
        list(stream)


def test_the_least_of_a_batch_counts(make_nbce: Callable[..., Any], clock: None) -> None:
    nbce = make_nbce("llama", max_tokens=5)
    requests = [nbce.request("Who?", PASSAGES, max_seconds=s) for s in (None, 1000, 2)]
    with pytest.raises(AnswerTimeoutError, match="max_seconds=2;"):
        nbce.batch(requests)


def test_a_long_passage_is_split_before_anything_is_read(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce("llama", max_tokens=5)
    passes = 0
    opened = nbce.model.open

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return opened(*args, **kwargs)

    while (load := nbce.scheduler.load).running or load.waiting:  # what other tests of this model gave up
        time.sleep(0.01)
    nbce.model.open = count
    with pytest.raises(NbceWarning, match="overlapping windows"):
        nbce.answer("Who?", ["The ferry is run by Ada. " * 400])
    assert passes == 0
