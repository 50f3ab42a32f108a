"""The folder of a KV store to a bucket and back: only what is missing there, checked, and on from a break.

Nothing is ever written half: objects and files appear whole under their names, so that what was shipped
before an interruption stays, and the next run goes on from there. Nothing else in either place is touched.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..errors import InputError
from .background import start
from .folder import KVFolder
from .format import DamagedContextError, parse_context
from .objects import Objects, reason_of

__all__ = ["Cargo", "Shipment", "cargo_to_pull", "cargo_to_push", "pull", "push"]

_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]+\.safetensors")
_MOST_BYTES = 4 << 30  # of an object
_AT_ONCE = 8
_LIST_SECONDS = 120.0
_CALL_SECONDS = 60.0
_SPEED = 2e5  # bytes a second that a call is given beyond that
_MOST_FAILURES = 8  # in all; then it is given up

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Cargo:
    """What is to be shipped.

    Attributes:
        missing: (name, bytes) of what the other side lacks, in order.
        present: how many contexts are there already.
    """

    missing: tuple[tuple[str, int], ...]
    present: int

    @property
    def nbytes(self) -> int:
        """Bytes to be shipped."""
        return sum(size for _, size in self.missing)


@dataclass(slots=True)
class Shipment:
    """What was shipped.

    Attributes:
        contexts, nbytes: how much.
        damaged: names of what is not what it should be, here (push) or there (pull), and was left out.
        failed: (name, why) of what could not be shipped.
    """

    contexts: int = 0
    nbytes: int = 0
    damaged: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def cargo_to_push(folder: KVFolder, objects: Objects) -> Cargo:
    """What the bucket lacks of a folder. An object of another size than the file counts as lacking.

    Raises:
        InputError: the bucket cannot be listed.
    """
    there = _listed(objects)
    here = {entry.path.name: entry.size for entry in folder.entries()}
    missing = {name: size for name, size in here.items() if there.get(name) != size}
    return Cargo(tuple(sorted(missing.items())), len(here) - len(missing))


def cargo_to_pull(folder: KVFolder, objects: Objects) -> Cargo:
    """What a folder lacks of a bucket.

    Raises:
        InputError: the bucket cannot be listed.
    """
    there = _listed(objects)
    here = {entry.path.name for entry in folder.entries()}
    missing = {name: size for name, size in there.items() if name not in here}
    return Cargo(tuple(sorted(missing.items())), len(there) - len(missing))


def push(folder: KVFolder, objects: Objects, cargo: Cargo, progress: Progress | None = None) -> Shipment:
    """Send what is missing there. Each file is checked before it goes.

    Args:
        folder: from here.
        objects: to there.
        cargo: `cargo_to_push`.
        progress: called with (contexts done, contexts in all, name of the last one).

    Raises:
        InputError: too many calls failed.
    """

    async def ship(name: str, size: int) -> int:
        data = await asyncio.to_thread(_checked_file, folder.path / name)
        await asyncio.wait_for(objects.put(name, data), _CALL_SECONDS + size / _SPEED)
        return len(data)

    return _ship(cargo, ship, objects.name, progress)


def pull(folder: KVFolder, objects: Objects, cargo: Cargo, progress: Progress | None = None) -> Shipment:
    """Bring what is missing here. Each file is checked before it is written.

    Args:
        folder: to here; whether it has room is not looked at.
        objects: from there.
        cargo: `cargo_to_pull`.
        progress: as in `push`.

    Raises:
        InputError: too many calls failed, or the folder cannot be written.
    """
    folder.sweep()

    async def ship(name: str, size: int) -> int:
        call = objects.get(name, _MOST_BYTES)
        arrival = await asyncio.wait_for(call, _CALL_SECONDS + size / _SPEED)
        if arrival is None:
            raise FileNotFoundError(name)
        await asyncio.to_thread(_write_checked, folder, name, arrival.data)
        return len(arrival.data)

    return _ship(cargo, ship, objects.name, progress)


def _ship(
    cargo: Cargo,
    ship: Callable[[str, int], Coroutine[Any, Any, int]],
    place: str,
    progress: Progress | None,
) -> Shipment:
    shipment = Shipment()
    outcomes: SimpleQueue[tuple[str, int | Exception]] = SimpleQueue()
    call = start(_work_off(cargo, ship, outcomes))
    try:
        for done in range(1, len(cargo.missing) + 1):
            name, outcome = outcomes.get()
            if isinstance(outcome, int):
                shipment.contexts += 1
                shipment.nbytes += outcome
            elif isinstance(outcome, InputError):
                raise outcome
            elif isinstance(outcome, ValueError):  # damaged, or larger than a context can be
                shipment.damaged.append(name)
            else:
                shipment.failed.append((name, reason_of(outcome)))
                if len(shipment.failed) >= _MOST_FAILURES:
                    raise InputError(
                        f"{place!r} failed {_MOST_FAILURES} times ({reason_of(outcome)}); "
                        f"{shipment.contexts} contexts were shipped. The same command goes on from there."
                    )
            if progress is not None:
                progress(done, len(cargo.missing), name)
    finally:
        call.cancel()
    return shipment


async def _work_off(
    cargo: Cargo,
    ship: Callable[[str, int], Coroutine[Any, Any, int]],
    outcomes: SimpleQueue[tuple[str, int | Exception]],
) -> None:
    waiting = iter(cargo.missing)

    async def work() -> None:
        for name, size in waiting:
            try:
                outcomes.put((name, await ship(name, size)))
            except Exception as error:
                outcomes.put((name, error))

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


def _checked_file(path: Path) -> bytes:
    """The bytes of a context's file; DamagedContextError if it is not sound or cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedContextError(f"cannot be read ({error.strerror})") from error
    _check(path.name, data)
    return data


def _write_checked(folder: KVFolder, name: str, data: bytes) -> None:
    _check(name, data)
    scratch = folder.scratch(name.partition(".")[0])
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, folder.path / name)
    except OSError as error:
        raise InputError(
            f"The KV store {str(folder.path)!r} cannot be written ({error.strerror})."
        ) from error
    finally:
        with suppress(OSError):
            scratch.unlink()


def _check(name: str, data: bytes) -> None:
    key, codec, _ = name.split(".")
    parse_context(data, {"key": key, "codec": codec})


def _listed(objects: Objects) -> dict[str, int]:
    """Bytes of the contexts in a bucket, by name; what a store did not make does not count."""

    async def collect() -> dict[str, int]:
        return {name: size async for name, size in objects.sizes() if _NAME.fullmatch(name)}

    call = start(collect())
    try:
        return call.result(_LIST_SECONDS)
    except Exception as error:
        raise InputError(
            f"{objects.name!r} cannot be listed ({reason_of(error, _LIST_SECONDS)}); look at the URL, and at "
            "credentials and endpoint in the environment."
        ) from None
    finally:
        call.cancel()
