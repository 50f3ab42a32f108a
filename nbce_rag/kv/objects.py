"""Objects by name in a bucket, a container or a folder far away, by obstore (extra `[remote]`).

Credentials come from the environment, as obstore finds them. No message repeats what obstore says: its texts
may hold URLs with signatures in them, so that a failure is told by its kind and HTTP status alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..errors import InputError, MissingDependencyError

__all__ = ["Arrival", "Objects", "object_name", "reason_of"]

_CALL_SECONDS = 60.0  # of a call, at most, whoever waits for it
_CONNECT_SECONDS = 5.0
_RETRIES = 2
_SECRET_FREE = ("file", "memory")  # schemes that take no options of a client
# obstore takes these from the environment only in part: endpoints, but not whether they may be without TLS.
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_STATUS = re.compile(r"status(?: code)?:? (\d{3})", re.IGNORECASE)


class Arrival(NamedTuple):
    """An object that came: its bytes, seconds until the first answer, and when the last byte was there (by
    `time.monotonic`)."""

    data: bytes
    latency: float
    end: float


class Objects:
    """Where objects lie.

    Args:
        remote: a URL as obstore takes it (s3://bucket/prefix, gs://, az://account/container, file:///folder,
            memory://), or a store of obstore's that its caller has made, with credentials of its own.

    Raises:
        InputError: no such place, or its configuration lacks something.
        MissingDependencyError: obstore is not installed.
    """

    def __init__(self, remote: Any) -> None:
        if isinstance(remote, str):
            self.name = _without_secrets(remote)
            self._store = _open(remote, self.name)
        elif hasattr(remote, "get_async") and hasattr(remote, "put_async"):
            self.name = type(remote).__name__
            self._store = remote
        else:
            raise InputError(
                f"remote= takes a URL such as 's3://bucket/prefix', or a store of obstore's, and no "
                f"{type(remote).__name__}."
            )

    async def head(self, name: str) -> int | None:
        """Bytes of an object, or None if there is none."""
        try:
            meta = await self._store.head_async(name)
        except FileNotFoundError:
            return None
        return int(meta["size"])

    async def get(self, name: str, most: int) -> Arrival | None:
        """An object, or None if there is none.

        Args:
            name: its name.
            most: bytes that it may have; a larger one is not brought.

        Raises:
            ValueError: it has more.
        """
        begun = time.monotonic()
        try:
            result = await self._store.get_async(name)
        except FileNotFoundError:
            return None
        latency = time.monotonic() - begun
        if (size := int(result.meta["size"])) > most:
            raise ValueError(f"{size} bytes, more than the {most} that it may have")
        data = bytes(await result.bytes_async())
        return Arrival(data, latency, time.monotonic())

    async def put(self, name: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        # In parts it would leave some behind in the bucket, unseen and paid for, when it is broken off.
        await self._store.put_async(name, data, use_multipart=False)

    async def sizes(self) -> AsyncIterator[tuple[str, int]]:
        """(name, bytes) of all objects."""
        async for chunk in self._store.list():
            for meta in chunk:
                yield str(meta["path"]), int(meta["size"])


def object_name(key: str, codec: str) -> str:
    """Name of the object, and of the file, of a context."""
    return f"{key}.{codec}.safetensors"


def reason_of(error: BaseException, seconds: float | None = None) -> str:
    """What a failure was, in a few words without anything that may be secret.

    Args:
        error: as it was raised.
        seconds: how long it was waited for.
    """
    if isinstance(error, (TimeoutError, asyncio.CancelledError)):
        return "no answer" if seconds is None else f"no answer within {seconds:g} s"
    name = type(error).__name__
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return "access is denied; look at the credentials in the environment"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or folder"
    status = _STATUS.search(str(error))
    return f"HTTP status {status[1]}" if status else name


def _open(url: str, name: str) -> Any:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise MissingDependencyError(
            "A remote KV store needs obstore: pip install 'nbce-rag[remote]'"
        ) from error
    scheme = url.partition(":")[0].lower()
    options: dict[str, Any] = {}
    if scheme == "file":
        options = {"mkdir": True}
    elif scheme not in _SECRET_FREE:
        options = {
            "client_options": {
                "timeout": timedelta(seconds=_CALL_SECONDS),
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                "allow_http": any(os.environ.get(name, "").lower() in ("1", "true") for name in _ALLOW_HTTP),
            },
            "retry_config": {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_CALL_SECONDS)},
        }
    try:
        return from_url(url, **options)
    except Exception as error:  # obstore's own kinds, ValueError, and what its builders raise
        first = str(error).split("\n", 1)[0]
        # What repeats the URL may repeat a password in it.
        reason = "this is no URL that obstore takes" if "URL" in first or "url" in first else first
    raise InputError(
        f"The remote KV store {name!r} cannot be opened ({reason}); write it like s3://bucket/prefix, "
        "gs://bucket/prefix, az://account/container/prefix or file:///folder, with what else it takes in "
        "the environment."
    )


def _without_secrets(url: str) -> str:
    """A URL without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "?"
    return f"{parts.scheme}://{place}{parts.path}" if parts.scheme else url.partition("?")[0]
