"""A store of obstore's whose calls are slow, torn, refused or never answered, as a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import MemoryStore

__all__ = ["FAULTS", "FaultyStore"]

FAULTS = ("5xx", "gone", "hangs", "torn", "denied", "blocks")


class _Result(NamedTuple):
    meta: dict[str, Any]
    data: bytes
    seconds: float

    async def bytes_async(self) -> bytes:
        await asyncio.sleep(self.seconds)
        return self.data


class FaultyStore:
    """Objects in memory, behind faults.

    Attributes:
        fault: one of `FAULTS`, "slow", or "" for none. "blocks" holds up the thread that makes calls.
        seconds: how long "slow" takes.
        calls: what was asked for: (method, name).
    """

    def __init__(self, fault: str = "", seconds: float = 0.2) -> None:
        self.objects = MemoryStore()
        self.fault = fault
        self.seconds = seconds
        self.calls: list[tuple[str, str]] = []
        self.released = threading.Event()

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self.objects.list())

    async def get_async(self, name: str) -> Any:
        await self._meet("get", name)
        result = await self.objects.get_async(name)
        data = bytes(await result.bytes_async())
        torn = data[: len(data) // 2] if self.fault == "torn" else data
        return _Result(dict(result.meta), torn, self.seconds if self.fault == "slow" else 0.0)

    async def put_async(self, name: str, data: bytes, **options: Any) -> Any:
        await self._meet("put", name)
        return await self.objects.put_async(name, data, **options)

    async def head_async(self, name: str) -> Any:
        await self._meet("head", name)
        return await self.objects.head_async(name)

    async def list(self) -> AsyncIterator[Any]:
        await self._meet("list", "")
        for chunk in self.objects.list():
            yield chunk

    async def _meet(self, method: str, name: str) -> None:
        self.calls.append((method, name))
        while self.fault == "hangs":
            await asyncio.sleep(0.01)
        if self.fault == "blocks":
            self.released.wait(30)
        if self.fault == "5xx":
            raise GenericError(
                "Server returned non-2xx status code: 503: https://host/x?X-Amz-Signature=5ecret"
            )
        if self.fault == "denied":
            raise PermissionDeniedError("AKIA5ECRET may not")
        if self.fault == "gone":
            raise FileNotFoundError("no bucket")
