"""Answers of a model that vLLM serves are those of the engine that holds the loop itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_reference import PASSAGES, QUESTION, REFUSING, TEMPLATE
from vllm_tools import FakeVllm, Fault

from nbce_rag import NBCE, Answer, Passage, load_model
from nbce_rag.errors import AnswerTimeoutError, NbceWarning, RemoteError, StreamError
from nbce_rag.fusion import RULES
from nbce_rag.models.model import Model
from nbce_rag.models.vllm import loading
from nbce_rag.models.vllm.model import VllmModel


@pytest.fixture
def fake(tiny_loaded: Callable[..., Any], tiny_folder: Callable[..., Path]) -> Iterator[FakeVllm]:
    with FakeVllm(tiny_loaded("llama"), str(tiny_folder("llama"))) as server:
        yield server


@pytest.fixture
def second(tiny_loaded: Callable[..., Any], tiny_folder: Callable[..., Path]) -> Iterator[FakeVllm]:
    with FakeVllm(tiny_loaded("llama"), str(tiny_folder("llama"))) as server:
        yield server


def engine(*servers: FakeVllm, loading: dict[str, Any] | None = None, **options: Any) -> NBCE:
    model = load_model([server.url for server in servers], **(loading or {}))
    return NBCE(model, prompt=TEMPLATE, **{"max_tokens": 8, **options})


@pytest.fixture
def plain(make_nbce: Callable[..., NBCE]) -> Callable[..., NBCE]:
    """The engine on the same model in this process."""

    def make(**options: Any) -> NBCE:
        return make_nbce("llama", prompt=TEMPLATE, kv_store=False, **{"max_tokens": 8, **options})

    return make


def assert_equal(ours: Answer, theirs: Answer) -> None:
    assert [token.id for token in ours.tokens] == [token.id for token in theirs.tokens]
    assert ours.text == theirs.text
    assert ours.finish_reason == theirs.finish_reason
    for passage, other_passage in zip(ours.passages, theirs.passages, strict=True):
        assert passage.relevance == pytest.approx(other_passage.relevance, abs=1e-3)
    for one, other in zip(ours.tokens, theirs.tokens, strict=True):
        assert one.weights == pytest.approx(other.weights, abs=1e-4)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert one.gain == pytest.approx(other.gain, abs=1e-3)
        assert one.row_log_probs == pytest.approx(other.row_log_probs, abs=1e-3)
        assert one.entropies == pytest.approx(other.entropies, abs=1e-3)
        assert [text for text, _ in one.top] == [text for text, _ in other.top]
    assert ours.usage.generated_tokens == theirs.usage.generated_tokens
    assert ours.usage.row_tokens == theirs.usage.row_tokens
    assert ours.usage.sentence_rows == theirs.usage.sentence_rows
    assert [c.text for c in ours.citations] == [c.text for c in theirs.citations]


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_answers_as_in_this_process(rule: str, fake: FakeVllm, plain: Callable[..., NBCE]) -> None:
    options: dict[str, Any] = {"fusion": rule, "sleep": False, "entropies": True, "top_logprobs": 3}
    assert_equal(
        engine(fake).answer(QUESTION, PASSAGES, **options), plain().answer(QUESTION, PASSAGES, **options)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8, "seed": 7},
        {"temperature": 0.8, "seed": -3, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"bad_words": ["the", "ferry"]},
        {"relevance": True, "fusion": "mean"},
        {"passages_per_row": 2},
        {"joint_row": True},
        {"order_labels": True},
        {"style": None, "stop": ("e",)},
        {"max_tokens": 1},
    ],
)
def test_options_mean_the_same(options: dict[str, Any], fake: FakeVllm, plain: Callable[..., NBCE]) -> None:
    ours = engine(fake, sleep=False).answer(QUESTION, PASSAGES, **options)
    assert_equal(ours, plain(sleep=False).answer(QUESTION, PASSAGES, **options))


def test_where_every_row_refuses_no_answer_is_asked_for(
    fake: FakeVllm, make_nbce: Callable[..., NBCE]
) -> None:
    model = load_model(fake.url)
    options: dict[str, Any] = {"max_tokens": 4, "refusal_threshold": 1e-37, "prompt": REFUSING}
    ours, theirs = NBCE(model, **options), make_nbce("llama", kv_store=False, **options)
    answer = ours.answer(QUESTION, PASSAGES)
    assert answer.finish_reason == theirs.answer(QUESTION, PASSAGES).finish_reason == "no_evidence"
    assert fake.groups == []
    options = {"refusal_threshold": 1.0, "sleep": False, "entropies": True}
    assert_equal(ours.answer(QUESTION, PASSAGES, **options), theirs.answer(QUESTION, PASSAGES, **options))


def test_sentences_several_passages_and_parts(fake: FakeVllm, plain: Callable[..., NBCE]) -> None:
    texts = [
        "The ferry is run by Ada. It leaves at noon. Dogs ride for free.",
        "The market opens at eight. It sells fish.",
    ]
    ours, theirs = engine(fake), plain(sleep=False)
    assert_equal(ours.answer(QUESTION, texts), theirs.answer(QUESTION, texts))
    assert ours.answer(QUESTION, texts).usage.sentence_rows > 0
    together = RULES.make("posterior", together=2)
    assert_equal(
        ours.answer(QUESTION, texts, fusion=together), theirs.answer(QUESTION, texts, fusion=together)
    )
    with pytest.warns(NbceWarning, match="No passages"):
        assert_equal(ours.answer(QUESTION, []), theirs.answer(QUESTION, []))


def test_a_batch_a_stream_and_a_loop(fake: FakeVllm, plain: Callable[..., NBCE]) -> None:
    ours, theirs = engine(fake), plain(sleep=False)
    questions: list[Any] = [(QUESTION, PASSAGES), ("Why?", PASSAGES[:1]), (QUESTION, PASSAGES[1:])]
    for one, other in zip(ours.batch(questions), theirs.batch(questions), strict=True):
        assert_equal(one, other)
    pieces = list(ours.stream(QUESTION, PASSAGES))
    answer = pieces[-1].answer
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert_equal(answer, theirs.answer(QUESTION, PASSAGES))

    async def some() -> list[Answer]:
        return list(await asyncio.gather(*(ours.aanswer(QUESTION, PASSAGES) for _ in range(3))))

    for one in asyncio.run(some()):
        assert_equal(one, answer)


@pytest.mark.parametrize(
    "options", [{"regex": "[0-9]{2,3}"}, {"json_schema": {"type": "object", "additionalProperties": False}}]
)
def test_grammars_where_the_plugin_has_them(
    options: dict[str, Any], fake: FakeVllm, plain: Callable[..., NBCE]
) -> None:
    assert fake.hello is not None
    fake.hello = replace(fake.hello, grammar=True)
    ours = engine(fake).answer(QUESTION, PASSAGES, **options)
    assert_equal(ours, plain(sleep=False).answer(QUESTION, PASSAGES, **options))
    assert ours.finish_reason == "stop"


def test_comparisons_and_reranking(fake: FakeVllm, plain: Callable[..., NBCE]) -> None:
    ours, theirs = engine(fake), plain(sleep=False)
    one, other = ours.compare(QUESTION, PASSAGES), theirs.compare(QUESTION, PASSAGES)
    assert [group.text for group in one.groups] == [group.text for group in other.groups]
    ranked, expected = ours.rerank(QUESTION, PASSAGES), theirs.rerank(QUESTION, PASSAGES)
    assert [p.text for p in ranked] == [p.text for p in expected]
    assert [p.relevance for p in ranked] == pytest.approx([p.relevance for p in expected], abs=1e-3)


def test_an_answer_that_nobody_wants_any_more_ends_there(fake: FakeVllm) -> None:
    fake.pace = 0.05
    stream = engine(fake, max_tokens=200).stream(QUESTION, PASSAGES)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    _wait(lambda: fake.closed == 1)
    assert fake.written < 100


def test_tokens_come_while_another_prompt_is_read(fake: FakeVllm) -> None:
    nbce = engine(fake, max_tokens=100)
    fake.pace = 0.02
    first = nbce.scheduler.submit(nbce.request(QUESTION, PASSAGES))
    next(first)
    fake.reading_seconds = 1.5
    begun = time.monotonic()
    second = nbce.scheduler.submit(nbce.request("Why?", PASSAGES, max_tokens=2))
    times = [time.monotonic() - begun for _ in first]
    assert len([at for at in times if 0.3 < at < 1.4]) > 5
    assert [*second][-1].answer is not None
    assert time.monotonic() - begun > 1.5


def test_an_answer_that_takes_too_long(fake: FakeVllm) -> None:
    fake.pace = 0.05
    with pytest.raises(AnswerTimeoutError):
        engine(fake, max_tokens=200).answer(QUESTION, PASSAGES, max_seconds=0.5)
    _wait(lambda: fake.closed == 1)
    fake.pace = 0
    fake.reading_faults.append(Fault("hang"))
    with pytest.raises(AnswerTimeoutError):
        engine(fake).answer(QUESTION, PASSAGES, max_seconds=0.5)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 500),
        Fault("status", 503),
        Fault("status", 429),
        Fault("die"),
        Fault("die", 3),
        Fault("end", 3),
        Fault("error", 2),
        Fault("abort", 2),
        Fault("poison", 2),
        Fault("unequal", 0),
        Fault("lag", 1),
        Fault("hang", 2),
    ],
)
def test_a_group_that_fails_is_asked_again(
    fault: Fault, fake: FakeVllm, second: FakeVllm, plain: Callable[..., NBCE]
) -> None:
    """Where an answer had begun, it goes on where it was; the same, by other instances or by one alone."""
    expected = plain(sleep=False, temperature=1.0, seed=5).answer(QUESTION, PASSAGES)
    for servers in ((fake,), (fake, second)):
        nbce = engine(*servers, temperature=1.0, seed=5, loading={"server_timeout": 1.0})
        for server in servers:
            server.faults.append(fault)
        before = sum(len(server.groups) for server in servers)
        pieces = list(nbce.stream(QUESTION, PASSAGES))
        assert "".join(piece.text for piece in pieces) == expected.text
        assert pieces[-1].answer is not None
        assert_equal(pieces[-1].answer, expected)
        assert sum(len(server.groups) for server in servers) > before + 1
        for server in servers:
            server.faults.clear()


def test_draws_without_a_seed_come_out_the_same_when_asked_again(fake: FakeVllm) -> None:
    nbce = engine(fake, temperature=2.0, max_tokens=20)
    fake.faults.append(Fault("die", 12))
    assert nbce.answer(QUESTION, PASSAGES).usage.generated_tokens > 0
    seeds = {body["vllm_xargs"]["nbce"] for body in fake.groups}
    groups = {body["vllm_xargs"]["nbce_group"] for body in fake.groups}
    assert (len(seeds), len(groups)) == (1, 2)


def test_another_answer_the_second_time_is_an_error(fake: FakeVllm) -> None:
    fake.faults += [Fault("die", 4), Fault("other", 2)]
    with pytest.raises(StreamError, match=r"different token 3, so that it cannot be gone on with"):
        engine(fake).answer(QUESTION, PASSAGES)


def test_when_nobody_can_answer_it_says_why(fake: FakeVllm) -> None:
    nbce = engine(fake, loading={"max_retries": 1})
    fake.faults += [Fault("status", 500), Fault("poison", 1)]
    with pytest.raises(RemoteError, match=r"after 2 tries: .*says 500: not now; .*out of step at token 2"):
        nbce.answer(QUESTION, PASSAGES)
    fake.reading_faults += [Fault("status", 503), Fault("die")]
    with pytest.raises(RemoteError, match=r"says 503: not now; .*cannot be reached or is silent"):
        nbce.answer(QUESTION, PASSAGES)
    fake.kill()
    with pytest.raises(RemoteError, match="No vLLM server could answer"):
        nbce.answer(QUESTION, PASSAGES)
    fake.start()
    assert nbce.answer(QUESTION, PASSAGES).tokens


def test_an_error_of_one_question_is_not_the_others(fake: FakeVllm) -> None:
    nbce = engine(fake, loading={"max_retries": 0})
    fake.faults += [None, Fault("die", 2), None]
    tickets = [nbce.scheduler.submit(nbce.request(q, PASSAGES)) for q in (QUESTION, "Why?", "When?")]
    outcomes = []
    for ticket in tickets:
        try:
            outcomes.append([*ticket][-1].answer is not None)
        except RemoteError:
            outcomes.append(False)
    assert sorted(outcomes) == [False, True, True]


def test_a_refusal_of_the_server_is_told_at_once(fake: FakeVllm) -> None:
    fake.max_logprobs = 2
    with pytest.raises(RemoteError, match=r"refuses .* \(400\): Requested sample logprobs of"):
        engine(fake).answer(QUESTION, PASSAGES)
    assert len(fake.groups) == 1


def test_a_group_goes_whole_to_one_rank_and_stays_there(fake: FakeVllm) -> None:
    nbce = engine(fake, loading={"data_parallel": 4})
    passages = [[Passage(f"The ferry number {n} is run by Ada. It leaves at {n}.")] for n in range(12)]
    used = set()
    for some in passages:
        ranks = set()
        for question in ("Who?", "When?"):
            fake.bodies.clear()
            nbce.answer(question, some)
            ranks |= {headers["x-data-parallel-rank"] for _, headers in fake.bodies}
        used |= ranks
        assert len(ranks) == 1  # reading and writing, and other questions over the passage
    assert len(used) > 1


def test_an_instance_with_much_to_do_is_passed_over(fake: FakeVllm, second: FakeVllm) -> None:
    nbce = engine(fake, second, max_tokens=4)
    fake.pace = second.pace = 0.02
    list(nbce.batch([(f"Question {n}?", PASSAGES) for n in range(12)]))
    counts = [len(server.groups) for server in (fake, second)]
    assert sum(counts) == 12
    assert min(counts) >= 3


def test_several_threads_at_once(fake: FakeVllm, plain: Callable[..., NBCE]) -> None:
    nbce = engine(fake)
    answers: dict[int, Answer] = {}

    def ask(number: int) -> None:
        answers[number] = nbce.answer(f"Who runs ferry {number}?", PASSAGES)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    theirs = plain(sleep=False)
    for number in (0, 5):
        assert_equal(answers[number], theirs.answer(f"Who runs ferry {number}?", PASSAGES))


def test_it_is_a_model_as_any_other(fake: FakeVllm) -> None:
    model: Model = loading.load_model(fake.url)  # mypy sees whether something is missing
    assert model.staging is None
    assert model.free() > model.cost(100, 10_000) + model.context_bytes(10_000)


def test_a_closed_model_opens_again(fake: FakeVllm) -> None:
    nbce = engine(fake)
    answer = nbce.answer(QUESTION, PASSAGES)
    model: Any = nbce.model
    assert isinstance(model, VllmModel)
    model.close()
    assert nbce.answer(QUESTION, PASSAGES).text == answer.text


def _wait(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)
