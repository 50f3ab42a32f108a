"""Rag: index and engine in one. What it answers is what searching and answering give one by one."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_reference import TEMPLATE, assert_same_answer
from index_tools import bag_of_words, ids

from nbce_rag import NBCE, NbceWarning, Passage, PassageIndex, PassageKVStore, Rag
from nbce_rag.engine.option_groups import option_names
from nbce_rag.errors import (
    EmbedderMismatchError,
    IndexNotFoundError,
    InputError,
    ModelError,
    PassageIndexError,
)

Make = Callable[..., Rag]
QUESTION = "Who runs the ferry?"
PASSAGES = [
    Passage("The ferry to the island is run by Ada.", id="ferry", metadata={"year": 1931}),
    Passage("Fish and bread are sold in the market.", id="market", metadata={"year": 1950}),
    Passage("The museum was built in 1891.", id="museum", metadata={"year": 1891}),
    Passage("The old harbour has a ferry.", id="harbour", metadata={"year": 1822}),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my-index"
    with PassageIndex.create(path, bag_of_words) as index:
        index.add(PASSAGES)
    return path


@pytest.fixture
def open_rag(folder: Path, tiny_folder: Callable[..., Path]) -> Iterator[Make]:
    """`open_rag(k=2, ...)`: `Rag.open` on the index of `PASSAGES`, with a tiny model."""
    opened: list[Rag] = []

    def make(**options: Any) -> Rag:
        defaults: dict[str, Any] = {"dtype": "float32", "device": "cpu", "prompt": TEMPLATE, "max_tokens": 8}
        opened.append(
            Rag.open(folder, tiny_folder("llama"), embedder=bag_of_words, **{**defaults, **options})
        )
        return opened[-1]

    yield make
    for rag in opened:
        rag.close()


@pytest.fixture
def rag(open_rag: Make) -> Rag:
    return open_rag()


class Pieces:
    """Counts pieces of answers; each takes at least `pause` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pause: float = 0.0) -> None:
        self.count = 0
        self.threads: set[int] = set()
        self.fails_with: BaseException | None = None
        original = NBCE.stream_batch

        def stream_batch(nbce: NBCE, requests: Any) -> Iterator[Any]:
            for item in original(nbce, requests):
                self.count += 1
                self.threads.add(threading.get_ident())
                time.sleep(pause)
                if self.fails_with is not None:
                    raise self.fails_with
                yield item

        monkeypatch.setattr(NBCE, "stream_batch", stream_batch)

    async def rest(self) -> int:
        """The count after everything that runs has had time to go on, were it to go on."""
        await asyncio.sleep(0.15)
        settled = self.count
        await asyncio.sleep(0.15)
        assert self.count == settled
        return settled


async def consume(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


# What it answers


def test_an_answer_is_that_of_searching_and_answering(rag: Rag) -> None:
    answer = rag.ask(QUESTION, k=3)
    passages = rag.index.search(QUESTION, k=3)
    assert_same_answer(answer, rag.nbce.answer(QUESTION, passages))
    assert ids(list(answer.passages)) == ids(passages) == ids(rag.search(QUESTION, k=3))
    assert [p.score for p in answer.passages] == [p.score for p in passages]


def test_the_time_of_the_search_is_part_of_the_whole(rag: Rag) -> None:
    for answer in (rag.ask(QUESTION), [*rag.stream(QUESTION)][-1].answer):
        assert answer is not None
        timings = answer.timings
        assert timings.retrieve is not None
        assert timings.retrieve > 0
        assert timings.total >= timings.retrieve + timings.prefill + timings.decode - 1e-6


def test_a_stream_joins_to_the_answer(rag: Rag) -> None:
    answer = rag.ask(QUESTION)
    pieces = list(rag.stream(QUESTION))
    assert "".join(piece.text for piece in pieces) == answer.text
    assert [piece.answer is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert_same_answer(pieces[-1].answer, answer)


def test_several_questions_at_once(rag: Rag, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [QUESTION, "When was the museum built?", "What is sold?"]
    alone = [rag.ask(question, k=2) for question in questions]
    searches: list[int] = []
    original = PassageIndex.search_batch

    def search_batch(index: PassageIndex, queries: Any, *more: Any, **options: Any) -> Any:
        searches.append(len(queries))
        return original(index, queries, *more, **options)

    monkeypatch.setattr(PassageIndex, "search_batch", search_batch)
    together = rag.batch(questions, k=2)
    assert searches == [3]
    for one, other in zip(together, alone, strict=True):
        assert_same_answer(one, other)
    assert len({answer.timings.retrieve for answer in together}) == 1
    assert rag.batch([]) == []


def test_a_comparison(rag: Rag) -> None:
    comparison = rag.compare(QUESTION, k=2, max_tokens=4)
    passages = [passage for group in comparison.groups for passage in group.passages]
    assert {p.id for p in (*passages, *comparison.silent)} == set(ids(rag.search(QUESTION, k=2)))


def test_options_go_where_their_names_belong(rag: Rag) -> None:
    def rerank(query: str, texts: Any) -> list[float]:
        return [1.0 if "museum" in text else 0.1 for text in texts]

    answer = rag.ask(
        QUESTION, 2, {"year": {"$lt": 1950}}, mode="hybrid", rerank=rerank, fusion="mean", max_tokens=3
    )
    assert answer.passages[0].id == "museum"
    assert len(answer.passages) == 2
    assert answer.fusion == "mean"
    assert answer.usage.generated_tokens <= 3
    assert ids(rag.search(QUESTION, ids=["fish", "market"])) == ["market"]
    looked = rag.ask(QUESTION, 2, look=True, max_tokens=1).passages
    assert list(looked) == [
        replace(p, relevance=q.relevance)
        for p, q in zip(rag.search(QUESTION, 2, look=True), looked, strict=True)
    ]


def test_defaults_are_given_once_and_replaced_for_a_call(open_rag: Make) -> None:
    rag = open_rag(k=1, where={"year": {"$gte": 1900}}, max_tokens=2)
    assert ids(list(rag.ask(QUESTION).passages)) == ["ferry"]
    assert rag.ask(QUESTION).usage.generated_tokens <= 2
    assert len(rag.search(QUESTION, k=8)) == 2
    assert len(rag.search(QUESTION, k=8, where={})) == 4
    assert rag.ask(QUESTION, k=8, where={"year": 1891}, max_tokens=5).passages[0].id == "museum"
    assert len(rag.ask(QUESTION).passages) == 1  # nothing of a call stays


def test_eight_passages_are_read_unless_told_otherwise(rag: Rag) -> None:
    rag.index.add([Passage(f"Ferry number {number}.") for number in range(20)])
    assert len(rag.ask(QUESTION, max_tokens=1).passages) == 8


def test_ids_that_can_be_read_once_last_for_many_searches(open_rag: Make) -> None:
    rag = open_rag(ids=iter(["museum", "market"]))
    for _ in range(2):
        assert set(ids(rag.search(QUESTION))) == {"museum", "market"}


def test_a_reranker_by_name_is_made_once(open_rag: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    class CrossEncoder:
        def __init__(self, name: str) -> None:
            names.append(name)

        def score(self, query: str, texts: Any) -> list[float]:
            return [len(text) / 100 for text in texts]

    monkeypatch.setattr("nbce_rag.index.reranking.CrossEncoderReranker", CrossEncoder)
    rag = open_rag(rerank="some/model")
    assert ids(rag.search(QUESTION, k=1)) == ids(rag.search(QUESTION, k=1)) != ["harbour"]
    assert names == ["some/model"]
    assert ids(rag.search(QUESTION, rerank=None, k=1)) == ids(rag.index.search(QUESTION, k=1))


# Nothing found


def test_where_nothing_is_found_nothing_is_answered(rag: Rag) -> None:
    for options in ({"min_score": 1.0}, {"where": {"year": 3000}}):
        with pytest.warns(NbceWarning, match="No passage was found"):
            answer = rag.ask(QUESTION, **options)
        assert (answer.text, answer.finish_reason) == (rag.nbce.options.abstention, "no_evidence")
        assert answer.usage.prompt_tokens == 0
        assert answer.passages == ()
        with pytest.warns(NbceWarning, match="No passage was found"):
            *_, last = rag.stream(QUESTION, **options)
        assert last.answer is not None
        assert last.answer.text == answer.text
        assert json.loads(json.dumps(answer.to_dict()))["finish_reason"] == "no_evidence"


def test_a_batch_in_which_one_question_finds_nothing(rag: Rag) -> None:
    requests = [
        rag.nbce.request(QUESTION, PASSAGES[:2]),
        replace(rag.nbce.request(QUESTION), is_retrieved=True),
        rag.nbce.request(QUESTION, PASSAGES[2:]),
    ]
    with pytest.warns(NbceWarning, match="No passage was found"):
        first, second, third = rag.nbce.batch(requests)
    assert_same_answer(first, rag.nbce.answer(QUESTION, PASSAGES[:2]))
    assert second.text == rag.nbce.options.abstention
    assert_same_answer(third, rag.nbce.answer(QUESTION, PASSAGES[2:]))


def test_where_nothing_is_found_the_question_alone_is_answered_if_told_so(rag: Rag) -> None:
    for options in ({"min_score": 1.0}, {"where": {"year": 3000}}):
        with pytest.warns(NbceWarning, match="question alone"):
            answer = rag.ask(QUESTION, **options, answer_without_context=True)
        assert answer.passages == ()
        assert answer.finish_reason != "no_evidence"
        assert answer.citations == ()
        assert any("question alone" in warning for warning in answer.warnings)
        assert answer.timings.retrieve is not None
        assert rag.search(QUESTION, **options) == []
        with pytest.raises(InputError, match="at least one passage"):
            rag.compare(QUESTION, **options)


def test_an_empty_index(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    PassageIndex.create(tmp_path / "empty", bag_of_words).close()
    with (
        Rag.open(tmp_path / "empty", tiny_folder("llama"), embedder=bag_of_words, max_tokens=2) as rag,
        pytest.warns(NbceWarning, match="question alone"),
    ):
        assert rag.ask(QUESTION).passages == ()


# Wrong arguments


def test_no_name_is_of_two_groups_and_none_is_missing() -> None:
    groups = option_names()
    names = [name for members in groups.values() for name in members]
    assert len(names) == len(set(names))
    assert {"k", "where", "mode", "rerank", "mmr", "min_score", "ids", "options"} <= set(groups["search"])
    assert {"fusion", "max_tokens", "json_schema", "entropies"} <= set(groups["answer"])
    assert {"model", "device", "kv_store", "embedder", "revision"} <= set(groups["opening"])
    assert set(inspect.signature(PassageIndex.search).parameters) - {"self", "query", "text"} == set(
        groups["search"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_token": 3}, r"Unknown option max_token.*search: k, where.*answer: fusion, style, max_tokens"),
        ({"device": "cpu"}, "device is an option of the opening; give it to Rag.open"),
        ({"text": "ferry"}, "Unknown option text"),
        ({"document": "ferry"}, "Unknown option document"),
        ({"max_tokens": 0}, "max_tokens=0"),
    ],
)
def test_options_of_a_call_that_are_wrong(rag: Rag, options: dict[str, Any], message: str) -> None:
    for ask in (rag.ask, rag.stream, rag.astream, rag.compare):
        with pytest.raises(InputError, match=message):
            ask(QUESTION, **options)
    with pytest.raises(InputError, match=message):
        asyncio.run(rag.aask(QUESTION, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": 0}, "k must"), ({"mode": "fuzzy"}, "mode"), ({"mmr": 2}, "mmr"), ({"where": {"$or": 1}}, "or")],
)
def test_options_of_a_search_that_are_wrong(
    rag: Rag, open_rag: Make, options: dict[str, Any], message: str
) -> None:
    for ask in (rag.ask, rag.search, rag.compare, lambda q, **more: list(rag.stream(q, **more))):
        with pytest.raises(InputError, match=message):
            ask(QUESTION, **options)
    with pytest.raises(InputError, match=message):
        Rag(rag.index, rag.nbce, **options)
    with pytest.raises(InputError, match=message):
        open_rag(**options)


def test_a_search_takes_no_options_of_the_answer(rag: Rag) -> None:
    with pytest.raises(InputError, match=r"option of the answer; give it to Rag.open or any way"):
        rag.search(QUESTION, max_tokens=3)
    with pytest.raises(InputError, match="max_tokens is an option of the answer"):
        Rag(rag.index, rag.nbce, max_tokens=3)
    with pytest.raises(InputError, match=r"Unknown option colour. There are, for the search: k, where"):
        rag.search(QUESTION, colour="red")


@pytest.mark.parametrize("question", ["", "  \n", None, 3])
def test_questions_that_are_none(rag: Rag, question: Any) -> None:
    for ask in (rag.ask, rag.stream, rag.astream, rag.compare):
        with pytest.raises(InputError, match="empty"):
            ask(question)


def test_one_question_is_no_list_of_them(rag: Rag) -> None:
    with pytest.raises(InputError, match="put it into a list"):
        rag.batch(QUESTION)
    with pytest.raises(InputError, match="put it into a list"):
        asyncio.run(rag.abatch(QUESTION))


# Opening and closing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_token": 1}, "Unknown option max_token. There are, for the search: .* opening: model,"),
        ({"fusion": "maximum"}, "maximum"),
        ({"k": 0}, "k must"),
        ({"mode": "fuzzy"}, "mode must"),
        ({"rerank": 3}, "rerank takes"),
        ({"where": {"year": {"$above": 3}}}, "above"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    closed: list[Path] = []
    close = PassageIndex.close
    loaded: list[str] = []

    def closing(index: PassageIndex) -> None:
        closed.append(index.path)
        close(index)

    def load(name: str, device: str | None) -> Any:
        loaded.append(name)
        raise ModelError("no embedder here")

    with monkeypatch.context() as patch:
        patch.setattr("nbce_rag.embedding.sentence_transformer.SentenceTransformerEmbedder.dimension", 8)
        PassageIndex.create(tmp_path / "named", "some/embedder").close()
    monkeypatch.setattr(PassageIndex, "close", closing)
    monkeypatch.setattr("nbce_rag.embedding.sentence_transformer.load_embedding_model", load)
    with pytest.raises(InputError, match=message):
        Rag.open(tmp_path / "named", "no/model", **options)
    assert not loaded
    assert len(closed) == 1
    with pytest.raises(ModelError, match="no embedder here"):  # sooner than the larger model
        Rag.open(tmp_path / "named", "no/model")
    assert len(closed) == 2


def test_what_cannot_be_opened(folder: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "no model here"
    with pytest.raises(IndexNotFoundError):
        Rag.open(tmp_path / "nowhere", nowhere, max_tokens=0)
    with pytest.raises(EmbedderMismatchError):
        Rag.open(folder, nowhere)
    with pytest.raises(ModelError, match="no model here"):
        Rag.open(folder, nowhere, embedder=bag_of_words, local_files_only=True)


def test_a_model_that_is_loaded_already(folder: Path, tiny_loaded: Callable[..., Any]) -> None:
    loaded = tiny_loaded("llama")
    with Rag.open(
        folder, loaded.model, tokenizer=loaded.tokenizer, embedder=bag_of_words, max_tokens=2
    ) as rag:
        assert len(rag.ask(QUESTION).passages) == 4


def test_leaving_it_closes_what_was_opened(open_rag: Make, tmp_path: Path) -> None:
    with open_rag(kv_store=tmp_path / "kv") as rag:
        rag.ask(QUESTION)
        assert "my-index" in repr(rag)
        assert "llama" in repr(rag)
    assert len(list((tmp_path / "kv").glob("**/*.safetensors"))) == 5  # on disk now
    with pytest.raises(PassageIndexError, match="closed"):
        rag.ask(QUESTION)
    rag.close()


def test_what_was_given_stays_open(folder: Path, make_nbce: Callable[..., NBCE]) -> None:
    with PassageIndex.open(folder, bag_of_words) as index:
        with Rag(index, make_nbce(prompt=TEMPLATE, max_tokens=3), k=2) as rag:
            answer = rag.ask(QUESTION)
            assert len(answer.passages) == 2
        assert len(index.search(QUESTION)) == 4


def test_keys_and_values_of_the_index_are_taken_where_there_are_some(open_rag: Make, folder: Path) -> None:
    with open_rag() as rag:
        assert rag.nbce.kv_store is not None
        assert rag.nbce.kv_store.folder is None
        rag.ask(QUESTION)
    assert not (folder / "kv").exists()
    with open_rag(kv_store=True) as rag:
        rag.nbce.prefill(rag.index)
    with open_rag() as rag:
        assert rag.nbce.kv_store is not None
        assert rag.nbce.kv_store.folder == folder / "kv"
        assert rag.ask(QUESTION).usage.cached_tokens > 0
    with open_rag(kv_store=False) as rag:
        assert rag.nbce.kv_store is None
        assert rag.ask(QUESTION).usage.cached_tokens == 0
    store = PassageKVStore()
    with open_rag(kv_store=store) as rag:
        assert rag.nbce.kv_store is store


# Threads, event loops, interruptions


def test_threads_share_it(rag: Rag) -> None:
    questions = [f"{QUESTION} {number}" for number in range(8)]
    alone = [rag.ask(question, k=1 + number % 3) for number, question in enumerate(questions)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: rag.ask(questions[n], k=1 + n % 3), range(8)))
    for one, other in zip(together, alone, strict=True):
        assert_same_answer(one, other)


def test_async_equals_sync(rag: Rag) -> None:
    async def main() -> None:
        answer = rag.ask(QUESTION, k=2)
        assert_same_answer(await rag.aask(QUESTION, k=2), answer)
        pieces = [piece async for piece in rag.astream(QUESTION, k=2)]
        assert "".join(piece.text for piece in pieces) == answer.text
        assert pieces[-1].answer is not None
        assert_same_answer(pieces[-1].answer, answer)
        assert pieces[-1].answer.timings.retrieve is not None
        several = await rag.abatch([QUESTION, "What is sold?"], k=2)
        for one, other in zip(several, rag.batch([QUESTION, "What is sold?"], k=2), strict=True):
            assert_same_answer(one, other)
        many = await asyncio.gather(*(rag.aask(QUESTION, k=k) for k in (1, 2, 3)))
        assert [len(one.passages) for one in many] == [1, 2, 3]

    asyncio.run(main())


def test_the_event_loop_stays_free(open_rag: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rag = open_rag()
    pieces = Pieces(monkeypatch, pause=0.03)
    original = PassageIndex.search_batch
    searching: set[int] = set()

    def search_batch(*arguments: Any, **options: Any) -> Any:
        searching.add(threading.get_ident())
        time.sleep(0.1)
        return original(*arguments, **options)

    monkeypatch.setattr(PassageIndex, "search_batch", search_batch)

    async def main() -> int:
        ticks = 0
        task = asyncio.create_task(rag.aask(QUESTION))
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return ticks

    assert asyncio.run(main()) > 10
    assert threading.get_ident() not in searching | pieces.threads


@pytest.mark.parametrize("form", ["aask", "abatch", "astream"])
def test_a_cancelled_task_stops(form: str, rag: Rag, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = rag.ask(QUESTION)
    pieces = Pieces(monkeypatch, pause=0.02)
    calls: dict[str, Callable[[], Any]] = {
        "aask": lambda: rag.aask(QUESTION, max_tokens=200),
        "abatch": lambda: rag.abatch([QUESTION], max_tokens=200),
        "astream": lambda: consume(rag.astream(QUESTION, max_tokens=200)),
    }

    async def main() -> None:
        task = asyncio.create_task(calls[form]())
        while pieces.count < 3:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await pieces.rest() < 12
        assert_same_answer(await rag.aask(QUESTION), wanted)

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_searches_answers_nothing(
    rag: Rag, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = Pieces(monkeypatch)
    original = PassageIndex.search_batch
    started = threading.Event()

    def search_batch(*arguments: Any, **options: Any) -> Any:
        started.set()
        time.sleep(0.2)
        return original(*arguments, **options)

    monkeypatch.setattr(PassageIndex, "search_batch", search_batch)

    async def main() -> None:
        for call in (rag.aask(QUESTION), consume(rag.astream(QUESTION))):
            started.clear()
            task = asyncio.create_task(call)
            await asyncio.to_thread(started.wait)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
            assert await pieces.rest() == 0

    asyncio.run(main())


def test_leaving_a_stream_stops_it(rag: Rag, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = Pieces(monkeypatch)
    stream = rag.stream(QUESTION, max_tokens=200)
    assert pieces.count == 0
    next(stream)
    count = pieces.count
    stream.close()  # type: ignore[attr-defined]
    assert next(stream, None) is None
    assert pieces.count == count

    async def main() -> None:
        async for _ in rag.astream(QUESTION, max_tokens=200):
            break
        await pieces.rest()

    asyncio.run(main())


def test_ctrl_c_leaves_it_whole(rag: Rag, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = rag.ask(QUESTION)
    pieces = Pieces(monkeypatch)
    for ask in (rag.ask, lambda question: list(rag.stream(question))):
        pieces.fails_with = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            ask(QUESTION)
        pieces.fails_with = None
        assert_same_answer(rag.ask(QUESTION), wanted)


def test_what_excluded_everything_is_said(rag: Rag, open_rag: Callable[..., Rag]) -> None:
    assert "none meets year = 3000" in rag.explain({"year": 3000})
    assert "score of 1.0 or more" in rag.explain(min_score=1.0)
    assert "none meets year = 3000" in open_rag(where={"year": 3000}).explain()


def test_attribute_reads_what_ask_would_read(open_rag: Make) -> None:
    rag = open_rag(k=3, fusion="mean")
    text = "Ada runs it."
    answer = rag.attribute(QUESTION, text, k=2, where={"year": {"$gte": 1850}})
    passages = rag.search(QUESTION, k=2, where={"year": {"$gte": 1850}})
    alone = rag.nbce.attribute(QUESTION, passages, text)
    assert_same_answer(answer, alone)
    assert answer.text == text
    assert answer.fusion == "mean"
    assert answer.timings.retrieve is not None
    assert answer.timings.total > answer.timings.retrieve
    assert_same_answer(
        asyncio.run(rag.aattribute(QUESTION, text, k=2, where={"year": {"$gte": 1850}})), answer
    )
    ablated = rag.ablate(answer)
    assert ablated.ablation == rag.nbce.ablate(alone).ablation
    assert asyncio.run(rag.nbce.aablate(answer)).ablation == ablated.ablation
    assert asyncio.run(rag.aablate(answer)).ablation == ablated.ablation
    assert rag.ablate(rag.ask(QUESTION)).ablation is not None
    with pytest.raises(InputError, match=r"No passage was found .* year"):
        rag.attribute(QUESTION, text, where={"year": 3000})
    with pytest.raises(InputError, match="device is an option of"):
        rag.attribute(QUESTION, text, device="cpu")


def test_each_part_of_a_question_is_searched_for(open_rag: Make) -> None:
    rag = open_rag(prompt=None, k=2, max_tokens=3)
    questions = ["When does the ferry leave?", "Where is the museum of fish?"]
    answer = rag.ask("\n".join(questions))
    assert [ids(list(part.passages)) for part in answer.parts] == [ids(rag.search(q)) for q in questions]
    assert answer.text == "\n".join(f"{n}. {part.text}" for n, part in enumerate(answer.parts, 1))
    assert answer.timings.retrieve is not None
    assert set(ids(list(answer.passages))) == {p.id for part in answer.parts for p in part.passages}
    assert rag.ask("\n".join(questions), parts=False).parts == ()
    pieces = list(rag.stream("\n".join(questions)))
    assert "".join(piece.text for piece in pieces) == answer.text
    with pytest.warns(match="No passage was found"):
        nothing = rag.ask("\n".join(questions), where={"year": 1})
    assert (nothing.finish_reason, nothing.parts) == ("no_evidence", ())


def test_retrieving_gives_requests_what_asking_reads(rag: Rag) -> None:
    [request], seconds = rag.retrieve([rag.nbce.request(QUESTION)], k=2)
    assert ids(list(request.passages)) == ids(rag.search(QUESTION, k=2))
    assert request.is_retrieved
    assert seconds > 0
    assert_same_answer(rag.nbce.batch([request])[0], rag.ask(QUESTION, k=2))
    for wrong in ({"k": 0}, {"where": {"$like": 3}}, {"max_tokens": 3}):
        with pytest.raises(InputError):
            rag.retrieve([], **wrong)
