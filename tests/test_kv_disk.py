"""The disk tier: what comes back is what went in, or nothing; and no trouble on disk reaches the caller."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nbce_rag.errors import InputError, NbceWarning
from nbce_rag.kv import disk as kv_disk
from nbce_rag.kv import format as kv_format
from nbce_rag.kv.context import Packed, context_key, nbytes
from nbce_rag.kv.folder import KVFolder
from nbce_rag.kv.format import DamagedContextError, read_context, write_context
from nbce_rag.kv.store import PassageKVStore, resolve_store

LABEL = {"fingerprint": "f" * 64, "model": "m", "dtype": "float32"}
KEYS = [context_key("f", [number]) for number in range(8)]


def context(seed: int, tokens: int = 5, dtype: torch.dtype = torch.float32) -> Packed:
    """Three layers; the middle one is wider, the last one keeps two tokens only."""
    made = torch.Generator().manual_seed(seed)
    shapes = ((2, tokens, 4), (1, tokens, 8), (2, min(tokens, 2), 4))
    return {
        f"{layer}.{name}": torch.randn(shape, generator=made).to(dtype)
        for layer, shape in enumerate(shapes)
        for name in ("keys", "values")
    }


def equal(found: Packed | None, wanted: Packed) -> bool:
    return (
        found is not None
        and list(found) == list(wanted)
        and all(
            a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(found.values(), wanted.values(), strict=True)
        )
    )


def filled(folder: Path, count: int = 3, **options: Any) -> PassageKVStore:
    store = PassageKVStore(folder=folder, **options)
    for number in range(count):
        store.put(KEYS[number], context(number), LABEL)
        store.flush()
    return store


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 5, 40_000])  # the last is large enough to be mapped
def test_every_bit_comes_back(dtype: torch.dtype, tokens: int, tmp_path: Path) -> None:
    kept = context(1, tokens, dtype)
    first = PassageKVStore(folder=tmp_path / "new" / "kv")
    assert equal(first.put(KEYS[0], kept, LABEL), kept)
    first.close()
    second = PassageKVStore(folder=tmp_path / "new" / "kv")
    assert KEYS[0] in second
    assert KEYS[1] not in second
    assert equal(second.get(KEYS[0], LABEL), kept)
    assert second.nbytes == nbytes(kept)
    shutil.rmtree(tmp_path)  # in memory now
    assert equal(second.get(KEYS[0], LABEL), kept)
    assert (second.statistics.disk_hits, second.statistics.memory_hits) == (1, 1)
    assert (second.hits, second.misses) == (2, 0)


def test_contexts_without_tokens_come_back(tmp_path: Path) -> None:
    kept = {
        "0.keys": torch.zeros(2, 0, 4),
        "0.values": torch.zeros(2, 0, 4),
        "1.keys": torch.ones(2, 1, 4),
        "1.values": torch.ones(2, 1, 4),
    }
    PassageKVStore(folder=tmp_path).put(KEYS[0], kept, LABEL)
    store = PassageKVStore(0, tmp_path)
    while KEYS[0] not in store:
        time.sleep(0.01)
    assert equal(store.get(KEYS[0], LABEL), kept)


def test_writing_to_a_mapped_context_leaves_the_file(tmp_path: Path) -> None:
    kept = context(1, 40_000)
    filled(tmp_path, 0).put(KEYS[0], kept, LABEL)
    for _ in range(2):
        store = PassageKVStore(0, tmp_path)
        while KEYS[0] not in store:
            time.sleep(0.01)
        found = store.get(KEYS[0], LABEL)
        assert equal(found, kept)
        assert found is not None
        found["0.keys"].zero_()


def damage(name: str, path: Path) -> None:
    data = bytearray(path.read_bytes())
    if name == "truncated":
        data = data[: len(data) // 2]
    elif name == "empty":
        data = bytearray()
    elif name == "one bit":
        data[-3] ^= 4
    elif name == "a page of zeros":
        data[-64:] = bytes(64)
    elif name == "header":
        data[0] ^= 0xFF
    elif name == "metadata":
        data = data.replace(b'"model":"m"', b'"model":"n"')
    elif name == "longer":
        data += b"1234"
    elif name == "text":
        data = bytearray(b"not what it should be" * 9)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind", ["truncated", "empty", "one bit", "a page of zeros", "header", "metadata", "longer", "text"]
)
def test_a_damaged_file_is_dropped_and_made_anew(kind: str, tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    [path] = files(tmp_path)
    damage(kind, path)
    store = PassageKVStore(folder=tmp_path)
    assert store.get(KEYS[0], LABEL) is None
    assert store.statistics.damaged == 1
    assert files(tmp_path) == []
    store.put(KEYS[0], context(0), LABEL)
    store.close()
    assert equal(PassageKVStore(folder=tmp_path).get(KEYS[0], LABEL), context(0))


@pytest.mark.parametrize("flip", range(0, 1500, 37))
def test_no_flipped_byte_goes_unseen(flip: int, tmp_path: Path) -> None:
    """Wherever it is, header and padding included: the file is refused, or it says exactly the same."""
    path = tmp_path / "file"
    packed = context(0)
    write_context(path, packed, LABEL)
    data = bytearray(path.read_bytes())
    data[flip % len(data)] ^= 0x10
    path.write_bytes(data)
    try:
        found = read_context(path, LABEL)
    except DamagedContextError:
        return
    assert equal(found, packed)


@pytest.mark.parametrize("changed", ["fingerprint", "model", "dtype", "key"])
def test_a_file_of_something_else_is_dropped(changed: str, tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    key, label = KEYS[0], LABEL
    if changed == "key":
        key = KEYS[1]
        files(tmp_path)[0].rename(tmp_path / f"{key}.exact.safetensors")
    else:
        label = {**LABEL, changed: "other"}
    store = PassageKVStore(folder=tmp_path)
    assert store.get(key, label) is None
    assert files(tmp_path) == []


def test_a_file_of_another_version_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(kv_format._FORMAT, "version", "0")
        filled(tmp_path, 1).close()
    assert PassageKVStore(folder=tmp_path).get(KEYS[0], LABEL) is None
    assert files(tmp_path) == []


def test_codecs_do_not_read_each_other(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    rounded = PassageKVStore(folder=tmp_path, codec="int8")
    assert rounded.get(KEYS[0], LABEL) is None
    given = rounded.put(KEYS[0], context(0), LABEL)
    assert not equal(given, context(0))
    assert equal(rounded.get(KEYS[0]), given)
    rounded.close()
    assert len(files(tmp_path)) == 2
    assert equal(PassageKVStore(folder=tmp_path, codec="int8").get(KEYS[0], LABEL), given)
    assert equal(PassageKVStore(folder=tmp_path).get(KEYS[0], LABEL), context(0))


def test_the_folder_stays_within_its_bytes(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    size = files(tmp_path)[0].stat().st_size
    limit = 3 * size + size // 2
    store = PassageKVStore(folder=tmp_path, max_disk_bytes=limit)
    for number in range(1, 8):
        if number == 3:
            assert PassageKVStore(0, tmp_path).get(KEYS[0], LABEL) is not None  # used, so 1 goes before it
        store.put(KEYS[number], context(number), LABEL)
        store.flush()
        assert KVFolder(tmp_path).nbytes() <= limit
        if number == 3:
            assert [key in PassageKVStore(0, tmp_path) for key in KEYS[:4]] == [True, False, True, True]
    assert [path.name.split(".")[0] for path in files(tmp_path)] == sorted(KEYS[5:])
    assert store.statistics.evicted == 5


def test_a_context_larger_than_the_folder_is_not_written(tmp_path: Path) -> None:
    store = filled(tmp_path, 2, max_disk_bytes=100)
    assert files(tmp_path) == []
    assert store.get(KEYS[0]) is not None
    assert filled(tmp_path / "none", 2, max_disk_bytes=0).statistics.written == 0


def test_eviction_touches_nothing_else(tmp_path: Path) -> None:
    filled(tmp_path, 2).close()
    for name in ("notes.txt", "model.safetensors", f"{KEYS[0]}.txt", f".{KEYS[0]}.tmp"):
        (tmp_path / name).write_text("mine")
    folder = KVFolder(tmp_path)
    assert folder.evict(0) == 2
    assert folder.sweep() == 0
    assert len(list(tmp_path.iterdir())) == 5  # and the ledger


def test_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    folder = KVFolder(tmp_path)
    old, new = folder.scratch(KEYS[0]), folder.scratch(KEYS[0])
    for path in (old, new):
        path.write_bytes(b"half a context")
    os.utime(old, (1, 1))
    filled(tmp_path, 1).close()
    assert not old.exists()
    assert new.exists()  # somebody may be writing it


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def fail(kind: str) -> None:
        if kind == "full":
            monkeypatch.setattr(os, "fsync", full_disk)
        else:

            def refuse(path: Path, *arguments: Any) -> int:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))

            monkeypatch.setattr(kv_disk, "write_context", refuse)

    return fail


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_when_nothing_can_be_written_one_warning_says_so(
    kind: str, failing: Callable[[str], None], tmp_path: Path
) -> None:
    filled(tmp_path, 1).close()
    failing(kind)
    store = PassageKVStore(folder=tmp_path)
    for number in (1, 2):
        store.put(KEYS[number], context(number), LABEL)
    with pytest.warns(NbceWarning, match=r"cannot be written \((No space left|Permission denied)"):
        store.flush()
    for number in range(3):  # one from disk, two from memory
        assert equal(store.get(KEYS[number], LABEL), context(number))
    store.put(KEYS[3], context(3), LABEL)
    store.close()  # no second warning: the suite turns warnings into errors
    assert len(list(tmp_path.iterdir())) == 2  # the context that was there, the ledger, and no leftovers


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="is a file; give a folder"):
        PassageKVStore(folder=tmp_path / "file")
    store = PassageKVStore(folder=tmp_path / "file" / "below")
    store.put(KEYS[0], context(0), LABEL)
    with pytest.warns(NbceWarning, match="cannot be written"):
        store.close()
    assert equal(store.get(KEYS[0]), context(0))


def test_numbers_survive_the_process(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    store.get(KEYS[0])
    store.get(KEYS[5])
    store.close()
    store.close()
    other = PassageKVStore(folder=tmp_path)
    other.get(KEYS[1], LABEL)
    del other  # counts without being closed
    wanted = {"memory_hits": 1, "memory_misses": 2, "disk_hits": 1, "disk_misses": 1, "written": 2}
    assert KVFolder(tmp_path).counts() == wanted


def test_a_damaged_ledger_is_made_anew(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    (tmp_path / "ledger.sqlite").write_bytes(b"no database at all" * 100)
    folder = KVFolder(tmp_path)
    assert folder.counts() == {}
    assert folder.limit() == 16 << 30
    folder.set_limit(7)
    assert folder.counts() == {"max_bytes": 7}
    assert equal(PassageKVStore(folder=tmp_path).get(KEYS[0], LABEL), context(0))


def test_a_locked_ledger_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1).close()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout: connect(path, timeout=0.01))
    with connect(tmp_path / "ledger.sqlite") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        store = PassageKVStore(folder=tmp_path, max_disk_bytes=10**9)
        assert store.get(KEYS[0], LABEL) is not None
        store.close()
    holder.close()
    assert KVFolder(tmp_path).counts()["written"] == 1


def test_the_limit_is_kept_in_the_folder(tmp_path: Path) -> None:
    assert PassageKVStore(folder=tmp_path).max_disk_bytes == 16 << 30
    KVFolder(tmp_path).set_limit(123)
    KVFolder(tmp_path).add({"max_bytes": 0, "written": 2})
    assert PassageKVStore(folder=tmp_path).max_disk_bytes == 123
    assert PassageKVStore(folder=tmp_path, max_disk_bytes=5).max_disk_bytes == 5
    assert PassageKVStore().max_disk_bytes == 0


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_disk, "_WAITING_BYTES", 1)
    waiting: list[int] = []
    original = write_context

    def slow(path: Path, *arguments: Any) -> int:
        assert store._disk is not None
        waiting.append(len(store._disk._waiting))
        return original(path, *arguments)

    monkeypatch.setattr(kv_disk, "write_context", slow)
    store = PassageKVStore(0, tmp_path)
    for number in range(8):
        store.put(KEYS[number], context(number), LABEL)
    store.close()
    assert waiting == [1] * 8  # nothing but what is being written
    assert len(files(tmp_path)) == 8


def test_stores_by_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    assert resolve_store(False) is None
    own = PassageKVStore(0)
    assert resolve_store(own) is own
    folders = [resolve_store(given) for given in (None, True, tmp_path, str(tmp_path))]
    assert [store and store.folder for store in folders] == [
        None,
        tmp_path / "cache" / "kv",
        tmp_path,
        tmp_path,
    ]
    with pytest.raises(InputError, match="kv_store=7 is no KV store"):
        resolve_store(7)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_disk_bytes=-1 is negative"):
        PassageKVStore(folder=tmp_path, max_disk_bytes=-1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_child_writes_and_flushes(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)  # its writer is at work here
    assert store._disk is not None
    read, write = os.pipe()
    with store._lock, store._disk._lock:  # held by some thread while another forks
        child = os.fork()
        if child == 0:
            store.put(KEYS[1], context(1), LABEL)
            store.flush()
            store.close()
            os.write(write, b"done")
            os._exit(0)
    os.close(write)
    end = time.monotonic() + 30
    while time.monotonic() < end and os.waitpid(child, os.WNOHANG)[0] == 0:
        time.sleep(0.05)
    if time.monotonic() >= end:
        os.kill(child, 9)
        os.waitpid(child, 0)
    with os.fdopen(read) as stream:
        assert stream.read() == "done"
    assert equal(store.get(KEYS[1], LABEL), context(1))
    store.put(KEYS[2], context(2), LABEL)
    store.close()
    assert len(files(tmp_path)) == 3
    assert KVFolder(tmp_path).counts()["written"] == 3


def test_nothing_in_the_folder_leads_out_of_it(tmp_path: Path) -> None:
    folder, outside = tmp_path / "kv", tmp_path / "outside"
    filled(folder, 2).close()
    outside.mkdir()
    (folder / "ledger.sqlite").rename(outside / "ledger.sqlite")
    (folder / "ledger.sqlite").symlink_to(outside / "ledger.sqlite")
    one, two = files(folder)
    two.rename(outside / two.name)
    two.symlink_to(outside / two.name)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in outside.iterdir()}
    store = PassageKVStore(0, folder)
    found = [store.get(key, LABEL) for key in KEYS[:2]]
    assert [equal(packed, context(number)) for number, packed in enumerate(found)].count(True) == 1
    store.put(KEYS[3], context(3), LABEL)
    store.close()
    KVFolder(folder).set_limit(10**6)
    KVFolder(folder).evict(0)
    assert before == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in outside.iterdir()}
    assert not one.exists()


def test_a_file_of_the_ledgers_name_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("my accounts of 2024, which are no database" * 100)
    filled(tmp_path, 1).close()
    assert KVFolder(tmp_path).counts()["written"] == 1
    assert "my accounts" in (tmp_path / "ledger.sqlite.damaged").read_text()


@pytest.mark.parametrize("size", ["1GB", -1, 1.5, None, True, 2**63, float("nan")])
def test_what_is_no_size(tmp_path: Path, size: Any) -> None:
    with pytest.raises(InputError, match="max_bytes"):
        PassageKVStore(size)
    with pytest.raises(InputError, match="max_bytes"):
        KVFolder(tmp_path).set_limit(size)
    if size is not None:
        with pytest.raises(InputError, match="max_disk_bytes"):
            PassageKVStore(folder=tmp_path, max_disk_bytes=size)


@pytest.mark.parametrize("layout", ["[]", "{bad", '{"a": 7}', '{"a": 0, "b": 0, "c": 0, "d": 0}', "null"])
def test_a_layout_that_does_not_fit_is_damage(tmp_path: Path, layout: str) -> None:
    from safetensors.torch import save

    groups = {"0": torch.zeros(2, 3)}
    metadata = {**kv_format._FORMAT, **LABEL, kv_format._LAYOUT: layout}
    metadata[kv_format._CHECKSUM] = kv_format._checksum(metadata, groups)
    (tmp_path / "a").write_bytes(save(groups, metadata))
    with pytest.raises(DamagedContextError):
        read_context(tmp_path / "a", LABEL)
