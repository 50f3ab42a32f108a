"""One engine for many: event loops that stay free, work that stops when nobody waits, threads."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from engine_reference import PASSAGES, QUESTION, TEMPLATE, assert_same_answer
from watched_model import watched

from nbce_rag.errors import InputError, NbceWarning, NumericalError
from nbce_rag.passages import Passage

Make = Callable[..., Any]


class Passes:
    """Counts forward passes of decoding; each takes at least `pause` seconds."""

    def __init__(self, nbce: Any, pause: float = 0.0) -> None:
        self._model = nbce.model
        self._model.pause = pause
        self._from = 0

    @property
    def count(self) -> int:
        return len(self._model.steps) - self._from

    @property
    def threads(self) -> set[int]:
        """Those that passes were made in."""
        threads: set[int] = self._model.threads
        return threads

    def forget(self) -> None:
        """Count from here."""
        self._from = len(self._model.steps)

    async def rest(self) -> int:
        """The count after everything that runs has had time to go on, were it to go on."""
        before = self.count
        await asyncio.sleep(0.15)
        assert self.count <= before + 1  # the step that was under way
        settled = self.count
        await asyncio.sleep(0.15)
        assert self.count == settled
        return settled


@pytest.fixture
def nbce(make_nbce: Make) -> Any:
    return watched(make_nbce(prompt=TEMPLATE, max_tokens=12))[0]


def test_async_equals_sync(nbce: Any) -> None:
    async def main() -> None:
        answer = nbce.answer(QUESTION, PASSAGES)
        assert_same_answer(await nbce.aanswer(QUESTION, PASSAGES), answer)
        pieces = [piece async for piece in nbce.astream(QUESTION, PASSAGES)]
        assert "".join(p.text for p in pieces) == answer.text
        assert [p.text for p in pieces] == [p.text for p in nbce.stream(QUESTION, PASSAGES)]
        assert tuple(t for p in pieces for t in p.tokens) == pieces[-1].answer.tokens
        assert_same_answer(pieces[-1].answer, answer)
        requests = [(QUESTION, PASSAGES), ("Why?", PASSAGES[:1])]
        for one, other in zip(await nbce.abatch(requests), nbce.batch(requests), strict=True):
            assert_same_answer(one, other)
        sampled = {"temperature": 1.5, "seed": 4}
        assert_same_answer(
            await nbce.aanswer(QUESTION, PASSAGES, **sampled), nbce.answer(QUESTION, PASSAGES, **sampled)
        )

    asyncio.run(main())


def test_the_event_loop_stays_free(nbce: Any) -> None:
    passes = Passes(nbce, pause=0.05)

    async def main() -> None:
        done = False
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while not done:
                await asyncio.sleep(0.005)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await nbce.aanswer(QUESTION, PASSAGES)
        await nbce.abatch([(QUESTION, PASSAGES)])
        done = True
        await ticking
        assert ticks > passes.count  # several within each step of 50 ms
        assert threading.get_ident() not in passes.threads

    asyncio.run(main())


def test_many_at_once_in_one_loop(nbce: Any) -> None:
    questions = [f"Question {n}?" for n in range(6)]
    wanted = [nbce.answer(q, PASSAGES) for q in questions]

    async def main() -> list[Any]:
        return await asyncio.gather(*(nbce.aanswer(q, PASSAGES) for q in questions))

    for one, other in zip(asyncio.run(main()), wanted, strict=True):
        assert_same_answer(one, other)


def test_a_stream_that_is_closed_early_stops(nbce: Any) -> None:
    passes = Passes(nbce, pause=0.02)
    wanted = nbce.answer(QUESTION, PASSAGES)
    passes.forget()

    async def main() -> None:
        stream = nbce.astream(QUESTION, PASSAGES, max_tokens=200)
        async for _ in stream:
            break
        await stream.aclose()
        assert await passes.rest() < 20
        assert_same_answer(await nbce.aanswer(QUESTION, PASSAGES), wanted)

    asyncio.run(main())


def test_leaving_the_loop_without_closing_stops_too(nbce: Any) -> None:
    passes = Passes(nbce, pause=0.02)

    async def main() -> None:
        async for piece in nbce.astream(QUESTION, PASSAGES, max_tokens=200):
            if piece.text:
                break
        assert await passes.rest() < 20

    asyncio.run(main())


async def consume(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("form", ["aanswer", "abatch", "astream"])
def test_a_cancelled_task_stops(form: str, nbce: Any) -> None:
    passes = Passes(nbce, pause=0.03)
    wanted = nbce.answer(QUESTION, PASSAGES)

    async def main(times: int) -> None:
        passes.forget()
        calls: dict[str, Callable[[], Any]] = {
            "aanswer": lambda: nbce.aanswer(QUESTION, PASSAGES, max_tokens=200),
            "abatch": lambda: nbce.abatch([{"question": QUESTION, "passages": PASSAGES, "max_tokens": 200}]),
            "astream": lambda: consume(nbce.astream(QUESTION, PASSAGES, max_tokens=200)),
        }
        task = asyncio.create_task(calls[form]())
        while passes.count < 3:
            await asyncio.sleep(0.005)
        for _ in range(times):  # a second one may come while the first is still waiting for the step
            task.cancel()
            await asyncio.sleep(0.001)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await passes.rest() < 12
        assert_same_answer(await nbce.aanswer(QUESTION, PASSAGES), wanted)

    asyncio.run(main(1))
    asyncio.run(main(3))


def test_a_timeout_stops(nbce: Any) -> None:
    passes = Passes(nbce, pause=0.03)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await nbce.aanswer(QUESTION, PASSAGES, max_tokens=200)
        assert await passes.rest() < 40

    asyncio.run(main())


def test_errors_come_through(nbce: Any) -> None:
    async def main() -> None:
        with pytest.raises(InputError, match="empty"):
            await nbce.aanswer(" ", PASSAGES)
        with pytest.raises(InputError, match="empty"):
            await nbce.aanswer(QUESTION, [" "])
        with pytest.raises(InputError, match="no request"):
            await nbce.abatch([3])

        def fail() -> None:
            raise NumericalError("NaN")

        nbce.model.before_step = fail
        with pytest.raises(NumericalError):
            await nbce.aanswer(QUESTION, PASSAGES)
        with pytest.raises(NumericalError):
            await consume(nbce.astream(QUESTION, PASSAGES))
        nbce.model.before_step = None
        assert (await nbce.aanswer(QUESTION, PASSAGES)).usage.generated_tokens == 12

    asyncio.run(main())


def test_eight_threads_share_an_engine(make_nbce: Make) -> None:
    plain = make_nbce("gemma3", prompt=TEMPLATE, kv_store=False, max_tokens=8)
    shared = make_nbce("gemma3", prompt=TEMPLATE, max_tokens=8)
    jobs: list[dict[str, Any]] = [
        {
            "question": f"Question {n}?",
            "passages": [*PASSAGES[n % 4 :], Passage(f"Number {n}.")],
            "fusion": ("posterior", "min-entropy", "mean", "experts")[n % 4],
            **({"temperature": 1.5, "seed": n} if n % 3 == 0 else {}),
        }
        for n in range(16)
    ]
    wanted = [plain.answer(**job) for job in jobs]
    barrier = threading.Barrier(8)

    def work(number: int) -> list[Any]:
        barrier.wait()
        if number % 2:
            return [shared.answer(**job) for job in jobs[number::8]]
        return list(shared.batch(jobs[number::8]))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for number, answers in enumerate(results):
        for one, other in zip(answers, wanted[number::8], strict=True):
            assert_same_answer(one, other)


def test_streams_may_take_turns_in_one_thread(nbce: Any) -> None:
    streams = [nbce.stream(q, PASSAGES) for q in (QUESTION, "Why?", "How?")]
    texts = [""] * 3
    while streams:
        for place, stream in enumerate(list(streams)):
            piece = next(stream, None)
            if piece is None:
                streams = []
                break
            texts[place] += piece.text
    for question, text in zip((QUESTION, "Why?", "How?"), texts, strict=True):
        assert nbce.answer(question, PASSAGES).text.startswith(text)
    assert any(texts)


def test_warnings_of_async_calls_reach_the_caller(nbce: Any) -> None:
    with pytest.warns(NbceWarning, match="question alone"):
        answer = asyncio.run(nbce.aanswer(QUESTION))
    assert answer.warnings


def test_warnings_point_at_who_waits(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=1)

    async def main() -> None:
        await nbce.aanswer("Who runs the ferry?")
        async for _ in nbce.astream("Who runs the ferry?"):
            pass

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
    assert [warning.filename for warning in caught] == [__file__] * 2
