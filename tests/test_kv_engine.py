"""Answers from disk, from memory and cold are the same, whatever happens to the store."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import engine_of, read
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_child import PASSAGES as MANY
from kv_tools import assert_same_tokens, kill_while_writing

from nbce_rag.answers.answer import Answer
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError, NbceWarning
from nbce_rag.fusion import Posterior
from nbce_rag.kv.context import nbytes
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.model import TokenIds
from nbce_rag.models.transformers import contexts
from nbce_rag.models.transformers.contexts import read_contexts
from nbce_rag.models.transformers.memory import RowMemory
from nbce_rag.passages import Passage

Make = Callable[..., NBCE]

FAMILIES = ("llama", "mistral", "gemma3", "gpt2")  # two of them with sliding windows, of 9 and 7 tokens
QUESTION = "Who runs the ferry to the island, and when does it leave?"
PASSAGES = [
    Passage("The ferry to the island is run by Ada and leaves at noon from the old harbour.", title="Ferry"),
    Passage("At eight."),
    Passage("The market in the square opens at eight and sells fish, bread and apples." * 3),
    Passage("船在中午从旧港口出发。艾达负责渡轮。"),
]


def folder_store(folder: Path, **options: Any) -> PassageKVStore:
    return PassageKVStore(folder=folder, **options)


def reused(answer: Answer, nbce: NBCE) -> bool:
    """Whether every token before the question came from the store."""
    suffix = len(engine_of(nbce).plan(nbce.request(answer.question)).suffix.ids)
    usage = answer.usage
    return usage.cached_tokens == sum(usage.row_tokens) - suffix * len(usage.row_tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_cold_memory_and_disk_give_the_same(family: str, make_nbce: Make, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "fusion": "posterior"}
    plain = make_nbce(family, kv_store=False, **options).answer(QUESTION, PASSAGES)
    cold = make_nbce(family, kv_store=folder_store(tmp_path), **options)
    for attempt in ("cold", "memory"):
        answer = cold.answer(QUESTION, PASSAGES)
        assert reused(answer, cold) == (attempt == "memory")
        assert answer.tokens == plain.tokens  # ids, texts, log-probs and evidence, to the last bit
    assert cold.kv_store is not None
    cold.kv_store.close()
    for attempt in ("disk", "memory"):
        warm = make_nbce(family, kv_store=tmp_path, **options)
        answer = warm.answer(QUESTION, PASSAGES)
        assert reused(answer, warm), attempt
        assert answer.tokens == plain.tokens
        assert warm.kv_store is not None
        assert warm.kv_store.statistics.disk_hits == len(warm.kv_store)
        assert warm.kv_store.statistics.disk_misses == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_first_log_probs_from_disk_are_identical(family: str, make_nbce: Make, tmp_path: Path) -> None:
    def first(nbce: NBCE) -> torch.Tensor:
        return read(nbce, nbce.request(QUESTION, PASSAGES))[1]

    filled = make_nbce(family, kv_store=tmp_path)
    fresh = first(make_nbce(family, kv_store=False))
    assert torch.equal(first(filled), fresh)
    assert filled.kv_store is not None
    filled.kv_store.close()
    stored = make_nbce(family, kv_store=PassageKVStore(0, tmp_path))
    assert torch.equal(first(stored), fresh)
    assert stored.kv_store is not None
    assert stored.kv_store.statistics.disk_misses == 0


@pytest.mark.parametrize(("family", "windows"), [("mistral", (9, 9, 9)), ("gemma3", (7, None, 7))])
def test_sliding_layers_keep_their_window_alone(
    family: str, windows: tuple[int | None, ...], tiny_loaded: Callable[..., Any]
) -> None:
    loaded = tiny_loaded(family)
    for tokens in (1, 5, 6, 7, 8, 9, 30):
        ids = tuple(range(3, 3 + tokens))
        found, _ = read_contexts(loaded, [ids], None, 100)
        lengths = [found[ids][f"{layer}.keys"].shape[-2] for layer in range(len(windows))]
        assert lengths == [tokens if w is None else min(tokens, w - 1) for w in windows]
        assert loaded.context_bytes(tokens) == nbytes(found[ids])


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_one_token_less_than_the_window_would_show(
    family: str, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the tests above would see a window that is cut too short."""
    wanted = make_nbce(family, kv_store=False, max_tokens=8).answer(QUESTION, PASSAGES)
    place: Any = RowMemory.place

    def placed(memory: RowMemory, row: int, context: Any, tokens: int) -> None:
        shorter = {name: t[:, 1:] if t.shape[-2] < tokens else t for name, t in context.items()}
        place(memory, row, shorter, tokens)

    monkeypatch.setattr(RowMemory, "place", placed)
    changed = make_nbce(family, kv_store=False, max_tokens=8).answer(QUESTION, PASSAGES)
    assert [t.logprob for t in changed.tokens] != [t.logprob for t in wanted.tokens]


def test_a_damaged_store_answers_and_heals(make_nbce: Make, tmp_path: Path) -> None:
    plain = make_nbce("gemma3", kv_store=False, max_tokens=6).answer(QUESTION, PASSAGES)
    first = make_nbce("gemma3", kv_store=folder_store(tmp_path), max_tokens=6)
    first.answer(QUESTION, PASSAGES)
    assert first.kv_store is not None
    first.kv_store.close()
    paths = sorted(tmp_path.glob("*.safetensors"))
    for number, path in enumerate(paths):
        data = path.read_bytes()
        path.write_bytes((data[: len(data) // 2], b"", data[:-1] + bytes([data[-1] ^ 1]))[number % 3])
    second = make_nbce("gemma3", kv_store=folder_store(tmp_path), max_tokens=6)
    answer = second.answer(QUESTION, PASSAGES)
    assert answer.tokens == plain.tokens
    assert answer.usage.cached_tokens == 0
    assert second.kv_store is not None
    second.kv_store.close()
    assert second.kv_store.statistics.damaged == len(paths) > len(PASSAGES)
    third = make_nbce("gemma3", kv_store=tmp_path, max_tokens=6)
    assert reused(third.answer(QUESTION, PASSAGES), third)


def test_a_context_that_cannot_be_this_models_is_dropped(make_nbce: Make, tmp_path: Path) -> None:
    """Whole and rightly named, yet of other shapes: a file that somebody made."""
    nbce = make_nbce("llama", kv_store=tmp_path, max_tokens=4)
    plain = make_nbce("llama", kv_store=False, max_tokens=4).answer(QUESTION, PASSAGES)
    plan = engine_of(nbce).plan(nbce.request(QUESTION, PASSAGES))
    assert nbce.kv_store is not None
    for row, shape in zip(plan.rows[1:], [(2, 3, 8), (2, 4), (1, 1, 1)], strict=False):
        wrong = {f"{layer}.{name}": torch.zeros(shape) for layer in range(3) for name in ("keys", "values")}
        nbce.kv_store.of(nbce.model).put(row.context, wrong)
    nbce.kv_store.flush()
    answer = nbce.answer(QUESTION, PASSAGES)
    assert answer.tokens == plain.tokens
    assert answer.usage.cached_tokens == 0


def test_a_full_disk_is_said_once_and_answers_come(
    make_nbce: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    plain = make_nbce(kv_store=False, max_tokens=6).answer(QUESTION, PASSAGES)
    nbce = make_nbce(kv_store=folder_store(tmp_path), max_tokens=6)
    store = nbce.kv_store
    assert store is not None
    assert store._disk is not None
    answers = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            answers.append(nbce.answer(QUESTION, PASSAGES))
            store._disk.flush()
    assert all(answer.tokens == plain.tokens for answer in answers)
    assert sum("No space left" in warning for answer in answers for warning in answer.warnings) == 1
    assert ["No space left on device" in str(warning.message) for warning in said] == [True]
    assert not list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("folder", [None, "kv"])
def test_eight_bits_are_said_and_do_not_depend_on_the_tier(
    folder: str | None, make_nbce: Make, tmp_path: Path
) -> None:
    place = None if folder is None else tmp_path / folder
    exact = make_nbce("gemma3", kv_store=False, max_tokens=6).answer(QUESTION, PASSAGES)
    nbce = make_nbce("gemma3", kv_store=PassageKVStore(folder=place, codec="int8"), max_tokens=6)
    with pytest.warns(NbceWarning, match="rounded to 8 bits"):
        cold, memory = nbce.answer(QUESTION, PASSAGES), nbce.answer(QUESTION, PASSAGES)
    assert nbce.kv_store is not None
    nbce.kv_store.close()
    assert cold.tokens == memory.tokens
    assert cold.tokens != exact.tokens
    assert "rounded to 8 bits" in cold.warnings[0]
    assert not exact.warnings
    if place is not None:
        again = make_nbce("gemma3", kv_store=PassageKVStore(folder=place, codec="int8"), max_tokens=6)
        with pytest.warns(NbceWarning, match="rounded to 8 bits"):
            disk = again.answer(QUESTION, PASSAGES)
        assert disk.tokens == cold.tokens
        assert reused(disk, again)


@pytest.mark.parametrize("chat", [False, True])
def test_what_was_read_ahead_is_what_a_question_needs(chat: bool, make_nbce: Make, tmp_path: Path) -> None:
    scored = [dataclasses.replace(passage, score=0.5) for passage in PASSAGES]
    seen: list[tuple[int, int]] = []
    nbce = make_nbce(chat=chat, kv_store=folder_store(tmp_path), max_tokens=4)
    report = nbce.prefill(
        PASSAGES, sentences=False, progress=lambda done, total, what: seen.append((done, total))
    )
    assert (report.passages, report.read, report.kept, report.too_long) == (4, 4, 0, ())
    assert report.sentences == 0
    assert seen[-1] == (4, 4)
    texts = iter([passage.text for passage in PASSAGES[1:]])
    assert nbce.prefill(texts, sentences=False).kept == 3  # without titles too
    warm = make_nbce(chat=chat, kv_store=tmp_path, max_tokens=4)
    plain = make_nbce(chat=chat, kv_store=False, max_tokens=4)
    for rule in (Posterior(focus=0.0, together=0), Posterior(together=0)):
        answer = warm.answer(QUESTION, scored, fusion=rule)
        # Which passages are read by sentences is known when the question comes.
        assert reused(answer, warm) == (len(answer.usage.row_tokens) == 1 + len(PASSAGES))
        assert answer.usage.cached_tokens > 0
        assert_same_tokens(answer, plain.answer(QUESTION, scored, fusion=rule))
    assert reused(warm.answer(QUESTION, scored, fusion=Posterior(together=0)), warm)


@pytest.mark.parametrize("chat", [False, True])
def test_sentences_are_read_ahead_too(chat: bool, make_nbce: Make, tmp_path: Path) -> None:
    prose = [
        Passage("The ferry is run by Ada. It leaves at noon. Dogs ride for free.", title="Ferry", score=0.9),
        Passage("船在中午从旧港口出发。艾达负责渡轮。", score=0.1),
        Passage("```python\nclient = open('x')\nclient.close()\n```\n\n- one\n- two", score=0.0),
    ]
    filled = make_nbce(chat=chat, kv_store=folder_store(tmp_path), max_tokens=4)
    report = filled.prefill(prose)
    assert (report.read, report.sentences) == (3, 5)  # none of what is no prose
    again = filled.prefill(prose)
    assert (again.read, again.kept, again.sentences) == (0, 3, 0)
    warm = make_nbce(chat=chat, kv_store=tmp_path, max_tokens=4)
    plain = make_nbce(chat=chat, kv_store=False, max_tokens=4)
    answer = warm.answer(QUESTION, prose[:1], fusion="posterior")
    assert answer.usage.sentence_rows == 3
    assert reused(answer, warm)
    assert_same_tokens(answer, plain.answer(QUESTION, prose[:1], fusion="posterior"))
    for options in ({"fusion": "min-entropy"}, {"fusion": Posterior(focus=0.0)}):  # which read no sentences
        other = make_nbce(chat=chat, kv_store=PassageKVStore(10**8), max_tokens=4)
        assert other.prefill(prose, **options).sentences == 0


def test_passages_longer_than_a_row_wait_for_their_question(make_nbce: Make, tmp_path: Path) -> None:
    long = Passage("The ferry leaves at noon. " * 200, id="long")
    nbce = make_nbce(kv_store=folder_store(tmp_path), max_tokens=4)
    report = nbce.prefill([*PASSAGES[:2], long])
    assert (report.read, report.too_long) == (2, ("long",))


def test_what_cannot_be_read_ahead(make_nbce: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no KV store"):
        make_nbce(kv_store=False).prefill(PASSAGES)
    with pytest.raises(InputError, match="order_labels"):
        make_nbce(kv_store=tmp_path).prefill(PASSAGES, order_labels=True)
    for store in (folder_store(tmp_path, max_disk_bytes=50_000), PassageKVStore(50_000)):
        with pytest.raises(InputError, match=r"take about 0\.0 GB and the KV store may hold"):
            make_nbce(kv_store=store).prefill(PASSAGES * 3)
    assert not list(tmp_path.glob("*.safetensors"))


def test_two_processes_share_a_folder_and_one_is_killed(
    tiny_loaded: Callable[..., Any], tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """One writes, the other evicts and answers; kill -9 leaves a store that opens and answers.

    `tests/benchmarks/stress_kv_store.py` kills as often as one likes.
    """
    loaded, limit = tiny_loaded("gemma3"), 25_000  # less than what is written below
    plain = NBCE(loaded, kv_store=False, max_tokens=3)
    evicted: list[int] = []

    def share() -> None:
        for start in (0, 8):
            own = [Passage(f"Letter {start} {n}: the ferry carries bread and apples. " * 3) for n in "abc"]
            passages = [*MANY[start : start + 3], *own]
            store = PassageKVStore(0, tmp_path, max_disk_bytes=limit)
            answer = NBCE(loaded, kv_store=store, max_tokens=3).answer("When?", passages)
            assert_same_tokens(answer, plain.answer("When?", passages))
            store.close()
            assert store.statistics.damaged == 0
            evicted.append(store.statistics.evicted)

    kill_while_writing(loaded, tiny_folder("gemma3"), tmp_path, share)
    assert sum(evicted) > 0


def test_reading_ahead_ends_when_nothing_can_be_written(
    make_nbce: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbce_rag.engine.prefill._BATCH", 4)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nbce_rag.kv.disk.write_context", full)
    nbce = make_nbce("llama", kv_store=PassageKVStore(0, tmp_path / "kv"))
    done: list[int] = []
    with pytest.raises(InputError, match=r"cannot be written.*Reading ended after"):
        nbce.prefill([f"passage {n}" for n in range(200)], progress=lambda d, t, w: done.append(d))
    assert len(done) < 40
    with pytest.raises(InputError, match="No space left on device"):
        make_nbce("llama", kv_store=PassageKVStore(0, tmp_path / "kv")).prefill(["one passage"])


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    budget=st.sampled_from([40, 200, 10_000]),
)
def test_passes_on_a_cpu_are_padded_by_little(
    lengths: list[int], budget: int, tiny_loaded: Callable[..., Any]
) -> None:
    model = tiny_loaded("llama")
    unread = [(5 + number % 20, *[7] * (length - 1)) for number, length in enumerate(lengths)]
    passes: list[list[int]] = []
    read = contexts._prefill

    def watched(model: Any, chunk: Sequence[TokenIds]) -> Any:
        passes.append([len(ids) for ids in chunk])
        return read(model, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "_prefill", watched)
        packed, _ = read_contexts(model, unread, None, budget)
    assert packed.keys() == set(unread)
    assert sum(map(len, passes)) == len(set(unread))
    for chunk in passes:
        assert len(chunk) == 1 or len(chunk) * max(chunk) <= budget
        # What came behind the first tokens of a pass pads it by a twentieth at most.
        assert len(chunk) * max(chunk) <= 1.05 * sum(chunk) or sum(chunk[:-1]) < 256
