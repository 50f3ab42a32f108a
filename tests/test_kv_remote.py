"""The remote tier: what comes back is what was sent, or nothing; no trouble far away reaches an answer."""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import engine_of
from test_kv_disk import KEYS, LABEL, context, equal

from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError, MissingDependencyError, NbceWarning
from nbce_rag.kv import outbox as kv_outbox
from nbce_rag.kv import remote as kv_remote
from nbce_rag.kv.breaker import Breaker
from nbce_rag.kv.codec import Int8Codec
from nbce_rag.kv.context import context_key
from nbce_rag.kv.format import DamagedContextError, _checksum, context_data, parse_context
from nbce_rag.kv.objects import reason_of
from nbce_rag.kv.pace import Pace
from nbce_rag.kv.statistics import RemoteStatistics
from nbce_rag.kv.store import PassageKVStore, resolve_store
from nbce_rag.passages import Passage

pytest.importorskip("obstore")
from kv_remote_tools import FAULTS, FaultyStore

Make = Callable[..., NBCE]

QUESTION = "Who runs the ferry?"
PASSAGES = [
    Passage("The ferry to the island is run by Ada."),
    Passage("The market opens at eight."),
    Passage("Bread."),
]


def seen(store: PassageKVStore) -> RemoteStatistics:
    remote = store.statistics.remote
    assert remote is not None
    return remote


def filled(remote: Any, count: int = 3, **options: Any) -> None:
    """Contexts 0, 1, ... are in the remote."""
    store = PassageKVStore(0, remote=remote, **options)
    for number in range(count):
        store.put(KEYS[number], context(number), LABEL)
    store.close()
    assert seen(store).sent + seen(store).failures >= count


@pytest.fixture
def slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes so long that whatever comes is sooner."""
    monkeypatch.setattr(Pace, "reading_seconds", lambda pace, tokens: 100.0)


class Clock:
    """Time that a test makes go by."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


# What comes back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 40_000])
def test_every_bit_comes_back(dtype: torch.dtype, tokens: int, tmp_path: Path) -> None:
    kept, url = context(1, tokens, dtype), f"file://{tmp_path}/bucket"
    first = PassageKVStore(remote=url)
    assert equal(first.put(KEYS[0], kept, LABEL), kept)
    first.close()
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == [f"{KEYS[0]}.exact.safetensors"]
    second = PassageKVStore(folder=tmp_path / "kv", remote=url)
    assert KEYS[0] not in second  # asking that goes nowhere
    assert equal(second.get(KEYS[0], LABEL), kept)
    assert second.get(KEYS[1], LABEL) is None
    assert (second.hits, second.misses) == (1, 1)
    remote = seen(second)
    assert (remote.name, remote.hits, remote.misses, remote.sent) == (url, 1, 1, 0)
    assert remote.bytes_received == (tmp_path / "bucket" / f"{KEYS[0]}.exact.safetensors").stat().st_size
    second.close()
    third = PassageKVStore(folder=tmp_path / "kv")  # brought into the folder on its way
    assert equal(third.get(KEYS[0], LABEL), kept)


def test_contexts_that_are_there_are_not_sent_again() -> None:
    remote = FaultyStore()
    for _ in range(2):
        filled(remote, 1) if not remote else None
        store = PassageKVStore(0, remote=remote)
        store.put(KEYS[0], context(0), LABEL)
        store.close()
    assert [method for method, _ in remote.calls].count("put") == 1


def test_codecs_do_not_read_each_other() -> None:
    remote = FaultyStore()
    filled(remote, 1, codec="int8")
    assert PassageKVStore(remote=remote).get(KEYS[0], LABEL) is None
    rounded = PassageKVStore(remote=remote, codec="int8").get(KEYS[0], LABEL)
    assert rounded is not None
    assert not equal(rounded, context(0))


@pytest.mark.parametrize("changed", ["fingerprint", "model", "dtype"])
def test_a_context_of_another_model_is_not_taken(changed: str, tmp_path: Path) -> None:
    remote = FaultyStore()
    filled(remote, 1)
    store = PassageKVStore(folder=tmp_path, remote=remote)
    assert store.get(KEYS[0], {**LABEL, changed: "other"}) is None
    assert seen(store).damaged == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_machines_that_only_read(tmp_path: Path) -> None:
    remote = FaultyStore()
    store = PassageKVStore(remote=remote, remote_writes=False)
    store.put(KEYS[0], context(0), LABEL)
    store.close()
    assert len(remote) == 0
    assert remote.calls == []


def test_a_salt_makes_keys_of_ones_own() -> None:
    ids = (1, 2, 3)
    plain = context_key("f", ids)
    assert plain == context_key("f", ids, "")
    keys = {plain, context_key("f", ids, "a"), context_key("f", ids, "b"), context_key("f", (1, 2), "a")}
    assert len(keys) == 4
    assert all(len(key) == 64 for key in keys)
    remote = FaultyStore()
    parts = {"fingerprint": "f", "name": "m", "dtype": "float32", "staging": None}
    model: Any = type("Model", (), parts)()
    mine = PassageKVStore(remote=remote, salt="mine")
    mine.of(model).put(ids, context(0))
    mine.close()
    for salt, is_found in (("mine", True), ("theirs", False), ("", False)):
        found = PassageKVStore(remote=remote, salt=salt).of(model).get(ids)
        assert (found is not None) == is_found
    assert b"mine" not in b"".join(
        bytes(remote.objects.get(m["path"]).bytes()) for c in remote.objects.list() for m in c
    )
    with pytest.raises(InputError, match="salt= takes a text, and no bytes"):
        PassageKVStore(salt=b"mine")  # type: ignore[arg-type]


@pytest.mark.parametrize("flip", range(0, 1500, 37))
def test_no_flipped_byte_goes_unseen(flip: int) -> None:
    packed = context(0)
    data = bytearray(context_data(packed, LABEL))
    assert equal(parse_context(bytes(data), LABEL), packed)
    data[flip % len(data)] ^= 0x10
    try:
        found = parse_context(bytes(data), LABEL)
    except DamagedContextError:
        return
    assert equal(found, packed)


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\xff" * 64, b"\x02" + bytes(7) + b"{}", b"no context" * 99]
)
def test_what_is_no_context(data: bytes) -> None:
    with pytest.raises(DamagedContextError):
        parse_context(data, LABEL)


def test_a_sound_checksum_is_no_proof() -> None:
    """Anybody who may write to the bucket can make one; what does not fit together is no context."""
    from safetensors.torch import save

    groups = {"0": torch.tensor(1.0)}  # nothing to take apart
    metadata = {"format": "nbce-rag context", "version": "2", **LABEL, "layout": '{"keys": 0}'}
    metadata["checksum"] = _checksum(metadata, groups)
    with pytest.raises(DamagedContextError, match="laid out"):
        parse_context(save(groups, metadata), LABEL)
    remote = FaultyStore()
    sender = PassageKVStore(0, codec="int8", remote=remote)
    packed = Int8Codec().encode({"0.keys": torch.ones(1, 4, 8)})
    [scale] = [name for name in packed if name != "0.keys"]
    assert sender._remote is not None
    sender._remote.put(KEYS[0], {**packed, scale: torch.ones(1, 1, 5)}, LABEL)
    sender.close()
    reader = PassageKVStore(codec="int8", remote=remote)
    assert reader.get(KEYS[0], LABEL) is None
    assert KEYS[0] not in reader


# Faults


@pytest.mark.parametrize("fault", [*FAULTS, "slow"])
def test_answers_are_those_without_a_store(
    fault: str, make_nbce: Make, slow_model: None, tmp_path: Path
) -> None:
    """Cold and while the fault goes on: the same tokens, log-probs and evidence to the last bit."""
    remote = FaultyStore()
    plain = make_nbce("gemma3", kv_store=False, max_tokens=6).answer(QUESTION, PASSAGES)
    first = make_nbce("gemma3", kv_store=PassageKVStore(0, remote=remote), max_tokens=6)
    assert first.answer(QUESTION, PASSAGES).tokens == plain.tokens
    assert first.kv_store is not None
    first.kv_store.close()
    remote.fault = fault
    far = PassageKVStore(0, remote=remote, remote_seconds=0.5, remote_writes=False)
    nbce = make_nbce("gemma3", kv_store=far, max_tokens=6)
    assert nbce.kv_store is not None
    begun = time.monotonic()
    notes: list[str] = []
    for _ in range(3):
        with pytest.warns(NbceWarning) if not notes and fault not in ("gone", "slow") else _quiet():
            answer = nbce.answer(QUESTION, PASSAGES)
        notes += [note for note in answer.warnings if "remote KV store" in note]
        assert answer.tokens == plain.tokens
    assert time.monotonic() - begun < 10
    assert len(notes) == (fault not in ("gone", "slow"))  # once
    statistics = seen(nbce.kv_store)
    if fault == "torn":
        assert statistics.damaged >= 3
    elif fault in ("gone", "slow"):
        assert statistics.is_open is False
    else:
        assert statistics.failures == 1
        assert statistics.is_open
        assert len([call for call in remote.calls if call[0] == "get"]) <= 4 * 3 + 16
    remote.released.set()


def _quiet() -> Any:
    import warnings

    return warnings.catch_warnings()


def test_one_that_hangs_is_waited_for_once(slow_model: None) -> None:
    remote = FaultyStore("hangs")
    store = PassageKVStore(0, remote=remote, remote_seconds=0.4)
    waits = []
    for _ in range(50):
        begun = time.monotonic()
        store.expect(dict.fromkeys(KEYS, 5))
        assert all(store.get(key, LABEL, 5) is None for key in KEYS)
        waits.append(time.monotonic() - begun)
    assert 0.3 < waits[0] < 2
    assert sum(waits[1:]) < 0.4
    assert seen(store).failures == 1
    assert [note for note in store.take_notes() if "does not answer (no answer within 0.4 s)" in note]
    assert store.take_notes() == []


def test_it_is_looked_after_from_behind_and_used_again(slow_model: None) -> None:
    remote = FaultyStore()
    filled(remote)
    clock = Clock()
    store = PassageKVStore(0, remote=remote, remote_seconds=0.3)
    assert store._remote is not None
    store._remote._reads = Breaker(clock)
    remote.fault = "hangs"
    assert store.get(KEYS[0], LABEL, 5) is None
    remote.calls.clear()
    for pause in (5, 10):  # it still hangs when it is looked after
        assert store.get(KEYS[0], LABEL, 5) is None
        assert remote.calls == []
        clock.now += pause
        begun = time.monotonic()
        assert store.get(KEYS[0], LABEL, 5) is None
        assert store.get(KEYS[0], LABEL, 5) is None
        assert time.monotonic() - begun < 0.2  # nobody waits for the probe
        _until(lambda: len(remote.calls) == 1)
        assert remote.calls.pop()[0] == "head"
        _until(lambda: store._remote._reads._until > clock.now)  # type: ignore[union-attr, operator]
        time.sleep(0.5)
    remote.fault = ""
    clock.now += 1000
    assert store.get(KEYS[0], LABEL, 5) is None
    _until(lambda: not seen(store).is_open)
    assert equal(store.get(KEYS[0], LABEL, 5), context(0))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_torn_object_is_written_anew() -> None:
    remote = FaultyStore()
    filled(remote)
    name = f"{KEYS[1]}.exact.safetensors"
    data = bytearray(remote.objects.get(name).bytes())
    data[-3] ^= 4
    remote.objects.put(name, bytes(data))
    store = PassageKVStore(0, remote=remote)
    assert store.get(KEYS[1], LABEL) is None
    assert equal(store.get(KEYS[2], LABEL), context(2))  # one is an accident
    store.put(KEYS[1], context(1), LABEL)
    store.close()
    assert seen(store).damaged == 1
    assert equal(PassageKVStore(remote=remote).get(KEYS[1], LABEL), context(1))


def test_a_context_that_the_model_refuses_is_written_anew() -> None:
    remote = FaultyStore()
    PassageKVStore(remote=remote).put(KEYS[0], context(5), LABEL)
    store = PassageKVStore(0, remote=remote)
    _until(lambda: len(remote) == 1)
    assert equal(store.get(KEYS[0], LABEL), context(5))
    store.drop(KEYS[0])
    store.put(KEYS[0], context(0), LABEL)
    store.close()
    assert equal(PassageKVStore(remote=remote).get(KEYS[0], LABEL), context(0))


def test_what_is_larger_than_a_context_can_be_is_not_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = FaultyStore()
    filled(remote)
    monkeypatch.setattr(kv_remote, "_MOST_BYTES", 100)
    store = PassageKVStore(0, remote=remote)
    assert store.get(KEYS[0], LABEL) is None
    assert seen(store).damaged == 1


def test_two_hundred_rounds_of_chaos() -> None:
    """Whatever a round brings: what comes is right, what is on hand is kept, nothing takes long."""
    dice = random.Random(7)
    remote = FaultyStore(seconds=0.02)
    filled(remote, len(KEYS))
    right = [context(number) for number in range(len(KEYS))]
    begun, hits = time.monotonic(), 0
    for _ in range(200):
        remote.fault = dice.choice(["", "", "slow", "5xx", "gone", "hangs", "torn", "denied"])
        store = PassageKVStore(dice.choice([0, 1 << 20]), remote=remote, remote_seconds=0.05)
        for number in dice.sample(range(len(KEYS)), 3):
            found = store.get(KEYS[number], LABEL, dice.choice([None, 5]))
            assert found is None or equal(found, right[number])
            hits += found is not None
            if found is None:
                assert equal(store.put(KEYS[number], right[number], LABEL), right[number])
                if store.max_bytes:
                    assert equal(store.get(KEYS[number], LABEL), right[number])
        store.take_notes()
    remote.fault = ""
    assert hits > 50
    assert time.monotonic() - begun < 60


@pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")
def test_two_hundred_answers_amid_chaos(make_nbce: Make, slow_model: None) -> None:
    """Every one is that of an engine without a store."""
    dice = random.Random(3)
    remote = FaultyStore(seconds=0.02)
    wanted = make_nbce("llama", kv_store=False, max_tokens=2).answer(QUESTION, PASSAGES).tokens
    nbce = make_nbce("llama", kv_store=False, max_tokens=2)
    hits, slowest = 0, 0.0
    for number in range(200):
        remote.fault = dice.choice(["", "", "slow", *FAULTS[:-1]]) if number > 5 else ""
        store = PassageKVStore(0, remote=remote, remote_seconds=0.05, remote_writes=number % 4 == 0)
        begun = time.monotonic()
        assert nbce.updated(kv_store=store).answer(QUESTION, PASSAGES).tokens == wanted
        slowest = max(slowest, time.monotonic() - begun)
        hits += seen(store).hits
    remote.fault = ""
    assert hits > 100
    assert slowest < 5


# What is sooner


def test_speeds_are_measured() -> None:
    clock = Clock()
    pace = Pace(clock)
    figures = (pace.tokens_per_second, pace.bytes_per_second, pace.latency, pace.age)
    assert figures == (None,) * 4
    assert (pace.reading_seconds(7), pace.transfer_seconds(7)) == (None, None)
    pace.add_reading(100)  # nothing was asked for, so that nobody knows since when
    assert (pace.tokens_per_second,) == (None,)
    pace.mark()
    clock.now += 2
    for _ in range(4):  # read together, put one after another
        pace.add_reading(100)
    assert pace.tokens_per_second == 200
    assert pace.reading_seconds(50) == 0.25
    pace.add_transfer(tokens=100, size=10_000, latency=0.5, seconds=1)
    pace.add_transfer(tokens=100, size=10_000, latency=0.3, seconds=3)
    assert (pace.bytes_per_second, pace.latency, pace.token_bytes) == (5000, 0.4, 100)
    assert pace.transfer_seconds(100) == pytest.approx(0.4 + 2)
    clock.now += 9
    assert pace.age == 9
    other = threading.Thread(target=pace.add_reading, args=(10**9,))  # has marked nothing
    other.start()
    other.join()
    assert pace.tokens_per_second == 200


def test_a_breaker_opens_probes_and_closes() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    assert (breaker.is_open, breaker.take_probe()) == (False, False)
    pauses = []
    for _ in range(8):
        breaker.fail()
        begun = clock.now
        while not breaker.take_probe():
            assert breaker.is_open
            clock.now += 1
        pauses.append(clock.now - begun)
        assert not breaker.take_probe()
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    breaker.close()
    assert breaker.is_open is False
    breaker.fail()
    clock.now += 299
    assert not breaker.take_probe()
    breaker.succeed()
    breaker.fail()
    clock.now += 5
    assert breaker.take_probe()


def test_first_a_few_are_tried_then_all_come(slow_model: None) -> None:
    remote = FaultyStore()
    filled(remote, len(KEYS))
    store = PassageKVStore(0, remote=remote)
    for wanted in (4, 8):
        store.expect(dict.fromkeys(KEYS, 5))
        got = [store.get(key, LABEL, 5) is not None for key in KEYS]
        assert sum(got) == wanted
        assert seen(store).is_read
    statistics = seen(store)
    assert (statistics.hits, statistics.skipped) == (12, 4)
    assert statistics.bytes_per_second is not None
    assert statistics.bytes_per_second > 0


def test_where_reading_is_sooner_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = FaultyStore()
    filled(remote, len(KEYS))
    store = PassageKVStore(0, remote=remote)
    store.expect(dict.fromkeys(KEYS, 5))
    for key in KEYS:
        store.get(key, LABEL, 5)
    monkeypatch.setattr(Pace, "reading_seconds", lambda pace, tokens: 1e-9)
    before = len(remote.calls)
    store.expect(dict.fromkeys(KEYS, 5))
    assert [store.get(key, LABEL, 5) for key in KEYS] == [None] * 8
    assert len(remote.calls) == before
    assert seen(store).is_read is False
    assert seen(store).skipped == 12
    monkeypatch.setattr(kv_remote, "_PROBE_SECONDS", 0.0)  # after a while a few are tried again
    store.expect(dict.fromkeys(KEYS, 5))
    assert sum(store.get(key, LABEL, 5) is not None for key in KEYS) == 4


def test_reading_is_not_kept_waiting_longer_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = FaultyStore()
    filled(remote, len(KEYS))
    remote.fault, remote.seconds = "slow", 5.0
    monkeypatch.setattr(Pace, "reading_seconds", lambda pace, tokens: 0.1)
    store = PassageKVStore(0, remote=remote, remote_seconds=4.0)
    begun = time.monotonic()
    for _ in range(5):
        store.expect(dict.fromkeys(KEYS, 5))
        assert [store.get(key, LABEL, 5) for key in KEYS] == [None] * 8
    assert time.monotonic() - begun < 1
    assert (seen(store).late, seen(store).failures) == (4, 0)
    assert store.take_notes() == []  # a machine that reads fast needs no advice


def test_no_more_is_asked_for_than_will_be_there_in_time(
    monkeypatch: pytest.MonkeyPatch, slow_model: None
) -> None:
    remote = FaultyStore()
    filled(remote, len(KEYS))
    monkeypatch.setattr(Pace, "transfer_seconds", lambda pace, tokens: 4.0)
    store = PassageKVStore(0, remote=remote, remote_seconds=2.0)
    store.expect(dict.fromkeys(KEYS, 5))
    assert sum(store.get(key, LABEL, 5) is not None for key in KEYS) == 3


def test_an_engine_measures_both_and_reads_from_afar(
    make_nbce: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}"
    first = make_nbce("gemma3", kv_store=PassageKVStore(remote=url), max_tokens=4)
    wanted = first.answer(QUESTION, PASSAGES)
    assert first.kv_store is not None
    first.kv_store.close()
    assert seen(first.kv_store).tokens_per_second is not None
    assert seen(first.kv_store).sent == len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(Pace, "reading_seconds", lambda pace, tokens: 100.0)
    second = make_nbce("gemma3", kv_store=PassageKVStore(remote=url), max_tokens=4)
    answer = second.answer(QUESTION, PASSAGES)
    assert answer.tokens == wanted.tokens
    suffix = len(engine_of(second).plan(second.request(QUESTION)).suffix.ids)
    assert answer.usage.cached_tokens == sum(answer.usage.row_tokens) - suffix * len(answer.usage.row_tokens)
    assert second.kv_store is not None
    assert seen(second.kv_store).hits == 4


def test_reading_ahead_takes_what_is_there(make_nbce: Make, tmp_path: Path, slow_model: None) -> None:
    url = f"file://{tmp_path}/bucket"
    first = make_nbce("gemma3", kv_store=PassageKVStore(remote=url))
    assert first.prefill(PASSAGES[:2]).read == 2
    assert first.kv_store is not None
    first.kv_store.close()
    second = make_nbce("gemma3", kv_store=PassageKVStore(folder=tmp_path / "kv", remote=url))
    report = second.prefill(PASSAGES)
    assert (report.read, report.kept) == (1, 2)
    assert second.prefill(PASSAGES).kept == 3


def test_reading_ahead_goes_on_without_the_remote(make_nbce: Make, slow_model: None) -> None:
    store = PassageKVStore(remote=FaultyStore("5xx"))
    with pytest.warns(NbceWarning, match="does not answer"):
        assert make_nbce("gemma3", kv_store=store).prefill(PASSAGES).read == 3


# Sending


def test_what_waits_to_be_sent_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_outbox, "_WAITING_BYTES", 5000)
    monkeypatch.setattr(kv_outbox, "FLUSH_SECONDS", 0.3)
    monkeypatch.setattr(kv_remote, "FLUSH_SECONDS", 0.3)
    remote = FaultyStore("hangs")
    store = PassageKVStore(remote=remote)
    begun = time.monotonic()
    for number in range(8):
        store.put(KEYS[number], context(number), LABEL)
    assert time.monotonic() - begun < 1
    waiting = seen(store).waiting
    assert 0 < waiting < 8
    with pytest.warns(
        NbceWarning, match=rf"{waiting} contexts \(0.0 MB\) were not sent.*FaultyStore.*--push"
    ):
        store.close()
    assert seen(store).unsent == 8 - 1  # one is still under way
    assert time.monotonic() - begun < 3
    for number in range(8):
        assert equal(store.get(KEYS[number], LABEL), context(number))
    remote.fault = ""


@pytest.mark.parametrize(("fault", "reason"), [("5xx", "HTTP status 503"), ("denied", "access is denied")])
def test_one_warning_says_that_nothing_can_be_sent(fault: str, reason: str) -> None:
    store = PassageKVStore(remote=FaultyStore(fault))
    for number in range(8):
        store.put(KEYS[number], context(number), LABEL)
    with pytest.warns(NbceWarning, match=rf"cannot be written \({reason}"):
        store.close()
    store.close()
    assert (seen(store).sent, seen(store).unsent, seen(store).waiting) == (0, 8, 0)
    assert not seen(store).is_open  # it may be read all the same


def test_everything_is_sent_when_a_process_ends(tmp_path: Path) -> None:
    import subprocess

    code = (
        "from test_kv_disk import *\n"
        f"store = PassageKVStore(remote='file://{tmp_path}')\n"
        "for number in range(8): store.put(KEYS[number], context(number, 2000), LABEL)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.safetensors"))) == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_child_goes_on_without(tmp_path: Path) -> None:
    remote = FaultyStore()
    filled(remote)
    store = PassageKVStore(remote=remote, remote_seconds=5.0)
    assert store.get(KEYS[0], LABEL) is not None
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        begun = time.monotonic()
        found = store.get(KEYS[1], LABEL)
        store.put(KEYS[5], context(5), LABEL)
        kept = store.get(KEYS[5], LABEL)
        notes = " ".join(store.take_notes())
        quick = time.monotonic() - begun < 2
        os.write(write, f"{found} {kept is not None} {quick} {'forked from' in notes}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        assert stream.read() == "None True True True"
    os.waitpid(child, 0)
    assert equal(store.get(KEYS[1], LABEL), context(1))


# What is given


@pytest.mark.parametrize(
    "url",
    [
        "s3://user:pa55word@",
        "foo://user:pa55word@bucket/prefix?sig=5ecret",
        "az://container/prefix?sig=5ecret",
        "nonsense?token=5ecret",
        "s3://[user:pa55word",
    ],
)
def test_no_secret_is_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AZURE"):
            monkeypatch.delenv(name)
    with pytest.raises(InputError, match="cannot be opened") as caught:
        PassageKVStore(remote=url)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for secret in ("pa55word", "5ecret"):
        assert secret not in str(caught.value)


def test_no_secret_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA5ECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pa55word")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_ALLOW_HTTP", "1")
    caplog.set_level(logging.DEBUG, logger="nbce_rag")
    store = PassageKVStore(remote="s3://user:pa55word@bucket/prefix?x=5ecret", remote_seconds=5.0)
    assert store.get(KEYS[0], LABEL) is None
    store.put(KEYS[1], context(1), LABEL)
    with pytest.warns(NbceWarning) as caught:
        store.close()
    told = [str(one.message) for one in caught] + [
        caplog.text,
        repr(store),
        repr(store.statistics),
        str(vars(store)),
    ]
    assert "s3://bucket/prefix" in told[0]
    for secret in ("pa55word", "5ECRET", "5ecret"):
        assert not [text for text in told if secret in text]


def test_reasons_are_short() -> None:
    assert reason_of(TimeoutError(), 2.0) == "no answer within 2 s"
    assert reason_of(FileNotFoundError("x")) == "there is no such bucket or folder"
    assert reason_of(OSError("https://host?sig=5ecret")) == "OSError"


def test_stores_by_what_is_given(tmp_path: Path) -> None:
    store = resolve_store(f"file://{tmp_path}/a")
    assert store is not None
    assert store.folder is None
    assert seen(store).name == f"file://{tmp_path}/a"
    assert PassageKVStore().statistics.remote is None
    for wrong in (7, tmp_path):
        with pytest.raises(InputError, match="remote= takes a URL"):
            PassageKVStore(remote=wrong)
    for seconds in (0, -1, float("nan"), "2"):
        with pytest.raises(InputError, match="remote_seconds"):
            PassageKVStore(remote="memory://", remote_seconds=seconds)  # type: ignore[arg-type]


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingDependencyError, match=r"nbce-rag\[remote\]"):
        PassageKVStore(remote="memory://")


# A server that speaks S3 over HTTP


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of a bucket of moto's server, where moto is installed."""
    moto: Any = pytest.importorskip("moto.server", reason="needs moto[server]")
    boto3: Any = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT", f"http://{host}:{port}")
        patch.setenv("AWS_ALLOW_HTTP", "1")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_REGION", "us-east-1")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="contexts")
        yield "s3://contexts/corpus"
    server.stop()


def test_over_http_every_bit_comes_back(bucket: str, slow_model: None, tmp_path: Path) -> None:
    first = PassageKVStore(remote=bucket)
    kept = [context(number, 20_000) for number in range(len(KEYS))]
    for key, packed in zip(KEYS, kept, strict=True):
        first.put(key, packed, LABEL)
    first.close()
    assert (seen(first).sent, seen(first).unsent) == (8, 0)
    second = PassageKVStore(folder=tmp_path, remote=bucket, remote_seconds=20.0)
    for _ in range(2):
        second.expect(dict.fromkeys(KEYS, 20_000))
        found = [second.get(key, LABEL, 20_000) for key in KEYS]
        assert all(one is None or equal(one, packed) for one, packed in zip(found, kept, strict=True))
    assert seen(second).hits == 8
    assert second.get(context_key("f", [99]), LABEL) is None
    assert seen(second).misses == 1
    lost = PassageKVStore(remote="s3://nowhere/corpus")
    assert lost.get(KEYS[0], LABEL) is None
    lost.put(KEYS[0], context(0), LABEL)
    with pytest.warns(NbceWarning, match="cannot be written"):
        lost.close()


def test_over_http_answers_are_the_same(bucket: str, make_nbce: Make, slow_model: None) -> None:
    url = f"{bucket}/answers"
    plain = make_nbce("gemma3", kv_store=False, max_tokens=6).answer(QUESTION, PASSAGES)
    for attempt in range(2):
        nbce = make_nbce("gemma3", kv_store=PassageKVStore(remote=url, remote_seconds=20.0), max_tokens=6)
        assert nbce.answer(QUESTION, PASSAGES).tokens == plain.tokens
        assert nbce.kv_store is not None
        nbce.kv_store.close()
        assert seen(nbce.kv_store).hits == 4 * attempt
