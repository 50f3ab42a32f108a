"""The engine by a GPU's rules, on the CPU: nothing that a GPU refuses, the CPU's answers, one wait a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from strict_device import RefusedError, StrictDevice, Tally, is_supported
from strict_engine import PASSAGES, QUESTION, Folder, assert_same, engine, ids
from tiny_models import FAMILIES

from nbce_rag import NBCE, Answer, PassageKVStore, load_model
from nbce_rag.benchmark.run import _plain
from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.evaluation.methods.peers import PEERS
from nbce_rag.fusion.registry import RULES
from nbce_rag.fusion.truncation import nucleus
from nbce_rag.models.transformers import likelihood
from nbce_rag.models.transformers.base import LoadedModel
from nbce_rag.models.transformers.static_step import SPARE_COLUMNS, PlayedStep

pytestmark = pytest.mark.skipif(not is_supported(), reason="this torch cannot make a device out of Python")

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without drafts": {"prompt_lookup_num_tokens": 0},
    "entropies": {"entropies": True, "top_logprobs": 3},
    "rows dropped": {"drop_rows_after": 1, "max_tokens": 20},
    "sampled": {"temperature": 1.0, "seed": 1, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words": ("Ada", "a")},
    "regex": {"regex": "[a-z ]{5,9}"},
    "schema": {"json_schema": SCHEMA},
    "rows of two passages": {"passages_per_row": 2},
    "a joint row": {"joint_row": True},
    "labels": {"order_labels": True},
    "abstains": {"abstain_below": 0.1, "relevance": True},
    "long": {"style": "long", "max_tokens": 20},
    **{f"rule {name}": {"fusion": name} for name in RULES},
    **{f"peer {name}": {"fusion": rule()} for name, rule in PEERS.items() if name != "cad"},
    "peer cad": {"fusion": PEERS["cad"](), "passages_per_row": 4},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_and_rule_gives_the_answer_of_the_cpu(folder: Folder, options: dict[str, Any]) -> None:
    expected = engine(folder("llama"), "cpu").answer(QUESTION, PASSAGES, **options)
    with StrictDevice(float64=False):
        answer = engine(folder("llama"), "strict").answer(QUESTION, PASSAGES, **options)
    assert_same(answer, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_answer_of_the_cpu(folder: Folder, family: str) -> None:
    expected = engine(folder(family), "cpu").answer(QUESTION, PASSAGES)
    with StrictDevice(float64=False):
        assert_same(engine(folder(family), "strict").answer(QUESTION, PASSAGES), expected)


@pytest.mark.filterwarnings("ignore:No passages were given")
def test_batches_scores_and_comparisons(folder: Folder) -> None:
    requests = [(QUESTION, PASSAGES), ("When does the market open?", PASSAGES[2:]), ("What is blue?", [])]
    choices = ["Ada", "Bob the miller"]
    cpu = engine(folder("llama"), "cpu")
    expected = [answer.text for answer in cpu.batch(requests)]
    scores = cpu.score(QUESTION, PASSAGES, choices).log_probs
    comparison = str(cpu.compare(QUESTION, PASSAGES))
    text = cpu.attribute(QUESTION, PASSAGES, "Ada runs it.")
    with StrictDevice(float64=False):
        here = engine(folder("llama"), "strict")
        assert [answer.text for answer in here.batch(requests)] == expected
        assert here.score(QUESTION, PASSAGES, choices).log_probs == pytest.approx(scores, abs=1e-4)
        assert str(here.compare(QUESTION, PASSAGES)) == comparison
        assert_same(here.attribute(QUESTION, PASSAGES, "Ada runs it."), text)


@pytest.mark.filterwarnings("ignore:Keys and values of passages were rounded")
@pytest.mark.parametrize("codec", [None, "int8"])
def test_contexts_come_back_from_memory_and_disk(
    folder: Folder, tmp_path: Path, strict: StrictDevice, codec: str | None
) -> None:
    texts = []
    for size in (1 << 30, 0, 1 << 30):  # memory; disk alone; disk into memory
        store = PassageKVStore(size, tmp_path, codec=codec)
        here = engine(folder("llama"), "strict", kv_store=store)
        texts += [here.answer(QUESTION, PASSAGES).text for _ in range(2)]
        store.close()
    assert len(set(texts)) == 1


def test_the_estimate_of_the_question(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "SHORTLIST", 8)
    expected = engine(folder("llama"), "cpu").answer(QUESTION, PASSAGES)
    # Only plain tensors are taken for weights, which these are not.
    monkeypatch.setattr(LoadedModel, "_plain_output", lambda self, head, weight: weight.detach())
    with StrictDevice(float64=False):
        assert_same(engine(folder("llama"), "strict").answer(QUESTION, PASSAGES), expected)


def test_rows_too_flat_for_their_likeliest_tokens(strict: StrictDevice) -> None:
    flat = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0)).mul(0.01).log_softmax(-1)
    for there, here in zip(nucleus(flat.to("strict"), 0.95), nucleus(flat, 0.95), strict=True):
        assert torch.allclose(there.cpu(), here, atol=1e-5)


def tallies_of(device: StrictDevice, ask: Callable[[], Answer]) -> list[Tally]:
    """Of each step of the decoder."""
    tallies: list[Tally] = []
    step = LockstepDecoder.step

    def tallied(decoder: LockstepDecoder) -> Any:
        with device.tally() as tally:
            steps = step(decoder)
        tallies.append(tally)
        return steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LockstepDecoder, "step", tallied)
        ask()
    return tallies


@pytest.mark.parametrize("rule", [*RULES, *(name for name in PEERS if name != "cad")])
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_a_step_waits_once(folder: Folder, strict: StrictDevice, rule: str, sampled: bool) -> None:
    here = engine(folder("llama"), "strict")
    fusion = PEERS[rule]() if rule in PEERS else rule
    options: dict[str, Any] = {"temperature": 1.0, "seed": 0, "top_k": 20} if sampled else {}
    tallies = tallies_of(strict, lambda: here.answer(QUESTION, PASSAGES, fusion=fusion, **options))
    for tally in tallies[2:]:  # the second brings the rows' beginnings to the device
        assert sum(tally.waits.values()) == 1, tally.waits


def test_a_step_of_several_questions_waits_once(folder: Folder, strict: StrictDevice) -> None:
    here = engine(folder("llama"), "strict")
    requests = [
        here.request(QUESTION, PASSAGES),
        here.request("What is sold?", PASSAGES[2:], fusion="experts"),
    ]
    tallies = tallies_of(strict, lambda: here.batch(requests)[0])
    assert [sum(tally.waits.values()) for tally in tallies[2:8]] == [1] * 6


class Player:
    """Stands in for a CUDA graph: what is recorded may not wait, and is run anew when it is played."""

    def __init__(self, device: StrictDevice) -> None:
        self.device, self.recorded, self.played = device, 0, 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        with self.device.capture():
            for _ in range(SPARE_COLUMNS):
                step()

        def play() -> None:
            self.played += 1
            with self.device.capture():
                step()

        return play


def with_player(nbce: NBCE, player: Any) -> NBCE:
    model = dataclasses.replace(nbce.model, recorder=player)  # type: ignore[type-var]
    return NBCE(model, max_tokens=24, kv_store=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_step_gives_the_answer_of_the_cpu(folder: Folder, family: str) -> None:
    options = {"prompt_lookup_num_tokens": 0, "max_tokens": 24}
    expected = engine(folder(family), "cpu").answer(QUESTION, PASSAGES, **options)
    with StrictDevice(float64=False) as device:
        player = Player(device)
        here = with_player(engine(folder(family), "strict"), player)
        assert_same(here.answer(QUESTION, PASSAGES, **options), expected)
    assert player.recorded == 1
    assert player.played > 0


def test_drafts_and_recordings_go_together(folder: Folder) -> None:
    expected = engine(folder("llama"), "cpu").answer(QUESTION, PASSAGES, max_tokens=24)
    with StrictDevice(float64=False) as device:
        here = with_player(engine(folder("llama"), "strict"), Player(device))
        assert_same(here.answer(QUESTION, PASSAGES, max_tokens=24), expected)


def test_questions_that_end_leave_a_recording_behind(folder: Folder) -> None:
    requests = [
        (QUESTION, PASSAGES),
        ("When does the market open?", PASSAGES[2:]),
        ("What is blue?", PASSAGES),
    ]

    def answers(nbce: NBCE) -> list[list[int]]:
        asked = [nbce.request(*one, max_tokens=n) for one, n in zip(requests, (6, 12, 24), strict=True)]
        return [ids(answer) for answer in nbce.batch(asked)]

    expected = answers(engine(folder("llama"), "cpu"))
    with StrictDevice(float64=False) as device:
        assert answers(with_player(engine(folder("llama"), "strict"), Player(device))) == expected


def test_what_cannot_be_recorded_is_launched_anew_and_said(folder: Folder) -> None:
    def refuse(step: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    expected = engine(folder("llama"), "cpu").answer(QUESTION, PASSAGES, max_tokens=20)
    nbce = with_player(engine(folder("llama"), "cpu"), refuse)
    with pytest.warns(UserWarning, match="cannot be recorded"):
        assert_same(nbce.answer(QUESTION, PASSAGES, max_tokens=20), expected)
    assert_same(nbce.answer(QUESTION, PASSAGES, max_tokens=20), expected)  # and not tried again


def test_rows_without_memory_for_a_recording_leave_it_to_others(folder: Folder) -> None:
    options = {"prompt_lookup_num_tokens": 0, "max_tokens": 20}
    expected = engine(folder("llama"), "cpu").answer(QUESTION, PASSAGES, **options)
    with StrictDevice(float64=False) as device:
        player = Player(device)
        attempts: list[int] = []

        def short_at_first(step: Callable[[], None]) -> Callable[[], None]:
            attempts.append(len(attempts))
            if len(attempts) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return player(step)

        here = with_player(engine(folder("llama"), "strict"), short_at_first)
        assert_same(here.answer(QUESTION, PASSAGES, **options), expected)
        assert player.played == 0
        assert_same(here.answer(QUESTION, PASSAGES, **options), expected)
    assert player.recorded == 1
    assert player.played > 0


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])  # the second sees tensors that share memory
def test_a_step_compiles_whole_and_once(folder: Folder, backend: str) -> None:
    options = {"prompt_lookup_num_tokens": 0, "max_tokens": 16, "sleep": False}
    plain = engine(folder("llama"), "cpu")
    expected = plain.answer(QUESTION, PASSAGES, **options)
    steps = []

    def compile_it(step: Callable[[], None]) -> Callable[[], None]:
        compiled = torch.compile(step, fullgraph=True, backend=backend)
        steps.append(compiled)
        for _ in range(SPARE_COLUMNS):
            compiled()
        return compiled

    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(with_player(plain, compile_it).answer(QUESTION, PASSAGES, **options), expected)
    assert steps


def test_a_played_step_writes_where_it_is_told(folder: Folder) -> None:
    """Rows that were taken back go on from there."""
    nbce = engine(folder("llama"), "cpu")
    played: list[PlayedStep] = []

    def run(step: Callable[[], None]) -> Callable[[], None]:
        for _ in range(SPARE_COLUMNS):
            step()
        return step

    from nbce_rag.models.model import RowPrompt

    prompt = RowPrompt(((), (5, 6, 7), (8, 9)), (10, 11))
    plain, _ = nbce.model.open([prompt], 24)
    rows, _ = dataclasses.replace(nbce.model, recorder=run).open([prompt], 24)  # type: ignore[type-var]
    for token in range(20, 28):
        step = torch.full((3, 1), token)
        assert torch.allclose(rows.step(step), plain.step(step), atol=1e-4)
    for one in (rows, plain):
        one.rewind(3)
    for token in range(40, 44):
        step = torch.tensor([[token], [token], [token + 1]])
        assert torch.allclose(rows.step(step), plain.step(step), atol=1e-4)
    kept, plainly = rows.keep([0, 2]), plain.keep([0, 2])
    step = torch.full((2, 1), 50)
    assert torch.allclose(kept.step(step), plainly.step(step), atol=1e-4)
    assert not played


def test_the_benchmark_needs_no_second_copy_of_the_weights(folder: Folder, strict: StrictDevice) -> None:
    ours: Any = load_model(folder("llama"), device="strict", dtype="float32", check=False)
    plain = _plain(ours, folder("llama"), "strict", "float32")
    attention = [one.model.config._attn_implementation for one in (ours, plain)]
    assert attention == ["nbce_grouped", "sdpa"]
    weights = [{id(tensor) for tensor in one.model.parameters()} for one in (ours, plain)]
    assert weights[0] == weights[1]
    tokens = torch.arange(5, 12, device="strict")[None]
    logits = [one.model(input_ids=tokens).logits.cpu() for one in (ours, plain)]
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


def test_the_device_itself(strict: StrictDevice) -> None:
    here = torch.arange(6.0, device="strict").view(2, 3)
    with strict.tally() as tally:
        assert (here + 1).sum().item() == 21
    assert (tally.kernels, sum(tally.waits.values())) == (2, 1)
    for refused in (
        lambda: here + torch.ones(3),
        lambda: torch.cat([here, torch.ones(2, 3)]),
        lambda: here @ torch.ones(3, 2),
        lambda: here.numpy(),
        lambda: here.double(),
    ):
        with pytest.raises(RefusedError):
            refused()
    with strict.capture(), pytest.raises(RefusedError):
        here.nonzero()
    here[0] = 7.0
    assert here.cpu().tolist() == [[7.0] * 3, [3.0, 4.0, 5.0]]
    with strict.tally() as tally:
        assert here[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
    assert sum(tally.waits.values()) == 2


def test_an_output_layer_on_another_device(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine(folder("llama"), "cpu").answer(QUESTION, PASSAGES)
    monkeypatch.setattr(likelihood, "SHORTLIST", 8)  # so that its weight is looked for
    with StrictDevice(float64=False):
        nbce = engine(folder("llama"), "strict", kv_store=None)
        head: Any = nbce.model.model.lm_head.to("cpu")  # type: ignore[attr-defined]
        # As accelerate brings numbers to a layer, and what the model gives back to where it began.
        head.register_forward_pre_hook(lambda _, hidden: tuple(one.cpu() for one in hidden))
        head.register_forward_hook(lambda _, hidden, logits: logits.to("strict"))
        for _ in range(2):  # the second from the store
            assert_same(nbce.answer(QUESTION, PASSAGES), expected)
        assert nbce.model.output_weight is None  # type: ignore[attr-defined]
