"""Keys and values to a bucket and from there: all of it, only what is missing, nothing that is damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import run
from test_kv_disk import KEYS, LABEL, context, equal, files, filled

from nbce_rag.errors import InputError
from nbce_rag.kv import shipping
from nbce_rag.kv.folder import KVFolder
from nbce_rag.kv.store import PassageKVStore

pytest.importorskip("obstore")
from kv_remote_tools import FaultyStore

from nbce_rag.kv.objects import Objects


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with three contexts."""
    filled(tmp_path / "here").close()
    return tmp_path / "here"


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Path]:
    """Where `file://` leads to."""
    (tmp_path / "bucket").mkdir()
    yield tmp_path / "bucket"
    assert not list(tmp_path.rglob(".*.tmp"))


def names(folder: Path) -> list[str]:
    return [path.name for path in files(folder)]


def test_there_and_back(here: Path, bucket: Path, tmp_path: Path) -> None:
    (bucket / "readme.txt").write_text("mine")
    done = run("kv", str(here), "--push", f"file://{bucket}", "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"file://{bucket} lacks 3 contexts, " in done.stderr
    assert names(bucket) == []
    done = run("kv", str(here), "--push", f"file://{bucket}", "--json")
    assert done.exit_code == 0, done.output
    size = sum(path.stat().st_size for path in files(here))
    assert json.loads(done.stdout) == {
        "url": f"file://{bucket}",
        "missing": 3,
        "missing_bytes": size,
        "present": 0,
        "contexts": 3,
        "bytes": size,
        "damaged": [],
        "failed": {},
    }
    assert [path.read_bytes() for path in files(bucket)] == [path.read_bytes() for path in files(here)]
    done = run("kv", str(here), "--push", f"file://{bucket}")
    assert "lacks 0 contexts, 0 B; 3 are there already" in done.stderr
    assert "Sent 0 contexts, 0 B." in done.stdout
    other = tmp_path / "other" / "kv"
    for brought in (3, 0):
        done = run("kv", str(other), "--pull", f"file://{bucket}")
        assert done.exit_code == 0, done.output
        assert f"Brought {brought} contexts" in done.stdout
    store = PassageKVStore(folder=other)
    assert all(equal(store.get(KEYS[number], LABEL), context(number)) for number in range(3))
    assert names(other) == names(here)


def test_a_corpus_is_shipped_beside_its_index(tmp_path: Path, bucket: Path) -> None:
    """The folder of an index means the KV store in it, whether there is one already or not."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "passages.sqlite").write_bytes(b"")  # by the look of it
    filled(tmp_path / "one" / "kv").close()
    assert run("kv", str(tmp_path / "one"), "--push", f"file://{bucket}").exit_code == 0
    assert run("kv", str(tmp_path / "two"), "--pull", f"file://{bucket}").exit_code == 0
    assert names(tmp_path / "two" / "kv") == names(bucket)


def test_only_what_is_missing_goes(here: Path, bucket: Path) -> None:
    first = files(here)[0]
    (bucket / first.name).write_bytes(first.read_bytes())
    (bucket / files(here)[1].name).write_bytes(b"half a con")
    done = run("kv", str(here), "--push", f"file://{bucket}")
    assert "lacks 2 contexts" in done.stderr
    assert [path.read_bytes() for path in files(bucket)] == [path.read_bytes() for path in files(here)]


def test_what_is_damaged_is_left_out_and_named(here: Path, bucket: Path, tmp_path: Path) -> None:
    damaged, other, _ = files(here)
    damaged.write_bytes(b"not what it was")
    done = run("kv", str(here), "--push", f"file://{bucket}")
    assert done.exit_code == 2
    assert "Sent 2 contexts" in done.stdout
    assert f"left out: {damaged.name}: damaged" in done.stderr
    data = bytearray((bucket / other.name).read_bytes())
    data[-3] ^= 4
    (bucket / other.name).write_bytes(data)
    done = run("kv", str(tmp_path / "new"), "--pull", f"file://{bucket}")
    assert done.exit_code == 2
    assert f"left out: {other.name}: damaged" in done.stderr
    assert len(files(tmp_path / "new")) == 1


def test_one_context_under_the_name_of_another_is_left_out(here: Path, bucket: Path, tmp_path: Path) -> None:
    files(here)[0].rename(bucket / f"{KEYS[7]}.exact.safetensors")
    done = run("kv", str(tmp_path / "new"), "--pull", f"file://{bucket}")
    assert done.exit_code == 2
    assert "damaged" in done.stderr


def test_no_room_is_said_before_anything_comes(here: Path, bucket: Path, tmp_path: Path) -> None:
    assert run("kv", str(here), "--push", f"file://{bucket}").exit_code == 0
    new = tmp_path / "new"
    done = run("kv", str(new), "--pull", f"file://{bucket}", "--max-bytes", "2kB")
    assert done.exit_code == 2
    assert "the folder may hold 2 kB. Raise the limit (--max-bytes)" in done.stderr
    assert names(new) == []
    assert run("kv", str(new), "--pull", f"file://{bucket}", "--max-bytes", "1MB").exit_code == 0
    assert KVFolder(new).limit() == 10**6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--push", "file:///a", "--pull", "file:///a"], "Give one of --push URL and --pull URL"),
        (["--dry-run"], "Give one of --push URL and --pull URL"),
        (["--push", "file:///a", "--clear"], "Pruning is a command of its own"),
        (["--push", "file:///a", "--max-bytes", "1GB"], "Pruning is a command of its own"),
        (["--push", "nonsense"], "cannot be opened"),
        (["--pull", "s3://user:pa55word@"], "cannot be opened"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], message: str, here: Path) -> None:
    done = run("kv", str(here), *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "pa55word" not in done.output
    assert len(done.stderr.splitlines()) == 1


def test_nothing_to_push(tmp_path: Path, bucket: Path) -> None:
    done = run("kv", str(tmp_path / "none"), "--push", f"file://{bucket}")
    assert done.exit_code == 2
    assert "There is no KV store" in done.stderr


def test_nothing_to_pull(here: Path, tmp_path: Path) -> None:
    done = run("kv", str(here), "--pull", f"file://{tmp_path}/mistyped")
    assert done.exit_code == 2
    assert "There are no keys and values at" in done.stderr
    assert "mistyped" in done.stderr


@pytest.mark.parametrize("fault", ["5xx", "denied", "gone"])
def test_one_that_fails_ends_it_in_one_line(fault: str, here: Path) -> None:
    remote = FaultyStore(fault)
    with pytest.raises(InputError, match="cannot be listed"):
        shipping.cargo_to_push(KVFolder(here), Objects(remote))
    remote.fault = ""
    cargo = shipping.cargo_to_push(KVFolder(here), Objects(remote))
    remote.fault = fault
    shipment = shipping.push(KVFolder(here), Objects(remote), cargo)
    assert (shipment.contexts, len(shipment.failed)) == (0, 3)
    many = shipping.Cargo(cargo.missing * 5, 0)
    with pytest.raises(InputError, match=r"failed 8 times.*The same command goes on from there"):
        shipping.push(KVFolder(here), Objects(remote), many)
    remote.fault = ""
    assert shipping.push(KVFolder(here), Objects(remote), cargo).contexts == 3


def test_calls_have_time_limits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "_LIST_SECONDS", 0.1)
    monkeypatch.setattr(shipping, "_CALL_SECONDS", 0.1)
    remote = FaultyStore()
    cargo = shipping.cargo_to_push(KVFolder(here), Objects(remote))
    remote.fault = "hangs"
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be listed \(no answer within 0.1 s\)"):
        shipping.cargo_to_push(KVFolder(here), Objects(remote))
    shipment = shipping.push(KVFolder(here), Objects(remote), cargo)
    assert [reason for _, reason in shipment.failed] == ["no answer"] * 3
    assert time.monotonic() - begun < 5
    remote.fault = ""


def test_an_interruption_loses_nothing(here: Path, tmp_path: Path) -> None:
    """Interrupted after the first, then again: what was shipped stays, and the rest goes."""
    remote = FaultyStore()
    cargo = shipping.cargo_to_push(KVFolder(here), Objects(remote))

    def interrupt(done: int, total: int, name: str) -> None:
        assert total == 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shipping.push(KVFolder(here), Objects(remote), cargo, interrupt)
    left = shipping.cargo_to_push(KVFolder(here), Objects(remote))
    assert left.present >= 1
    shipping.push(KVFolder(here), Objects(remote), left)
    assert shipping.cargo_to_push(KVFolder(here), Objects(remote)).missing == ()
    new = KVFolder(tmp_path / "new")
    with pytest.raises(KeyboardInterrupt):
        shipping.pull(new, Objects(remote), shipping.cargo_to_pull(new, Objects(remote)), interrupt)
    assert shipping.pull(new, Objects(remote), shipping.cargo_to_pull(new, Objects(remote))).contexts < 3
    assert names(new.path) == names(here)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_nothing_comes_ends_at_once(here: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from kv_remote_tools import FaultyStore\n"
        "from nbce_rag.kv import objects\n"
        "from nbce_rag.cli import main\n"
        "class Slow(FaultyStore):\n"
        "    async def put_async(self, name, data, **options):\n"
        "        print('sending', flush=True); self.fault = 'hangs'; await self._meet('put', name)\n"
        "objects._open = lambda url, name: Slow()\n"
        f"sys.argv = ['nbce-rag', 'kv', {str(here)!r}, '--push', 's3://b/p']\n"
        "main.main()\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "sending\n"
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        assert time.monotonic() - begun < 15
    assert child.returncode == 130, errors
    assert "interrupted: what was shipped or removed stays so" in errors
