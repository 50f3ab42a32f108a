"""Contexts on the device, in pinned memory and in a folder: one copy each, no wait, and whatever is computed
comes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launches import counts
from strict_device import RefusedError, StrictDevice, Tally, is_supported
from strict_engine import PASSAGES, QUESTION, Folder, assert_same, engine
from torch import Tensor

from nbce_rag import NBCE, Answer, PassageKVStore
from nbce_rag.errors import InputError, NumericalError
from nbce_rag.fusion import Posterior
from nbce_rag.kv import disk
from nbce_rag.kv.context import Packed, nbytes
from nbce_rag.kv.flat import FlatContext
from nbce_rag.kv.format import write_context
from nbce_rag.kv.staging import held_bytes
from nbce_rag.models.transformers import staging as staging_of
from nbce_rag.models.transformers.memory import RowMemory
from nbce_rag.models.transformers.staging import DeviceStaging

pytestmark = pytest.mark.skipif(not is_supported(), reason="this torch cannot make a device out of Python")

PLAIN: dict[str, Any] = {"fusion": Posterior(focus=0)}  # no sentences
LONG = [" ".join([text] * 6) for text in PASSAGES]  # too long to be read with the question


def ask(device: StrictDevice, nbce: NBCE, passages: list[str] = LONG, **options: Any) -> tuple[Answer, Tally]:
    """An answer of one token, so that its tally is that of reading."""
    with device.tally() as tally:
        answer = nbce.answer(QUESTION, passages, max_tokens=1, **{**PLAIN, **options})
    return answer, tally


def there() -> torch.device:
    """The device, which has its name once it was made."""
    return torch.device("strict", 0)


def uploads(tally: Tally) -> int:
    """Copies of contexts to the device."""
    return sum(count for (what, _), count in tally.copies.items() if what == "aten.copy_ to the device")


def downloads(tally: Tally) -> int:
    """Copies of contexts from the device."""
    return sum(count for (what, _), count in tally.copies.items() if what == "aten.copy_ to the CPU")


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_context_in_pinned_memory_comes_by_one_copy_that_nobody_waits_for(
    folder: Folder, family: str
) -> None:
    expected = engine(folder(family), "cpu").answer(QUESTION, LONG, max_tokens=1, **PLAIN)
    with StrictDevice(float64=False) as device:
        store = PassageKVStore(device_bytes=0)
        nbce = engine(folder(family), "strict", kv_store=store)
        cold, reading = ask(device, nbce)
        warm, tally = ask(device, nbce)
        assert (uploads(reading), downloads(reading)) == (0, len(store))
        assert (uploads(tally), downloads(tally)) == (len(store), 0)
        assert len(store) >= len(LONG)
        assert not [where for (_, where) in tally.waits if "staging" in where or "contexts" in where]
        assert store.bytes_on(there()) == 0
    for answer in (cold, warm):
        assert_same(answer, expected)


def test_a_context_on_the_device_is_not_copied_to_it(folder: Folder, strict: StrictDevice) -> None:
    store = PassageKVStore()
    nbce = engine(folder("llama"), "strict", kv_store=store)
    cold, _ = ask(strict, nbce)
    assert store.bytes_on(there()) == store.nbytes > 0
    warm, tally = ask(strict, nbce)
    assert uploads(tally) == downloads(tally) == 0
    assert warm.usage.cached_tokens > 0
    assert_same(warm, cold)


def test_the_device_holds_no_more_than_it_may(folder: Folder, strict: StrictDevice) -> None:
    expected, _ = ask(strict, engine(folder("llama"), "strict"))
    whole = PassageKVStore()
    ask(strict, engine(folder("llama"), "strict", kv_store=whole))
    most = whole.nbytes // 2
    store = PassageKVStore(device_bytes=most)
    nbce = engine(folder("llama"), "strict", kv_store=store)
    for _ in range(3):
        answer, tally = ask(strict, nbce)
        assert_same(answer, expected)
        assert 0 < store.bytes_on(there()) <= most
    assert 0 < uploads(tally) <= len(store)
    assert store.nbytes == whole.nbytes
    store.clear()
    assert store.bytes_on(there()) == store.nbytes == 0


def test_the_device_holds_a_quarter_of_what_is_free_unless_it_is_told_otherwise(
    folder: Folder, strict: StrictDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceStaging, "free", lambda self: 40_000)
    store = PassageKVStore()
    ask(strict, engine(folder("llama"), "strict", kv_store=store))
    assert 0 < store.bytes_on(there()) <= 10_000 < store.nbytes
    none = PassageKVStore(0)
    ask(strict, engine(folder("llama"), "strict", kv_store=none))
    assert none.bytes_on(there()) == none.nbytes == 0


def test_a_size_that_is_none() -> None:
    with pytest.raises(InputError, match="device_bytes=-1 is negative"):
        PassageKVStore(device_bytes=-1)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Lets an operation on rows fail while stores hold anything on the device; bytes held at each failure."""
    failures: list[int] = []
    work: Callable[..., Any] = getattr(RowMemory, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        if held := held_bytes(there()):
            failures.append(held)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(*arguments, **options)

    monkeypatch.setattr(RowMemory, name, fail)
    return failures


@pytest.mark.parametrize("operation", ["place", "columns", "copied", "joined"])
def test_what_is_held_gives_way_to_what_is_computed(
    folder: Folder, strict: StrictDevice, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    expected = engine(folder("llama"), "strict").answer(QUESTION, LONG)
    store = PassageKVStore()
    nbce = engine(folder("llama"), "strict", kv_store=store)
    assert_same(nbce.answer(QUESTION, LONG), expected)
    failures = short_of_memory(monkeypatch, operation)
    assert_same(nbce.answer(QUESTION, LONG), expected)
    assert failures


def test_memory_that_nobody_holds_is_missed_aloud(
    folder: Folder, strict: StrictDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    nbce = engine(folder("llama"), "strict", kv_store=PassageKVStore())
    monkeypatch.setattr(RowMemory, "columns", fail)
    with pytest.raises(torch.OutOfMemoryError):
        nbce.answer(QUESTION, LONG)


def test_rows_get_the_memory_that_they_will_need_before_they_ask(
    folder: Folder, strict: StrictDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PassageKVStore()
    nbce = engine(folder("llama"), "strict", kv_store=store)
    expected, _ = ask(strict, nbce)
    held = held_bytes(there())
    assert nbce.model.free() > held
    monkeypatch.setattr(staging_of, "free_bytes", lambda device: held - held_bytes(device))
    answer, _ = ask(strict, nbce)
    assert_same(answer, expected)
    assert store.bytes_on(there()) <= held


@pytest.mark.filterwarnings("ignore:Keys and values of passages were rounded")
@pytest.mark.parametrize("codec", [None, "int8"])
def test_writers_of_files_never_see_the_device(
    folder: Folder, tmp_path: Path, strict: StrictDevice, monkeypatch: pytest.MonkeyPatch, codec: str | None
) -> None:
    devices: set[str] = set()

    def write(path: Path, packed: Packed, label: Any) -> int:
        devices.update(tensor.device.type for tensor in packed.values())
        return write_context(path, packed, label)

    monkeypatch.setattr(disk, "write_context", write)
    store = PassageKVStore(folder=tmp_path, codec=codec)
    nbce = engine(folder("llama"), "strict", kv_store=store)
    first = nbce.answer(QUESTION, LONG)
    store.close()
    assert devices == {"cpu"}
    again = PassageKVStore(folder=tmp_path, codec=codec, device_bytes=0)
    with strict.tally() as tally:
        assert_same(engine(folder("llama"), "strict", kv_store=again).answer(QUESTION, LONG), first)
    assert again.statistics.disk_hits > 0
    assert again.hits == uploads(tally)
    assert again.nbytes == store.nbytes


def test_a_system_that_pins_no_more(
    folder: Folder, strict: StrictDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = ask(strict, engine(folder("llama"), "strict"))
    monkeypatch.setattr(strict, "can_pin", False)
    nbce = engine(folder("llama"), "strict", kv_store=PassageKVStore(device_bytes=0))
    for _ in range(2):
        answer, _ = ask(strict, nbce)
        assert_same(answer, expected)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what transformers' models are given."""
    from transformers import LlamaModel

    shapes: list[tuple[int, ...]] = []
    forward = LlamaModel.forward

    def watched(model: LlamaModel, input_ids: Tensor, *arguments: Any, **options: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        return forward(model, input_ids, *arguments, **options)

    monkeypatch.setattr(LlamaModel, "forward", watched)
    return shapes


def test_sentences_are_read_in_one_pass_with_the_question(
    folder: Folder, strict: StrictDevice, passes: list[tuple[int, ...]]
) -> None:
    nbce = engine(folder("llama"), "strict", kv_store=PassageKVStore())
    ask(strict, nbce)
    passes.clear()
    fresh, _ = ask(strict, nbce, fusion="posterior")
    assert len(passes) == 2  # the question behind passages; sentences with the question
    passes.clear()
    stored, _ = ask(strict, nbce, fusion="posterior")
    assert len(passes) == 2  # the question behind passages; the question behind sentences
    assert_same(stored, fresh)
    assert stored.usage.cached_tokens > fresh.usage.cached_tokens


@pytest.mark.filterwarnings("ignore:Keys and values of passages were rounded")
def test_where_a_store_rounds_a_question_sees_what_it_will_see_the_next_time(
    folder: Folder, strict: StrictDevice, passes: list[tuple[int, ...]]
) -> None:
    nbce = engine(folder("llama"), "strict", kv_store=PassageKVStore(codec="int8"))
    first, _ = ask(strict, nbce, PASSAGES, fusion="posterior")
    assert len(passes) > 2
    second, _ = ask(strict, nbce, PASSAGES, fusion="posterior")
    assert_same(second, first)


def test_numbers_that_are_none_are_told(
    folder: Folder, strict: StrictDevice, passes: list[tuple[int, ...]]
) -> None:
    nbce = engine(folder("llama"), "strict")
    nbce.model.model.model.norm.weight.data.mul_(torch.nan)  # type: ignore[attr-defined]
    with pytest.raises(NumericalError, match="NaN"):
        ask(strict, nbce)


def test_launches_and_waits_up_to_the_first_token() -> None:
    few, many = counts(layers=2), counts(layers=6)
    layer = [(many[name].kernels - few[name].kernels) / 4 for name in few]
    # What a pass of the model launches, and one more for passages or sentences; nothing of ours by the layer.
    assert layer[1] <= 48
    assert max(layer) <= 96
    assert [sum(tally.waits.values()) for tally in many.values()] == [2, 2, 4, 4]


def test_a_flat_context_of_the_device(strict: StrictDevice) -> None:
    staging = DeviceStaging(there())
    numbers = {f"{layer}.{name}": torch.randn(2, 5, 3) for layer in range(3) for name in ("keys", "values")}
    numbers["0.rec.0"] = torch.randn(4)
    packed = {name: tensor.to("strict") for name, tensor in numbers.items()}
    flat = staging.flat(packed)
    assert staging.flat(flat) is flat
    assert flat.nbytes == nbytes(flat) == nbytes(numbers)
    down = staging.download(flat)
    up = staging.upload(down)  # while it may still be coming down
    assert staging.pinned(down) is down
    for context in (flat, down, up):
        assert context.keys() == numbers.keys()
        for name, tensor in numbers.items():
            assert torch.equal(context[name].cpu(), tensor)
    stack = up.stack([f"{layer}.keys" for layer in range(3)])
    assert stack is None  # values lie between
    names = [f"{layer}.{name}" for layer in range(3) for name in ("keys", "values")]
    stack = up.stack(names)
    assert stack is not None
    assert torch.equal(stack.cpu(), torch.stack([numbers[name] for name in names]))


def test_streams_of_the_device_are_held_apart(strict: StrictDevice) -> None:
    module = torch.get_device_module("strict")
    side = module.Stream()
    pinned = torch.arange(6.0).pin_memory()
    target = torch.empty(6, device="strict")
    with strict.tally() as tally:
        side.wait_stream(module.current_stream())
        with module.stream(side):
            target.copy_(pinned, non_blocking=True)
            event = side.record_event()
        with pytest.raises(RefusedError, match="another stream"):
            target + 1
        event.wait()
        doubled = target * 2
        home = torch.empty(6, pin_memory=True)
        home.copy_(doubled, non_blocking=True)
        event = module.current_stream().record_event()
        assert home.tolist() != [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]  # not there yet
        assert not tally.waits
        event.synchronize()
    assert home.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert sum(tally.waits.values()) == 1
    assert sum(tally.copies.values()) == 2


def test_the_context_of_another_shape_is_not_taken(folder: Folder, strict: StrictDevice) -> None:
    nbce: Any = engine(folder("llama"), "strict", kv_store=PassageKVStore())
    expected, _ = ask(strict, nbce)
    contexts = nbce.kv_store.of(nbce.model)
    for key, entry in list(nbce.kv_store._entries.items()):
        assert isinstance(entry, FlatContext)
        assert key in nbce.kv_store
    assert contexts.is_exact
    assert_same(ask(strict, nbce)[0], expected)
