"""Whole answers by models whose layers keep states, or keys and values of several shapes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import TEMPLATE, engine_of, record_samplers, row_prompts, slow_decode
from test_cli import run
from tiny_models import build_tokenizer
from unusual_models import build_unusual

from nbce_rag import NBCE, Passage
from nbce_rag.engine.prefill import _stored_bytes
from nbce_rag.errors import InputError, NbceWarning, NumericalError
from nbce_rag.fusion import Mean, MinEntropy
from nbce_rag.fusion.base import FusionState
from nbce_rag.kv.codec import HalfStatesCodec
from nbce_rag.kv.context import nbytes
from nbce_rag.kv.format import read_label
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.model import RowPrompt
from nbce_rag.models.transformers import contexts
from nbce_rag.models.transformers.contexts import read_contexts
from nbce_rag.models.transformers.loading import wrap_model

QUESTION = "Who runs the ferry to the island, and when does it leave?"
PASSAGES = [
    Passage("The ferry to the island is run by Ada and leaves at noon from the old harbour.", title="Ferry"),
    Passage("At eight."),
    Passage("The market in the square opens at eight and sells fish, bread and apples." * 3),
]
KINDS = ("qwen3_5", "granitemoehybrid", "jamba", "gemma4", "deepseek_v32")


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], Any]:
    """`loaded("lfm2")`: a model made once."""
    made: dict[str, Any] = {}

    def make(kind: str) -> Any:
        if kind not in made:
            made[kind] = wrap_model(build_unusual(kind), build_tokenizer(), name=kind)
        return made[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", [Mean(), MinEntropy()], ids=["mean", "min-entropy"])
def test_answers_are_those_of_whole_passes(
    kind: str, rule: Any, loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = record_samplers(monkeypatch)
    nbce = NBCE(loaded(kind), prompt=TEMPLATE, fusion=rule, max_tokens=8)
    answer = nbce.answer(QUESTION, PASSAGES)
    plain = slow_decode(nbce, row_prompts(nbce, QUESTION, PASSAGES), rule, 8, FusionState())
    assert samplers[-1].ids == plain.tokens
    log_probs = dict(zip(plain.tokens, plain.log_probs, strict=True))
    assert all(t.logprob == pytest.approx(log_probs[t.id], abs=1e-3) for t in answer.tokens[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_answer_comes_from_disk(kind: str, loaded: Callable[[str], Any], tmp_path: Path) -> None:
    plain = NBCE(loaded(kind), kv_store=False, max_tokens=8).answer(QUESTION, PASSAGES)
    for attempt in range(2):
        nbce = NBCE(loaded(kind), kv_store=PassageKVStore(0, tmp_path), max_tokens=8)
        answer = nbce.answer(QUESTION, PASSAGES)
        assert [t.id for t in answer.tokens] == [t.id for t in plain.tokens]
        assert [t.logprob for t in answer.tokens] == pytest.approx(
            [t.logprob for t in plain.tokens], abs=1e-3
        )
        suffix = len(engine_of(nbce).plan(nbce.request(QUESTION)).suffix.ids)
        before = sum(answer.usage.row_tokens) - suffix * len(answer.usage.row_tokens)
        assert answer.usage.cached_tokens == (before if attempt else 0)
        assert nbce.kv_store is not None
        nbce.kv_store.close()
        assert nbce.kv_store.statistics.damaged == 0


@pytest.mark.parametrize("kind", ["qwen3_5", "jamba"])
def test_drafts_change_nothing(kind: str, loaded: Callable[[str], Any]) -> None:
    """Passages that say one thing over and over are copied from."""
    copied = [
        Passage("fish bread fish bread fish bread fish bread fish bread " * 3),
        Passage("fish fish fish fish"),
    ]
    answers = [
        NBCE(loaded(kind), max_tokens=24, prompt_lookup_num_tokens=drafts).answer("fish bread?", copied)
        for drafts in (0, 8)
    ]
    assert [t.id for t in answers[0].tokens] == [t.id for t in answers[1].tokens]


def test_stored_contexts_stay_as_they_are_while_rows_go_on(loaded: Callable[[str], Any]) -> None:
    model = loaded("granitemoehybrid")
    ids = tuple(range(3, 30))
    packed, _ = read_contexts(model, [ids], None, 1000)
    before = {name: tensor.clone() for name, tensor in packed[ids].items()}
    store = PassageKVStore().of(model)
    store.put(ids, packed[ids])
    rows, _ = model.open([RowPrompt(((), ids), (5, 6, 7))], 8, store)
    rows.step(torch.tensor([[8, 9], [8, 9]]))
    assert all(torch.equal(packed[ids][name], tensor) for name, tensor in before.items())


def rows_of(model: Any) -> Any:
    """Two rows with room for 8 tokens."""
    rows, _ = model.open([RowPrompt(((3, 4), (5, 6, 7)), (8, 9))], 8)
    return rows


def test_a_step_that_fails_changes_no_state(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, twin = (rows_of(loaded("lfm2")) for _ in range(2))
    forward: Any = rows._forward

    def failing(cache: Any, ids: Any) -> Any:
        forward(cache, ids)
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "_forward", failing)
    new = torch.tensor([[10, 11], [12, 13]])
    with pytest.raises(KeyboardInterrupt):
        rows.step(new)
    monkeypatch.setattr(rows, "_forward", forward)
    torch.testing.assert_close(rows.step(new), twin.step(new), atol=1e-6, rtol=0)


def test_a_step_for_which_stores_give_way_is_done_from_the_beginning(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, twin = (rows_of(loaded("lfm2")) for _ in range(2))
    forward: Any = rows._forward
    failures: list[int] = []

    def failing(cache: Any, ids: Any) -> Any:
        log_probs = forward(cache, ids)
        if not failures:
            failures.append(len(ids))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return log_probs

    def twice(device: Any, work: Callable[[], Any]) -> Any:
        with contextlib.suppress(torch.OutOfMemoryError):
            return work()
        return work()

    monkeypatch.setattr(rows, "_forward", failing)
    monkeypatch.setattr("nbce_rag.models.transformers.rows.with_room", twice)
    new = torch.tensor([[10, 11], [12, 13]])
    torch.testing.assert_close(rows.step(new), twin.step(new), atol=1e-6, rtol=0)
    assert failures


def test_what_an_earlier_step_appended_stays(loaded: Callable[[str], Any]) -> None:
    rows = rows_of(loaded("qwen3_5"))
    rows.step(torch.tensor([[10, 11], [12, 13]]))
    rows.step(torch.tensor([[14], [15]]))
    with pytest.raises(InputError, match="those of the last step"):
        rows.rewind(2)
    rows.rewind(1)


# ---------------------------------------------------------------------------------------------------------
# Bytes


@pytest.mark.parametrize("kind", ["qwen3_5", "gemma4", "deepseek_v32", "mamba"])
def test_bytes_are_those_of_what_is_kept(kind: str, loaded: Callable[[str], Any]) -> None:
    model = loaded(kind)
    for tokens in (1, 6, 40):
        ids = tuple(range(3, 3 + tokens))
        packed, _ = read_contexts(model, [ids], None, 1000)
        assert model.context_bytes(tokens) == nbytes(packed[ids])
    assert model.context_bytes(0) == model.state_bytes


def test_states_count_where_rows_are_weighed(loaded: Callable[[str], Any]) -> None:
    model = loaded("mamba2")
    assert (model.kv_bytes, model.state_bytes > 0) == (0, True)
    assert model.cost(3, 10) >= 3 * 2 * model.state_bytes  # and their marks
    store = PassageKVStore(codec="int8")
    assert _stored_bytes(model, store, 100) >= model.state_bytes


def test_eight_bits_leave_states_alone(loaded: Callable[[str], Any]) -> None:
    model = loaded("qwen3_5")
    ids = tuple(range(3, 30))
    packed = read_contexts(model, [ids], None, 1000)[0][ids]
    rounded = read_contexts(model, [ids], PassageKVStore(codec="int8").of(model), 1000)[0][ids]
    for name, tensor in packed.items():
        columns = name.endswith((".keys", ".values"))
        assert torch.equal(rounded[name], tensor) == (not columns)
        assert rounded[name].dtype == tensor.dtype


def test_states_of_sixteen_bits_are_said_and_stay_within_their_bound(
    loaded: Callable[[str], Any], tmp_path: Path
) -> None:
    model = loaded("granitemoehybrid")
    ids = tuple(range(3, 30))
    packed = read_contexts(model, [ids], None, 1000)[0][ids]
    store = PassageKVStore(0, tmp_path, codec="half")
    first = read_contexts(model, [ids], store.of(model), 1000)[0][ids]
    store.flush()
    second, reused = read_contexts(model, [ids], store.of(model), 1000)
    assert reused == {ids}
    for name, tensor in packed.items():
        assert torch.equal(first[name], second[ids][name])
        assert first[name].dtype == tensor.dtype
        bound = tensor.abs() / 2048 + 2**-25 if ".rec." in name or ".conv." in name else torch.zeros(())
        assert bool(((first[name] - tensor).abs() <= bound).all())
    [path] = tmp_path.glob("*.half.safetensors")
    assert read_label(path)[1] == model.state_bytes // 2
    with pytest.warns(NbceWarning, match="rounded to 16 bits"):
        answer = NBCE(model, kv_store=PassageKVStore(codec="half"), max_tokens=3).answer(QUESTION, PASSAGES)
    assert "rounded to 16 bits" in answer.warnings[0]


@pytest.mark.parametrize("largest", [1e6, float("inf"), float("nan")])
def test_states_that_sixteen_bits_cannot_hold_stay(largest: float) -> None:
    state = torch.tensor([1.0, largest])
    codec = HalfStatesCodec()
    again = codec.decode(codec.encode({"0.rec.0": state, "0.keys": torch.ones(1, 1, 1)}))
    assert torch.equal(again["0.rec.0"].nan_to_num(7), state.nan_to_num(7))
    assert again["0.keys"].dtype == torch.float32


def test_short_contexts_with_large_states_are_read_again(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("mamba")
    short, long = tuple(range(3, 8)), tuple(range(3, 30))
    monkeypatch.setattr(contexts, "_STATE_BYTES", model.state_bytes // 10)
    store = PassageKVStore().of(model)
    model.read([short, long], store)
    assert (short in store, long in store) == (False, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, tensor: tensor.to(torch.float64),
        lambda name, tensor: tensor[:1] if name.endswith("keys") else tensor,
        lambda name, tensor: tensor[..., :-1],
        lambda name, tensor: tensor[None],
    ],
    ids=["dtype", "heads", "width", "dimensions"],
)
@pytest.mark.parametrize("kind", ["qwen3_5", "gemma4"])
def test_a_crafted_context_is_read_anew(kind: str, change: Any, loaded: Callable[[str], Any]) -> None:
    model = loaded(kind)
    ids = tuple(range(3, 20))
    packed = read_contexts(model, [ids], None, 1000)[0][ids]
    store = PassageKVStore().of(model)
    store.put(ids, {name: change(name, tensor) for name, tensor in packed.items()})
    again, reused = read_contexts(model, [ids], store, 1000)
    assert reused == set()
    assert all(torch.equal(again[ids][name], tensor) for name, tensor in packed.items())


def test_the_command_says_what_states_take(loaded: Callable[[str], Any], tmp_path: Path) -> None:
    model = loaded("falcon_h1")
    store = PassageKVStore(0, tmp_path)
    model.read([tuple(range(3, 30)), tuple(range(3, 12))], store.of(model))
    store.close()
    for path in tmp_path.glob("*.safetensors"):
        label, states = read_label(path)
        assert (label["model"], states) == ("falcon_h1", model.state_bytes)
    report = json.loads(run("kv", str(tmp_path), "--json").stdout)
    assert report["models"][0]["state_bytes"] == model.state_bytes
    assert "of each are states, however short it is" in run("kv", str(tmp_path)).stdout


def test_after_a_step_that_failed_nothing_of_the_step_before_is_taken_back(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark is gone, and another state would take its place without a word."""
    rows, _ = loaded("qwen3_5").open([RowPrompt(((), (5, 6, 7, 8)), (9, 10, 11))], 20)
    rows.step(torch.tensor([[12, 13]] * 2))

    def fail(*_: Any) -> Any:
        raise NumericalError("NaN")

    with monkeypatch.context() as broken:
        broken.setattr(rows, "_forward", fail)
        with pytest.raises(NumericalError):
            rows.step(torch.tensor([[14]] * 2))
    with pytest.raises(InputError, match="cannot be taken back"):
        rows.rewind(1)
